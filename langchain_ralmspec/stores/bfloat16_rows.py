"""A matrix in bfloat16, to pick candidates for the best exact scores.

One query is bound by reading the matrix, many by multiplying it; a processor that
multiplies bfloat16 natively does that several times as fast as float32, so that many
queries cost little more than one. What rounding may have changed is bounded, so that
none of the best rows is left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.stores.product_scan import GROUPS, Found, best_rows

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from langchain_ralmspec.stores.base import Metric

_BLOCK_ROWS = 1 << 18  # multiplied at a time; 64 queries then have 64 MB of scores
_CONVERTED_ROWS = 1 << 15
_MOST_CANDIDATES = 1 << 16  # of a query; to look at more takes longer than a product
_TRIAL_ROWS, _TRIAL_QUERIES, _TRIALS = 1 << 15, 8, 3
_MEMORY_SHARE = 0.75  # of what is free that a copy may take
_BYTES = 2
_SAMPLED = 8  # rows

_BFLOAT16_ROUNDING = 2.0**-8  # of a number, relative: it keeps 8 bits
_FLOAT32_ROUNDING = 2.0**-23  # and of a sum at every number added
_FLOAT32_ERROR = 1e-4  # of a product summed in float32, at least; of lengths' product
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
    ours = _least_seconds(lambda: trial.best_rows(some, queries, 1))
    floats = _least_seconds(lambda: best_rows(torch, some, queries, 1))
    if ours >= floats:
        return None
    copy = BFloat16Rows(torch, vectors, metric)
    # The first scan takes memory too, and longer than those that are to be timed.
    return copy if copy.best_rows(vectors, queries, 1) is not None else None


class BFloat16Rows:
    """The rows of a matrix, rounded."""

    def __init__(
        self, torch: ModuleType, vectors: NDArray[np.float32], metric: Metric
    ) -> None:
        """Round the rows.

        Args:
            torch: the module.
            vectors: shape ``(n_rows, dimension)``.
            metric: by which they are compared with queries.
        """
        self._torch, self._metric = torch, metric
        self._dimension = vectors.shape[1]
        self._n_rows = 0
        self._blocks: list[Any] = []  # tensors (rows or more, dimension)
        self._half_squares: list[NDArray[np.float32]] = []
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
        if not _has_room(vectors.size - self._n_rows * self._dimension):
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
            lengths = _lengths(torch, rows)
            half_squares.append((lengths * lengths / 2).float().numpy())
            lost = _lost(torch, rows, rounded, lengths)
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
        with self._scanning:
            candidates = self._candidates(queries, width)
        if candidates is None:
            return None
        best = []
        for query, each in zip(queries, candidates, strict=True):
            found = vectors[each.rows]
            scores = self._exact(found, query)
            products = scores
            if self._metric == "squared_l2":
                products = (query @ query + scores) / 2
            is_near = np.abs(products - each.scores) <= each.slack / 2
            if len(each.rows) < width or not is_near.all():
                return None  # torch multiplies in some way that we do not know
            order = np.lexsort((each.rows, -scores))[:width]
            best.append((each.rows[order], found[order]))
        return Found(np.stack([r for r, _ in best]), np.stack([v for _, v in best]))

    def _exact(
        self, rows: NDArray[np.float32], query: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Scores in float32; in L2 the negated squared distances."""
        scores: NDArray[np.float32]
        if self._metric == "inner_product":
            scores = rows @ query
        else:
            apart = rows - query
            scores = -np.einsum("nd,nd->n", apart, apart)
        return scores

    def _candidates(
        self, queries: NDArray[np.float32], width: int
    ) -> list[_Candidates] | None:
        """For every query rows that the best are among."""
        slacks = 2 * self._errors(queries)  # the better of two may score so much less
        if not np.isfinite(slacks).all():
            return None
        candidates = [_Candidates(width, slack) for slack in slacks]
        factors = self._torch.from_numpy(queries).to(self._torch.bfloat16)
        start = 0
        for number in range(len(self._blocks)):
            scores = self._scored(number, factors)
            if not _take(candidates, scores, start):
                return None
            start += scores.shape[1]
        return candidates

    def _scored(self, number: int, factors: Any) -> NDArray[np.float32]:
        """A block's scores, in memory that the next one takes.

        In L2 they are x·q - |x|²/2, greatest where the distance is least.
        """
        torch, half_squares = self._torch, self._half_squares[number]
        shape = len(factors), len(half_squares)
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
            scores -= half_squares
        return scores

    def _errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """How far any score may be from the true one, for every query.

        Of rounding both vectors, as measured, and the product, at most.
        """
        torch = self._torch
        exact = torch.from_numpy(queries)
        lengths = _lengths(torch, exact)
        lost = _lost(torch, exact, exact.to(torch.bfloat16), lengths).numpy()
        both = (1 + self._most_lost) * (1 + lost)
        summed = max(_FLOAT32_ERROR, self._dimension * _FLOAT32_ROUNDING)
        relative = both * (1 + _BFLOAT16_ROUNDING) - 1 + summed
        errors: NDArray[np.float64] = relative * lengths.numpy() * self._longest
        if self._metric == "squared_l2":
            errors = errors + _SQUARE_ERROR * self._longest**2
        return errors


