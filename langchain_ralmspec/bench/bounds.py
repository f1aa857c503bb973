"""What speculation could reach at best, with the costs of one workload."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from langchain_ralmspec.speculation.costs import Line, RunningLine
from langchain_ralmspec.speculation.plan import STRIDES, GuessChances, call_seconds


def fitted(points: Iterable[tuple[int, float]]) -> Line:
    """Least squares through ``(queries, seconds)``; neither term is negative.

    Points of one size alone, which say nothing about a slope, give a flat line.
    Raises ValueError without points.
    """
    running = RunningLine(forget=0.0)
    for n_queries, seconds in points:
        running.add(n_queries, seconds)
    line = running.line
    if line is None:
        msg = "a line needs at least one point"
        raise ValueError(msg)
    return line


@dataclass(frozen=True, slots=True)
class Bounds:
    """Costs of one workload, and the speed-ups that they allow (RaLMSpec section 4)."""

    generation: float  # seconds of writing one step, the paper's a
    retrieval: float  # seconds of a retrieval of the sequential loop, the paper's b(1)
    guess: float  # seconds of a guess; 0 when no query is embedded for it
    verification: Line  # b(s)
    guess_accuracy: float  # probability that a guess is right, γ
    max_in_flight: int = 0  # calls that may be out while the model writes

    @property
    def ceiling(self) -> float:
        """1 + b/a: the speed-up if retrieval cost nothing."""
        return 1 + self.retrieval / self.generation

    @property
    def attainable(self) -> float:
        """Speed-up of the best fixed plan, were its costs always their mean.

        Never under 1, because not to speculate is a choice.
        """
        strides = range(1, STRIDES[-1] + 1)
        flights = range(self.max_in_flight + 1)
        return max(1.0, *(self._speedup(s, d) for s in strides for d in flights))

    def _speedup(self, stride: int, in_flight: int) -> float:
        """E(s)·(a + b(1)) / T(s, d)."""
        chances = GuessChances(self.guess_accuracy)
        seconds = call_seconds(
            chances,
            stride,
            in_flight,
            step=self.generation + self.guess,
            verification=self.verification(stride),
        )
        step = self.generation + self.retrieval
        return chances.kept(stride) * step / seconds
