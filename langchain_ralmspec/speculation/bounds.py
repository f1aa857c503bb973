"""What speculation can win at best, from measured costs (RaLMSpec section 4)."""

from __future__ import annotations

from dataclasses import dataclass

_LONGEST_STRIDE = 64


@dataclass(frozen=True, slots=True)
class Bounds:
    """Costs of one workload, in seconds, and the speed-ups that they allow.

    Attributes:
        generation: generating one stride, the paper's *a*.
        retrieval: one retrieval of the sequential loop, the paper's *b*.
        guess: what a guess costs; 0 when no query is embedded for it.
        verification_base: *b0*, where verifying s guesses costs b0 + b1·s.
        verification_per_query: *b1* of the same.
        guess_accuracy: probability that a guess is right, *γ*.
    """

    generation: float
    retrieval: float
    guess: float
    verification_base: float
    verification_per_query: float
    guess_accuracy: float

    @property
    def ceiling(self) -> float:
        """1 + b/a: the speed-up if retrieval cost nothing."""
        return 1 + self.retrieval / self.generation

    @property
    def attainable(self) -> float:
        """Speed-up of the best fixed speculation stride, verifying synchronously.

        Never under 1, because not to speculate is a choice.
        """
        return max(1.0, *map(self._speedup, range(1, _LONGEST_STRIDE + 1)))

    def _speedup(self, stride: int) -> float:
        """E(s)·(a + b) / (s·a + b0 + b1·s), with E(s) = (1 - γ^s) / (1 - γ)."""
        verified = sum(self.guess_accuracy**i for i in range(stride))
        seconds = (
            stride * (self.generation + self.guess)
            + self.verification_base
            + stride * self.verification_per_query
        )
        return verified * (self.generation + self.retrieval) / seconds
