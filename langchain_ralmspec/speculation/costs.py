"""Measured costs of calls: means and lines that forget slowly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds to verify ``s`` queries in one call: *base + per_query·s*."""

    base: float
    per_query: float

    def __call__(self, n_queries: float) -> float:
        """Seconds of a call with ``n_queries`` queries."""
        return self.base + self.per_query * n_queries


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


_WINDOW = 48  # values of a mean that count


class Mean:
    """A mean over the last values."""

    def __init__(self) -> None:
        self._n = 0
        self.value: float | None = None

    def add(self, value: float) -> None:
        """Add a value."""
        self._n = min(self._n + 1, _WINDOW)
        before = self.value if self.value is not None else value
        self.value = before + (value - before) / self._n


class SpentMean:
    """What the last calls took on average."""

    def __init__(self) -> None:
        self._seconds, self._waiting = Mean(), Mean()

    def add(self, spent: Spent) -> None:
        """Add a call."""
        self._seconds.add(spent.seconds)
        self._waiting.add(spent.waiting)

    @property
    def seconds(self) -> float | None:
        """Seconds of a call; None before the first."""
        return self._seconds.value

    @property
    def waiting(self) -> float:
        """Share of these in which the calling thread had nothing to do."""
        return (self._waiting.value or 0.0) / (self._seconds.value or 1.0)


class RunningLine:
    """A least-squares line through points, in which older points count less."""

    def __init__(self, forget: float = 0.04) -> None:
        """Start without points; with each, older ones lose the share ``forget``."""
        self._keep = 1.0 - forget
        self._sums = [0.0] * 5  # of w, w·x, w·y, w·x², w·x·y
        self.largest = 0

    def add(self, n_queries: int, seconds: float) -> None:
        """Add a point."""
        x, y = float(n_queries), seconds
        terms = (1.0, x, y, x * x, x * y)
        pairs = zip(self._sums, terms, strict=True)
        self._sums = [self._keep * total + term for total, term in pairs]
        self.largest = max(self.largest, n_queries)

    def fade(self, n_points: int) -> float:
        """Age all points a quarter as much as ``n_points`` newer points would.

        What is not measured any more is forgotten more slowly than what is. Returns
        the weight that is left, in points.
        """
        keep = self._keep ** (n_points / 4)
        self._sums = [keep * total for total in self._sums]
        return self._sums[0]

    @property
    def variance(self) -> float:
        """Variance of the sizes; 0, but for rounding, where all are the same."""
        weight, x, _, xx, _ = self._sums
        variance = xx / weight - (x / weight) ** 2 if weight else 0.0
        return variance if variance > 1e-9 else 0.0  # noqa: PLR2004

    @property
    def line(self) -> Line | None:
        """The line; None without points."""
        weight, x, y, xx, xy = self._sums
        if not weight:
            return None
        mean_x, mean_y = x / weight, y / weight
        if not self.variance:
            return Line(mean_y, 0.0)
        slope = max(0.0, (xy / weight - mean_x * mean_y) / self.variance)
        base = mean_y - slope * mean_x
        if base < 0:  # through the origin, then
            return Line(0.0, xy / xx)
        return Line(base, slope)


class CallCosts:
    """*b(s)* of one kind of call, a line from two queries on.

    A lone query may take another route than a batch: an exact search reads its matrix
    for a lone query and multiplies it for a batch. So the cost of a lone query says
    nothing about how fast the cost of a batch grows.
    """

    def __init__(self) -> None:
        self._lone, self._batches = RunningLine(), RunningLine()

    @property
    def largest(self) -> int:
        """The largest call so far; 1 without any."""
        return max(1, self._batches.largest)

    def add(self, n_queries: int, seconds: float) -> None:
        """Add the cost of a call with ``n_queries`` queries."""
        (self._lone if n_queries == 1 else self._batches).add(n_queries, seconds)

    def fade(self, n_calls: int) -> float:
        """Forget slowly (see :meth:`RunningLine.fade`); returns the weight left."""
        return self._lone.fade(n_calls) + self._batches.fade(n_calls)

    def __call__(self, n_queries: float, once: float) -> float:
        """Seconds of a call, whose mean number of queries need not be whole.

        Batches are taken for as cheap as one query until one is tried, so that one is.
        Where batches of a single size were tried, larger ones are taken for as cheap.
        Where no lone query was measured, ``once`` is its seconds.
        """
        alone, line = self._lone.line, self._batches.line
        one = alone(1) if alone else once
        if line is None:
            return one
        one = min(one, line(2))  # else one slow lone query would be the last
        if n_queries == 1:
            return one
        if n_queries < 2:  # noqa: PLR2004  on average: one at times, and more at others
            return one + (n_queries - 1) * (self(2, once) - one)
        largest = self._batches.largest
        if self._batches.variance or n_queries >= largest:
            return line(n_queries)
        share = (n_queries - 1) / (largest - 1)
        return one + share * (line(largest) - one)
