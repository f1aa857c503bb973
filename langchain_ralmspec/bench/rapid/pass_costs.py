"""What passes of the target cost, where some sizes are known."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PassCosts:
    """*v(n)*: the cost of a pass over n tokens, on lines between what is known.

    Nothing is believed beforehand, unlike by the scheduler: a benchmark judges it.

    Attributes:
        known: costs by size, one at least.
    """

    known: dict[int, float]

    @property
    def sizes(self) -> list[int]:
        """The sizes that are known, ascending."""
        return sorted(self.known)

    def __call__(self, n_tokens: int) -> float:
        """The cost; beyond the largest size the last slope goes on, if it rises."""
        if n_tokens in self.known:
            return self.known[n_tokens]
        sizes = self.sizes
        above = bisect_right(sizes, n_tokens)
        if above == 0 or len(sizes) == 1:
            return self.known[sizes[0]]
        low, high = sizes[min(above, len(sizes) - 1) - 1 :][:2]
        slope = (self.known[high] - self.known[low]) / (high - low)
        if above == len(sizes):
            return self.known[high] + max(0.0, slope) * (n_tokens - high)
        return self.known[low] + slope * (n_tokens - low)
