"""A matrix in bfloat16, to pick candidates for the best exact scores.

One query is bound by reading the matrix, many by multiplying it; a processor that
multiplies bfloat16 natively does that several times as fast as float32, so that many
queries cost little more than one. What rounding may have changed is bounded, so that
none of the best rows is left out.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.machine import free_memory
from langchain_ralmspec.scans.candidates import (
    Candidates,
    bfloat16_errors,
    least_seconds,
    lengths_of,
    lost_by_rounding,
    take_block,
)
from langchain_ralmspec.scans.product import Found, best_rows

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from langchain_ralmspec.scans.product import Metric

_BLOCK_ROWS = 1 << 18  # multiplied at a time; 64 queries then have 64 MB of scores
_CONVERTED_ROWS = 1 << 15
_MOST_CANDIDATES = 1 << 16  # of a query; to look at more takes longer than a product
_TRIAL_ROWS, _TRIAL_QUERIES = 1 << 15, 8
_MEMORY_SHARE = 0.75  # of what is free that a copy may take
_BYTES = 2
_SAMPLED = 8  # rows

_SQUARE_ERROR = 1e-6  # of a squared length in float32, relative


def faster_copy(
    torch: ModuleType, vectors: NDArray[np.float32], metric: Metric
) -> BFloat16Rows | None:
    """A copy of a matrix, where there is memory for one and a trial says it pays.

    Args:
        torch: the module.
        vectors: shape ``(n_rows, dimension)``.
        metric: by which rows are compared with queries.
    """
    if not _has_room(vectors.size):
        return None
    some = vectors[:_TRIAL_ROWS]
    queries, trial = some[:_TRIAL_QUERIES], BFloat16Rows(torch, some, metric)
    if trial.best_rows(some, queries, 1) is None:
        return None
    ours = least_seconds(lambda: trial.best_rows(some, queries, 1))
    floats = least_seconds(lambda: best_rows(torch, some, queries, 1))
    if ours >= floats:
        return None
    copy = BFloat16Rows(torch, vectors, metric)
    # The first scan takes memory too, and longer than those that are to be timed.
    return copy if copy.best_rows(vectors, queries, 1) is not None else None


class BFloat16Rows:
    """The rows of a matrix, rounded.

    Attributes:
        failures: searches in a row that found nothing.
    """

    def __init__(
        self, torch: ModuleType, vectors: NDArray[np.float32], metric: Metric
    ) -> None:
        """Round the rows.

        Args:
            torch: the module.
            vectors: shape ``(n_rows, dimension)``.
            metric: by which they are compared with queries.
        """
        self.failures = 0
        self._torch, self._metric = torch, metric
        self._dimension = vectors.shape[1]
        self._n_rows = 0
        self._blocks: list[Any] = []  # tensors (rows or more, dimension)
        self._half_squares: list[NDArray[np.float32]] = []  # for L2 alone
        self._most_lost = self._longest = 0.0  # by rounding, relative; a length
        # A scan takes all cores, and memory that is not fresh.
        self._scanning = threading.Lock()
        self._products = self._empty((0,), torch.bfloat16)
        self._scores = self._empty((0,), torch.float32)
        self._add(vectors)

    def extend(self, vectors: NDArray[np.float32]) -> bool:
        """Round those rows of the whole matrix that are not here yet.

        Returns:
            False where there is no memory for them, or they are not finite: then this
            copy is of no use any more.
        """
        if not _has_room(self._growth(len(vectors)) * self._dimension):
            return False
        with self._scanning:
            self._add(vectors)
        return self.is_finite

    def _add(self, vectors: NDArray[np.float32]) -> None:
        start = self._n_rows
        while start < len(vectors):
            number, n_here = divmod(start, _BLOCK_ROWS)
            stop = min(len(vectors), start - n_here + _BLOCK_ROWS)
            self._make_room(number, n_here, stop - start)
            self._round(vectors[start:stop], number, n_here)
            start = stop
        self._n_rows = len(vectors)
        self._sample = vectors[self._places]

    def _growth(self, n_rows: int) -> int:
        """Rows to be allocated for so many in all: a block that grows is made anew."""
        n_blocks = len(self._blocks)
        if n_rows <= sum(len(block) for block in self._blocks):
            return 0
        grows = len(self._blocks[-1]) < _BLOCK_ROWS
        return _BLOCK_ROWS * grows + max(0, n_rows - n_blocks * _BLOCK_ROWS)

    def _make_room(self, number: int, n_here: int, n_new: int) -> None:
        """Let a block that has some rows hold more: all that it may ever have."""
        if number == len(self._blocks):
            self._blocks.append(self._empty((n_new, self._dimension)))
            self._half_squares.append(np.empty(0, np.float32))
        elif len(self._blocks[number]) < n_here + n_new:
            larger = self._empty((_BLOCK_ROWS, self._dimension))
            larger[:n_here] = self._blocks[number][:n_here]
            self._blocks[number] = larger

    def _round(self, vectors: NDArray[np.float32], number: int, n_here: int) -> None:
        """Put rows behind those that a block has."""
        torch, block = self._torch, self._blocks[number]
        half_squares = [self._half_squares[number][:n_here]]
        for start in range(0, len(vectors), _CONVERTED_ROWS):
            rows = torch.from_numpy(vectors[start : start + _CONVERTED_ROWS])
            rounded = block[n_here + start : n_here + start + len(rows)]
            rounded[:] = rows
            lengths = lengths_of(torch, rows)
            if self._metric == "squared_l2":
                half_squares.append((lengths * lengths / 2).float().numpy())
            lost = lost_by_rounding(torch, rows, rounded, lengths)
            # A length that is not a number stays one, which is looked at later.
            self._longest = float(np.maximum(self._longest, float(lengths.max())))
            self._most_lost = float(np.maximum(self._most_lost, float(lost.max())))
        self._half_squares[number] = np.concatenate(half_squares)

    def _empty(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Memory that no setting of the caller's thread has to do with."""
        torch = self._torch
        with torch.inference_mode(mode=False):
            return torch.empty(shape, dtype=dtype or torch.bfloat16, device="cpu")

    def __len__(self) -> int:
        """Number of rows."""
        return self._n_rows

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return bool(np.isfinite(self._longest) and np.isfinite(self._most_lost))

    def is_of(self, vectors: NDArray[np.float32]) -> bool:
        """Whether a sample of these rows, the last ones in it, is as it was rounded.

        FAISS adds rows at the end and closes the gaps of those it removes, so that
        all behind a gap move. Copies of one text can hide that: this is no proof.
        """
        is_there = len(self) <= len(vectors)
        return is_there and np.array_equal(vectors[self._places], self._sample)

    @property
    def _places(self) -> NDArray[np.int64]:
        n = len(self)
        evenly = np.linspace(0, n - 1, _SAMPLED, dtype=np.int64)
        return np.unique(np.append(evenly, np.arange(max(0, n - _SAMPLED), n)))

    def best_rows(
        self, vectors: NDArray[np.float32], queries: NDArray[np.float32], width: int
    ) -> Found | None:
        """Find the rows that score best in float32.

        Args:
            vectors: the rows that were rounded, shape ``(n_rows, dimension)``.
            queries: shape ``(n_queries, dimension)``.
            width: rows per query, from 1 to ``n_rows``.

        Returns:
            Rows of shape ``(n_queries, width)``, best first, equal scores by the lower
            row, and their vectors, copied. None where rounding leaves too much open,
            or numbers are not finite.
        """
        found = self._best_rows(vectors, queries, width)
        self.failures = self.failures + 1 if found is None else 0
        return found

    def _best_rows(
        self, vectors: NDArray[np.float32], queries: NDArray[np.float32], width: int
    ) -> Found | None:
        with self._scanning:
            candidates = self._candidates(queries, width)
        if candidates is None:
            return None
        best = []
        for query, each in zip(queries, candidates, strict=True):
            found = vectors[each.rows]
            exact = self._exact(found, query)
            scores = exact
            if self._metric == "squared_l2":
                scores = (exact - query @ query) / 2
            is_near = np.abs(scores - each.scores) <= each.slack / 2
            if len(each.rows) < width or not is_near.all():
                return None  # torch multiplies in some way that we do not know
            order = np.lexsort((each.rows, exact))[:width]
            best.append((each.rows[order], found[order]))
        return Found(np.stack([r for r, _ in best]), np.stack([v for _, v in best]))

    def _exact(
        self, rows: NDArray[np.float32], query: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Negated products in float32, or the squared distances."""
        exact: NDArray[np.float32]
        if self._metric == "inner_product":
            exact = -(rows @ query)
        else:
            apart = rows - query
            exact = np.einsum("nd,nd->n", apart, apart)
        return exact

    def _candidates(
        self, queries: NDArray[np.float32], width: int
    ) -> list[_Within] | None:
        """For every query rows that the best are among."""
        slacks = 2 * self._errors(queries)  # the better of two may score so much less
        if not np.isfinite(slacks).all():
            return None
        candidates = [_Within(width, slack) for slack in slacks]
        factors = self._torch.from_numpy(-queries).to(self._torch.bfloat16)
        most = max(_MOST_CANDIDATES, width)
        start = 0
        for number in range(len(self._blocks)):
            scores = self._scored(number, factors)
            take_block(candidates, scores, start)
            if any(len(each.rows) > most for each in candidates):
                return None
            start += scores.shape[1]
        return candidates

    def _scored(self, number: int, factors: Any) -> NDArray[np.float32]:
        """A block's scores, in memory that the next one takes.

        They are -x·q, and in L2 |x|²/2 - x·q, least where the distance is.
        """
        torch = self._torch
        n_rows = min(_BLOCK_ROWS, self._n_rows - number * _BLOCK_ROWS)
        shape = len(factors), n_rows
        size = shape[0] * shape[1]
        if size > len(self._scores):
            self._products = self._empty((size,))
            self._scores = self._empty((size,), torch.float32)
        products = self._products[:size].view(shape)
        torch.mm(factors, self._blocks[number][: shape[1]].T, out=products)
        scores: NDArray[np.float32] = (
            self._scores[:size].view(shape).copy_(products).numpy()
        )
        if self._metric == "squared_l2":
            scores += self._half_squares[number]
        return scores

    def _errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """How far any score may be from the true one, for every query."""
        torch = self._torch
        lengths = lengths_of(torch, torch.from_numpy(queries)).numpy()
        relative = bfloat16_errors(torch, queries, self._most_lost)
        errors: NDArray[np.float64] = relative * lengths * self._longest
        if self._metric == "squared_l2":
            errors = errors + _SQUARE_ERROR * self._longest**2
        return errors


class _Within(Candidates):
    """Rows whose scores are off by half of ``slack`` at most, as all others'."""

    def __init__(self, width: int, slack: float) -> None:
        super().__init__(width)
        self.slack = slack

    def reach(self, score: float) -> float:
        return score + self.slack


def _has_room(n_numbers: int) -> bool:
    """Whether there is memory for so many, and a quarter of what is free left."""
    free = free_memory()
    return free is None or _BYTES * n_numbers <= _MEMORY_SHARE * free
