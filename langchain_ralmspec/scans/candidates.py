"""Rows that rounded scores cannot rule out.

A scan gives every row a score that is better the lower it is, and off by as much as
rounding may. The rows that may all the same be among the best are *candidates*: the
exact numbers, computed for those alone, decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

GROUPS = 2048
"""Groups of rows in a block whose lowest scores bound the best ones from above."""

FLOAT32_ERROR = 1e-4
"""Of a product summed in float32, relative to the product of the lengths, at least."""


class Candidates:
    """Rows that may be among the best of one query.

    Args:
        width: number of best rows that are wanted.
        reach: highest score of a row that may be as good as one with this score.

    Attributes:
        rows: numbers of the candidates.
        scores: one for each candidate.
    """

    def __init__(self, width: int, reach: Callable[[float], float]) -> None:
        self.width, self._reach = width, reach
        self.rows = np.empty(0, np.int64)
        self.scores = np.empty(0, np.float32)

    def limit(self, lowest: Floats) -> float:
        """No candidate has a higher score, given the lowest scores of some groups."""
        known = np.concatenate([self.scores, lowest])
        if len(known) < self.width:
            return np.inf
        return self._reach(float(np.partition(known, self.width - 1)[self.width - 1]))

    def add(self, rows: NDArray[np.int64], scores: Floats) -> None:
        """Take rows of a block in; those that are too far now go."""
        self.rows = np.concatenate([self.rows, rows])
        self.scores = np.concatenate([self.scores, scores])
        kept = self.scores <= self.limit(np.empty(0, np.float32))
        self.rows, self.scores = self.rows[kept], self.scores[kept]


def take_block(candidates: Sequence[Candidates], scores: Floats, start: int) -> None:
    """Take the candidates of a block in.

    Args:
        candidates: of every query, all of one width.
        scores: shape ``(n_queries, rows of the block)``, in either memory order.
        start: the block's first row.
    """
    n_queries, n_rows = scores.shape
    n_groups = min(n_rows, max(GROUPS, candidates[0].width))
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


def product_reach(length: float, error: float, longest: float) -> Callable[..., float]:
    """How far scores -x·q of rows reach that may be as good as another.

    Args:
        length: |q|.
        error: of a product, relative to |x|·|q|.
        longest: the largest |x|.
    """
    slack = 2 * error * length * longest  # the better of two may score lower by it
    return lambda score: score + slack


def distance_reach(length: float, error: float) -> Callable[[float], float]:
    """How far scores |x|² - 2·x·q of rows reach that may be as near as another.

    The error of a score s is at most c·|x|, where c is twice a product's relative
    error times |q|. So d² <= s + |q|² + c·|x|, where |x| <= |q| + d: this bounds d for
    the k-th lowest score, hence for the k-th nearest row, and no nearer row has a
    higher score than its own d² and error allow.

    Args:
        length: |q|.
        error: of a product, relative to |x|·|q|.
    """
    q, c = length, 2 * error * length

    def reach(score: float) -> float:
        seen = max(0.0, score + q * q)  # d², but for the error
        apart = c / 2 + math.sqrt(seen + c * q + c * c / 4)  # at least d
        slack = FLOAT32_ERROR / 10 * (q + apart) ** 2  # |x|² is rounded as well
        return apart * apart - q * q + c * (q + apart) + slack

    return reach