class _Candidates:
    """Rows that may be among the best for a query, block by block."""

    def __init__(self, width: int, slack: float) -> None:
        self.width, self.slack = width, slack
        self.rows = np.empty(0, np.int64)
        self.scores = np.empty(0, np.float32)

    def limit(self, maxima: NDArray[np.float32]) -> float:
        """None of the best scores less, given the highest scores of some groups."""
        known = np.concatenate([self.scores, maxima])
        if len(known) < self.width:
            return -np.inf
        place = len(known) - self.width
        return float(np.partition(known, place)[place]) - self.slack

    def add(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Take rows of a block in; those that are too far now go."""
        self.rows = np.concatenate([self.rows, rows])
        self.scores = np.concatenate([self.scores, scores])
        kept = self.scores >= self.limit(np.empty(0, np.float32))
        self.rows, self.scores = self.rows[kept], self.scores[kept]


def _take(
    candidates: list[_Candidates], scores: NDArray[np.float32], start: int
) -> bool:
    """Take the candidates of a block in; False if they are too many.

    Args:
        candidates: of every query.
        scores: shape ``(n_queries, rows of the block)``.
        start: the block's first row.
    """
    n_queries, n_rows = scores.shape
    n_groups = min(n_rows, max(GROUPS, candidates[0].width))
    per_group = n_rows // n_groups
    # Row i is number i // n_groups in group i % n_groups; the rest is its own.
    grouped = scores[:, : per_group * n_groups]
    maxima = grouped.reshape(n_queries, per_group, n_groups).max(axis=1)
    firsts = np.arange(per_group)[:, np.newaxis] * n_groups
    rest = np.arange(per_group * n_groups, n_rows)
    for each, line, highest in zip(candidates, scores, maxima, strict=True):
        limit = each.limit(highest)
        groups = np.flatnonzero(highest >= limit)
        rows = np.concatenate([(firsts + groups).reshape(-1), rest])
        found = line[rows]
        enough = found >= limit
        each.add(rows[enough] + start, found[enough])
        if len(each.rows) > max(_MOST_CANDIDATES, each.width):
            return False
    return True


def _lost(torch: ModuleType, exact: Any, rounded: Any, lengths: Any) -> Any:
    """What rounding takes from vectors, relative to their lengths."""
    return _lengths(torch, exact - rounded.float()) / lengths.clamp(min=1e-300)


def _lengths(torch: ModuleType, vectors: Any) -> Any:
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)


def _has_room(n_numbers: int) -> bool:
    """Whether there is memory for so many, and a quarter of what is free left."""
    spare = _spare_bytes()
    return spare is None or _BYTES * n_numbers <= _MEMORY_SHARE * spare


def _spare_bytes() -> int | None:
    """Memory that can be had without swapping; None where that is not told."""
    lines = (line.split() for line in _told("/proc/meminfo").splitlines())
    free = [1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:"]
    # A container may have less than the machine.
    most, used = (_told(f"/sys/fs/cgroup/memory.{of}") for of in ("max", "current"))
    if most.strip().isdigit() and used.strip().isdigit():
        free.append(int(most) - int(used))
    return min(free, default=None)


def _told(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii")
    except OSError:
        return ""


def _least_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
