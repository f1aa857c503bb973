"""Scans with rounded numbers, and the rows that they cannot rule out.

A scan by matrix products gives every row a score that is better the lower it is, and
off by as much as rounding may. The rows that may all the same be among the nearest are
*candidates*: the exact numbers, computed for those alone, decide.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

GROUPS = 2048
"""Groups of rows in a block whose lowest scores bound the best ones from above."""

FLOAT32_ERROR = 1e-4
"""Of a product summed in float32, relative to the product of the lengths, at least."""

_FLOAT32_ROUNDING = 2.0**-23  # of a sum, at every number added
_BFLOAT16_ROUNDING = 2.0**-8  # of a number, relative: 8 bits are kept
_TRIALS = 3


class Candidates(ABC):
    """Rows that may be among the nearest of one query.

    Attributes:
        width: of the nearest that are wanted.
        rows: their numbers.
        scores: one each.
    """

    def __init__(self, width: int) -> None:
        """Start without rows."""
        self.width = width
        self.rows = np.empty(0, np.int64)
        self.scores = np.empty(0, np.float32)

    @abstractmethod
    def reach(self, score: float) -> float:
        """Highest score of a row that may be as near as one with this score."""

    def limit(self, lowest: NDArray[np.float32]) -> float:
        """No candidate has a higher score, given the lowest scores of some groups."""
        known = np.concatenate([self.scores, lowest])
        if len(known) < self.width:
            return np.inf
        return self.reach(float(np.partition(known, self.width - 1)[self.width - 1]))

    def add(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Take rows of a block in; those that are too far now go."""
        self.rows = np.concatenate([self.rows, rows])
        self.scores = np.concatenate([self.scores, scores])
        kept = self.scores <= self.limit(np.empty(0, np.float32))
        self.rows, self.scores = self.rows[kept], self.scores[kept]


def take_block(
    candidates: Sequence[Candidates], scores: NDArray[np.float32], start: int
) -> None:
    """Take the candidates of a block in.

    Args:
        candidates: of every query.
        scores: shape ``(n_queries, rows of the block)``.
        start: the block's first row.
    """
    n_queries, n_rows = scores.shape
    n_groups = min(n_rows, max(GROUPS, *(each.width for each in candidates)))
    per_group = n_rows // n_groups
    # Row i is number i // n_groups in group i % n_groups; the rest is its own.
    grouped = scores[:, : per_group * n_groups]
    minima = grouped.reshape(n_queries, per_group, n_groups).min(axis=1)
    firsts = np.arange(per_group)[:, np.newaxis] * n_groups
    rest = np.arange(per_group * n_groups, n_rows)
    for each, line, lowest in zip(candidates, scores, minima, strict=True):
        limit = each.limit(lowest)
        groups = np.flatnonzero(lowest <= limit)
        rows = np.concatenate([(firsts + groups).reshape(-1), rest])
        found = line[rows]
        enough = found <= limit
        each.add(rows[enough] + start, found[enough])


def lengths_of(torch: ModuleType, vectors: Any) -> Any:
    """Lengths of rows, in float64."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)


def lost_by_rounding(torch: ModuleType, exact: Any, rounded: Any, lengths: Any) -> Any:
    """What rounding takes from rows, relative to their lengths."""
    return lengths_of(torch, exact - rounded.float()) / lengths.clamp(min=1e-300)


def bfloat16_errors(
    torch: ModuleType, queries: NDArray[np.float32], most_lost: float
) -> NDArray[np.float64]:
    """Largest error of a product in bfloat16, relative to the lengths, by query.

    Of rounding both vectors, as measured, and the sum and the product, at most.

    Args:
        torch: the module.
        queries: shape ``(n_queries, dimension)``.
        most_lost: by rounding any of the rows that they are multiplied with.
    """
    exact = torch.from_numpy(queries)
    lengths, rounded = lengths_of(torch, exact), exact.to(torch.bfloat16)
    lost = lost_by_rounding(torch, exact, rounded, lengths).numpy()
    both = (1 + most_lost) * (1 + lost)
    summed = max(FLOAT32_ERROR, queries.shape[1] * _FLOAT32_ROUNDING)
    errors: NDArray[np.float64] = both * (1 + _BFLOAT16_ROUNDING) - 1 + summed
    return errors


def least_seconds(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes, the least of some trials."""
    seconds = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
