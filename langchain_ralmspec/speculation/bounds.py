"""What speculation can win at best, from measured costs (RaLMSpec section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.speculation.plan import GuessChances, call_seconds

if TYPE_CHECKING:
    from langchain_ralmspec.speculation.costs import Line

_MAX_STRIDE = 64  # the scheduler's longest


@dataclass(frozen=True, slots=True)
class Bounds:
    """Costs of one workload, in seconds, and the speed-ups that they allow.

    Attributes:
        generation: generating one step, the paper's *a*.
        retrieval: one retrieval of the sequential loop, the paper's *b(1)*.
        guess: what a guess costs; 0 when no query is embedded for it.
        verification: *b(s)*.
        guess_accuracy: probability that a guess is right, *γ*.
        max_in_flight: calls that may be out while the model writes; 0 when
            verification is synchronous.
    """

    generation: float
    retrieval: float
    guess: float
    verification: Line
    guess_accuracy: float
    max_in_flight: int = 0

    @property
    def ceiling(self) -> float:
        """1 + b/a: the speed-up if retrieval cost nothing."""
        return 1 + self.retrieval / self.generation

    @property
    def attainable(self) -> float:
        """Speed-up of the best fixed plan, were its costs always their mean.

        Never under 1, because not to speculate is a choice.
        """
        strides = range(1, _MAX_STRIDE + 1)
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
