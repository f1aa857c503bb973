"""Whether a store's documents are still those that they were."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

_numbers = itertools.count()  # one for all: threads cannot give one to two states


class Version:
    """Has another number whenever documents are others than at the last look.

    Objects are told apart by identity, which changes where a document is replaced by
    one of the same id. They are held until the next look, so that no new object can be
    in the place of an old one.
    """

    def __init__(self) -> None:
        self._seen: tuple[int, tuple[int, ...], Sequence[object]] | None = None

    def of(self, counts: tuple[int, ...], objects: Sequence[object]) -> int:
        """The number for what is stored now.

        Args:
            counts: of what is changed in place.
            objects: of which others are put in their places, in order.
        """
        seen = self._seen
        if (
            seen is None
            or seen[1] != counts
            or len(seen[2]) != len(objects)
            or not all(map(operator.is_, seen[2], objects))
        ):
            self._seen = seen = next(_numbers), counts, objects
        return seen[0]
