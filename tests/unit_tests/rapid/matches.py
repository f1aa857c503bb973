"""Matches of look-up, by a look at every place and every length."""

from collections.abc import Sequence


def agreement(prefix: Sequence[int], place: int, most: int = 32) -> int:
    """Of the pieces that end here and there, the one that agrees best."""

    def agreeing(size: int) -> int:
        here, there = prefix[place - size : place], prefix[len(prefix) - size :]
        return sum(
            1 if one == other else -2 for one, other in zip(here, there, strict=True)
        )

    return max(agreeing(size) for size in range(min(place, most) + 1))


def place_of(prefix: Sequence[int], n: int, places: int = 128) -> int | None:
    """Where the best match is, by a look at every place."""
    ends = [
        place
        for place in range(3, len(prefix))
        if prefix[place - 3 : place] == prefix[len(prefix) - 3 :]
    ]
    return max(
        ends[-places:],
        key=lambda end: (agreement(prefix, end), min(n, len(prefix) - end), end),
        default=None,
    )
