"""Costs learnt while they are paid: means and lines that forget slowly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds to verify ``s`` queries in one call: *b(s) = b0 + b1·s*.

    Attributes:
        base: *b0*, seconds.
        per_query: *b1*, seconds.
    """

    base: float
    per_query: float

    def __call__(self, n_queries: float) -> float:
        """Seconds of a call with so many queries."""
        return self.base + self.per_query * n_queries

    @classmethod
    def fit(cls, points: Iterable[tuple[int, float]]) -> Line:
        """Least squares through ``(queries, seconds)``; neither term is negative.

        Points of one size alone, which say nothing about a slope, give a flat line.

        Raises:
            ValueError: there are no points.
        """
        running = RunningLine(forget=0.0)
        for n_queries, seconds in points:
            running.add(n_queries, seconds)
        line = running.line
        if line is None:
            msg = "a line needs at least one point"
            raise ValueError(msg)
        return line


class Mean:
    """A mean over about the last ``window`` values."""

    def __init__(self, window: int = 48) -> None:
        """Start without values."""
        self._window = window
        self._n = 0
        self.value: float | None = None

    def add(self, value: float) -> None:
        """Take a value in."""
        self._n = min(self._n + 1, self._window)
        before = self.value if self.value is not None else value
        self.value = before + (value - before) / self._n


class RunningLine:
    """A least-squares line over points of which older ones count less."""

    def __init__(self, forget: float = 0.04) -> None:
        """Start without points.

        Args:
            forget: share of its weight that every point loses with each newer one.
        """
        self._keep = 1.0 - forget
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # of w, w·x, w·y, w·x², w·x·y
        self.largest = 0

    def add(self, n_queries: int, seconds: float) -> None:
        """Take a point in."""
        x, y = float(n_queries), seconds
        self._sums = tuple(  # type: ignore[assignment]  # five stay five
            self._keep * total + term
            for total, term in zip(self._sums, (1.0, x, y, x * x, x * y), strict=True)
        )
        self.largest = max(self.largest, n_queries)

    def fade(self, n_points: int) -> float:
        """Let all points lose as much as ``n_points`` newer ones would cost them.

        A quarter of that: what is left alone is forgotten more slowly.

        Returns:
            The weight that is left, in points.
        """
        keep = self._keep ** (n_points / 4)
        self._sums = tuple(keep * total for total in self._sums)
        return self._sums[0]

    @property
    def line(self) -> Line | None:
        """The line; None without points."""
        weight, x, y, xx, xy = self._sums
        if not weight:
            return None
        mean_x, mean_y = x / weight, y / weight
        variance = xx / weight - mean_x**2
        if variance < 1e-9:  # noqa: PLR2004  one size only, up to rounding
            return Line(mean_y, 0.0)
        slope = max(0.0, (xy / weight - mean_x * mean_y) / variance)
        base = mean_y - slope * mean_x
        if base < 0:  # through the origin, then
            return Line(0.0, xy / xx)
        return Line(base, slope)
