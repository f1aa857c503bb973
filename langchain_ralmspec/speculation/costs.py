"""What calls cost: seconds of a call of n items, learnt from calls made anyway.

One rule of forgetting holds for everything that is measured: with each further event,
what was measured before loses the share ``FORGET`` of its weight, and what is left with
less than that share of a single measurement counts as unknown, so it is tried again.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# A mean over about the last 100 events: 50 are too few to tell a guess that is right in
# 85 % of cases from one in 75 %, and what has changed is noticed within some answers.
FORGET = 0.01


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds to verify ``s`` queries in one call: *base + per_query·s*."""

    base: float
    per_query: float

    def __call__(self, n_queries: float) -> float:
        """Seconds of a call with ``n_queries`` queries."""
        return self.base + self.per_query * n_queries


def fitted(
    points: Iterable[tuple[int, float]], weights: Iterable[float] | None = None
) -> Line:
    """Least squares through ``(queries, seconds)``; neither term is negative.

    Points of one size alone, which say nothing about a slope, give a flat line.

    Args:
        points: one at least.
        weights: of the points, above 0; by default all count the same.

    Raises:
        ValueError: there are no points.
    """
    points = list(points)
    if not points:
        msg = "a line needs at least one point"
        raise ValueError(msg)
    given = [1.0] * len(points) if weights is None else list(weights)
    total = sum(given)
    weighed = list(zip(given, points, strict=True))
    x = sum(weight * n for weight, (n, _) in weighed) / total
    y = sum(weight * seconds for weight, (_, seconds) in weighed) / total
    if len({n for n, _ in points}) == 1:
        return Line(y, 0.0)
    spread = sum(weight * (n - x) ** 2 for weight, (n, _) in weighed)
    rise = sum(weight * (n - x) * (seconds - y) for weight, (n, seconds) in weighed)
    slope = max(0.0, rise / spread)
    if y < slope * x:  # through the origin, then
        squares = sum(weight * n**2 for weight, (n, _) in weighed)
        products = sum(weight * n * seconds for weight, (n, seconds) in weighed)
        return Line(0.0, products / squares)
    return Line(y - slope * x, slope)


@dataclass(slots=True)
class Spent:
    """Seconds that something took.

    Attributes:
        seconds: all of them.
        waiting: of these, those in which the thread that asked had nothing to do.
    """

    seconds: float = 0.0
    waiting: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.waiting + other.waiting)


@contextmanager
def spending() -> Iterator[Spent]:
    """What a block takes, known when it is over."""
    spent, start, busy = Spent(), time.perf_counter(), time.thread_time()
    yield spent
    spent.seconds = time.perf_counter() - start
    computing = time.thread_time() - busy
    spent.waiting = max(0.0, spent.seconds - computing)


@dataclass(slots=True)
class _Mean:
    """What calls of one size took on average."""

    weight: float = 0.0  # calls that it is worth
    seconds: float = 0.0
    waiting: float = 0.0

    def add(self, spent: Spent) -> None:
        self.weight += 1
        self.seconds += (spent.seconds - self.seconds) / self.weight
        self.waiting += (spent.waiting - self.waiting) / self.weight


class Cost:
    """Seconds of a call of n items: on lines between the sizes that were measured.

    It never falls: where a larger call seems to take less, both are taken for their
    mean. Beyond the largest size it goes on as the calls of two and more do, and is
    flat while these were all of one size, so that a larger one is tried. (Calls of one
    may take another route than others: an exact search reads its matrix for a lone
    query and multiplies it for a batch.)
    """

    def __init__(self) -> None:
        """Start without measurements."""
        self._sizes: dict[int, _Mean] = {}
        self._knots: tuple[list[int], list[float]] | None = None  # kept until changed
        self._slope = 0.0  # seconds of each item beyond the largest knot

    def add(self, n: int, spent: Spent | float) -> None:
        """Add a call of ``n`` items; a number is seconds without any waiting."""
        spent = spent if isinstance(spent, Spent) else Spent(spent)
        self.fade()
        for size, mean in list(self._sizes.items()):
            if size < n and mean.seconds > 2 * spent.seconds:
                # No larger call is faster: that was a slow moment, or all is faster
                # now. Were it believed, larger calls would seem free, and nothing
                # would time the smaller ones again.
                del self._sizes[size]
        self._sizes.setdefault(n, _Mean()).add(spent)

    def fade(self, n_events: int = 1) -> None:
        """Forget as much as with so many further events."""
        self._knots = None
        for size, mean in list(self._sizes.items()):
            mean.weight *= (1 - FORGET) ** n_events
            if mean.weight < FORGET:
                del self._sizes[size]

    def knows(self, n: int) -> bool:
        """Whether calls of this very size were measured lately."""
        return n in self._sizes

    @property
    def largest(self) -> int:
        """The largest size measured lately; 0 without any."""
        return max(self._sizes, default=0)

    @property
    def waiting(self) -> float:
        """Share of the seconds in which the calling thread had nothing to do."""
        means = self._sizes.values()
        seconds = sum(mean.weight * mean.seconds for mean in means)
        waiting = sum(mean.weight * mean.waiting for mean in means)
        return waiting / seconds if seconds else 0.0

    def __call__(self, n: float, once: float | None = None) -> float | None:
        """Seconds of a call, whose mean size need not be whole.

        Args:
            n: items.
            once: seconds of a call of one, where none was measured.

        Returns:
            None where nothing is known.
        """
        sizes, seconds = self._curve()
        if not sizes:
            return once
        if n > sizes[-1]:
            return seconds[-1] + self._slope * (n - sizes[-1])
        right = bisect_left(sizes, n)
        high, end = sizes[right], seconds[right]
        if right:
            low, start = sizes[right - 1], seconds[right - 1]
        elif once is None or high == 1:
            return end
        else:
            low, start = 1, min(once, end)
        return start + (end - start) * max(0.0, n - low) / (high - low)

    def _curve(self) -> tuple[list[int], list[float]]:
        """The sizes that were measured, and seconds that never fall."""
        if self._knots is None:
            pools = _pooled(sorted(self._sizes.items()))
            self._knots = [n for n, _ in pools], [seconds for _, seconds in pools]
            batches = [(n, m) for n, m in self._sizes.items() if n > 1]
            self._slope = 0.0
            if batches:
                points = [(n, mean.seconds) for n, mean in batches]
                line = fitted(points, [mean.weight for _, mean in batches])
                self._slope = line.per_query
        return self._knots


def _pooled(means: Iterable[tuple[int, _Mean]]) -> list[tuple[int, float]]:
    """Seconds by ascending size; neighbours that fall have their weighted mean."""
    pools: list[tuple[list[int], float, float]] = []  # sizes, weight, seconds
    for size, mean in means:
        sizes, weight, seconds = [size], mean.weight, mean.seconds
        while pools and pools[-1][2] > seconds:
            more, other, slower = pools.pop()
            both = weight + other
            seconds = (weight * seconds + other * slower) / both
            sizes, weight = [*more, *sizes], both
        pools.append((sizes, weight, seconds))
    return [(size, seconds) for sizes, _, seconds in pools for size in sizes]
