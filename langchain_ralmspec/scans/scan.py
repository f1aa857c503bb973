"""Exact search over all rows of a matrix, as one product with many queries.

A scan only picks candidates, with a bound on its rounding that leaves none of the best
rows out. Callers compute exact scores for those alone, in one fixed way, so that no
batch can change an answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.scans.candidates import (
    Candidates,
    distance_reach,
    product_reach,
    take_block,
)
from langchain_ralmspec.scans.rows import ROUNDING, BFloat16Rows, Rows, block_end

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Metric = Literal["inner_product", "squared_l2"]
FormName = Literal["numpy", "torch", "bfloat16", "rival"]

BATCHES = (1, 8, 32)
"""Numbers of queries for which forms are timed; others go with the next larger one."""

_SCORES_PER_BLOCK = 1 << 22  # held at a time, 16 MB; smaller blocks are slower
_CONVERTED_ROWS = 1 << 15
_CENTRE_SAMPLE = 1 << 14
# 100 MB of 384 numbers: of 50 MB, cached by half, numpy was chosen for batches that it
# then scanned at half of torch's speed.
_TRIAL_ROWS = 1 << 16
_TRIALS = 3
_MOST_CANDIDATES = 1 << 16  # of a query; to look at more takes longer than the rival
_MOST_LENGTH = 1e18  # of vectors whose products float32 holds
_CHECKED = 16  # candidates whose scores are compared with the true ones
_SAMPLED = 8  # rows


class Scan:
    """All rows of a matrix, compared with every query.

    :meth:`prepare` chooses forms and makes copies, or else the first search does.

    Args:
        vectors: float32, or float16 if centred, shape ``(n_rows, dimension)``.
        metric: how rows are compared with queries.
        torch: the module, if it may be used.
        centred: whether float32 rows are copied too, less their mean, of squared_l2
            alone: distances stay, and lengths, which rounding grows with, shrink.
        rounded: whether there may be a copy in bfloat16.
        rival: another exact search, of given rows by given queries. Lone queries are
            left to it, batches where it is the fastest, and all that come unprepared.

    Attributes:
        chosen: the form that was chosen for each size of batches so far.
        failures: scans in a row that left their queries to the rival.
    """

    def __init__(
        self,
        vectors: NDArray[Any],
        metric: Metric,
        torch: ModuleType | None,
        *,
        centred: bool = False,
        rounded: bool = True,
        rival: Callable[..., object] | None = None,
    ) -> None:
        self._vectors, self._metric, self._torch = vectors, metric, torch
        self._is_centred, self._rival = centred, rival
        self._is_rounded = rounded and torch is not None
        step = max(1, len(vectors) // _CENTRE_SAMPLE)
        self._centre = np.zeros(vectors.shape[1], np.float32)
        if centred:
            self._centre = vectors[::step].astype(np.float32).mean(axis=0)
        self._exact = Rows()
        self._rounded: BFloat16Rows | None = None
        self.chosen: dict[int, FormName] = {}
        self._n_tried = len(vectors)
        self._n_prepared = 0  # rows that were there when it was prepared
        self._sample = vectors[_places(len(vectors))]
        self.failures = 0
        self._lock = threading.Lock()  # a scan takes all cores
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Have a free lock; what a thread was working at in a forked process goes."""
        if self._lock.locked():
            self._exact, self._rounded, self.chosen = Rows(), None, {}
        self._lock = threading.Lock()

    def growth(self, n_rows: int) -> int:
        """Bytes that more rows take in the copy in bfloat16, if there is one."""
        n_numbers: int = (n_rows - len(self._vectors)) * self._vectors.shape[1]
        return 2 * n_numbers if self._rounded else 0

    def follow(self, vectors: NDArray[Any]) -> bool:
        """Take in what was appended to the matrix since, wherever it lies now.

        Returns:
            False where a sample of the earlier rows, the last ones in it, is not as it
            was. FAISS adds rows at the end and closes the gaps of those it removes, so
            that all behind a gap move. Copies of one text can hide that: this is no
            proof.
        """
        with self._lock:
            known = len(self._vectors)
            if known > len(vectors) or not np.array_equal(
                vectors[_places(known)], self._sample, equal_nan=True
            ):
                return False
            self._vectors = vectors
            if len(vectors) > known:
                self._sample = vectors[_places(len(vectors))]
            if self._n_tried < _TRIAL_ROWS and len(vectors) >= 2 * self._n_tried:
                self.chosen = {}  # few rows are in the caches: try again
                self._n_tried = len(vectors)
        return True

    def candidates(self, queries: Floats, k: int) -> list[NDArray[np.int64]] | None:
        """Rows among which the ``k`` best are, for every query.

        Args:
            queries: shape ``(n_queries, dimension)``.
            k: at most the number of rows.

        Returns:
            None where the rival is to search: it is faster, or nothing is prepared, or
            numbers are not finite, or too many rows score alike.
        """
        queries = queries - self._centre  # or a copy, which torch may write to
        with self._lock:
            if self._rival and not self.chosen:
                return None  # a trial takes longer than its search
            name = self._form_for(len(queries))
            if name == "rival":
                return None
            found = self._found(name, queries, k)
            if not (found is None or self._is_as_exact(name, queries, found)):
                for size, chosen in self.chosen.items():
                    self.chosen[size] = "numpy" if chosen == name else chosen
                found = self._found("numpy", queries, k)
            self.failures = self.failures + 1 if found is None else 0
        return None if found is None else [each.rows for each in found]

    def prepare(self) -> None:
        """Choose forms and make copies now instead of at the first searches.

        Nothing is left to do until rows come.
        """
        with self._lock:
            if self.chosen and self._n_prepared == len(self._vectors):
                return
            names = {self._form_for(size) for size in BATCHES} - {"rival"}
            for name in names:  # the first scan takes memory too, and longer
                self._found(name, self._some_queries(8), 1)
            self._n_prepared = len(self._vectors)

    def _form_for(self, n_queries: int) -> FormName:
        if not self.chosen:
            self.chosen = self._fastest()
        size = next((size for size in BATCHES if n_queries <= size), BATCHES[-1])
        return self.chosen[size]

    def _fastest(self) -> dict[int, FormName]:
        """The form that is fastest for each size of batches, by a trial on some."""
        names: list[FormName] = ["numpy"]
        names += ["torch"] * (self._torch is not None)
        names += ["bfloat16"] * self._is_rounded
        some = self._vectors[:_TRIAL_ROWS]
        trial = Scan(some, self._metric, self._torch, centred=self._is_centred)
        chosen: dict[int, FormName] = {1: "rival"} if self._rival else {}
        for size in BATCHES[len(chosen) :]:
            queries = trial._some_queries(size)
            works: dict[FormName, Callable[[], object]] = {
                name: partial(trial._found, name, queries, 1) for name in names
            }
            if self._rival:
                works["rival"] = partial(self._rival, some, queries)
            chosen[size] = fastest(works)
        return chosen

    def _some_queries(self, n_queries: int) -> Floats:
        """Queries like the rows, less the centre."""
        rows = self._read(slice(n_queries))
        return np.resize(rows, (n_queries, rows.shape[1]))

    def _rows(self, name: FormName) -> Rows:
        """All rows as a form has them; those that are new to it are taken in now."""
        rows = self._exact
        if name == "bfloat16" and self._torch:
            rows = self._rounded = self._rounded or BFloat16Rows(self._torch)
        elif not self._is_centred:
            rows.matrix = self._vectors
        while (start := rows.n_rows) < len(self._vectors):
            stop = min(start + _CONVERTED_ROWS, block_end(start), len(self._vectors))
            rows.append(self._read(slice(start, stop)), len(self._vectors))
        return rows

    def _read(self, rows: slice | NDArray[np.int64]) -> Floats:
        """Some rows in float32, less the centre."""
        part: Floats = self._vectors[rows]
        if self._is_centred:
            part = np.subtract(part, self._centre, dtype=np.float32)
        return part

    def _found(
        self, name: FormName, queries: Floats, k: int
    ) -> list[Candidates] | None:
        """Candidates by one form; None where there would be too many of them."""
        rows, n_rows = self._rows(name), len(self._vectors)
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        if not lengths.max() + rows.longest < _MOST_LENGTH:  # or no number
            return None
        errors = rows.errors(queries)
        reach: Callable[..., Callable[[float], float]]
        squares: Floats | None
        if self._metric == "inner_product":
            reach = partial(product_reach, longest=rows.longest)
            factors, squares = -queries, None
        else:
            reach = distance_reach
            factors, squares = queries * np.float32(-2), rows.squares
        pairs = zip(lengths.tolist(), errors.tolist(), strict=True)
        found = [Candidates(k, reach(*pair)) for pair in pairs]
        torch = self._torch if name == "torch" else None
        step, start = max(1, _SCORES_PER_BLOCK // len(queries)), 0
        while start < n_rows:
            stop = min(start + step, block_end(start), n_rows)
            added = None if squares is None else squares[start:stop]
            scores = rows.scores(factors, rows.part(start, stop), added, torch)
            take_block(found, scores, start)
            if self._rival and max(len(e.rows) for e in found) > _MOST_CANDIDATES + k:
                return None
            start = stop
        return found

    def _is_as_exact(
        self, name: FormName, queries: Floats, found: Sequence[Candidates]
    ) -> bool:
        """Whether scores are off by no more than the form says, in a sample.

        A process may let torch round to bfloat16 or TF32, in several ways that no one
        function of torch reports (``set_float32_matmul_precision`` is one).
        """
        if name == "numpy":
            return True
        errors = self._rows(name).errors(queries)
        if name == "torch":  # twice what is relative to the sum of squared lengths
            errors = np.full(len(queries), 2 * ROUNDING)
        wide = queries.astype(float)
        for query, error, each in zip(wide, errors, found, strict=True):
            some = slice(None, None, max(1, len(each.rows) // _CHECKED))
            rows = self._read(each.rows[some]).astype(float)
            squares = np.einsum("nd,nd->n", rows, rows)
            exact, allowed = rows @ -query, error * np.sqrt(squares * (query @ query))
            if self._metric == "squared_l2":
                exact = squares + 2 * exact
                allowed = ROUNDING * squares + 2 * allowed
            if not (np.abs(each.scores[some] - exact) <= allowed).all():
                return False
        return True


def fastest(works: dict[FormName, Callable[[], object]]) -> FormName:
    """Whose work takes the least time, by some trials."""
    if len(works) == 1:
        return next(iter(works))
    least: dict[FormName, float] = {}
    for name, work in works.items():
        work()  # the first one makes copies and prepares memory
        for _ in range(_TRIALS):
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
            least[name] = min(seconds, least.get(name, seconds))
            if seconds > 4 * min(least.values()):
                break
    return min(least, key=lambda name: least[name])


def _places(n_rows: int) -> NDArray[np.int64]:
    """Some rows evenly over a matrix, and its last ones."""
    evenly = np.linspace(0, n_rows - 1, _SAMPLED, dtype=np.int64)
    last = np.arange(max(0, n_rows - _SAMPLED), n_rows)
    return np.unique(np.append(evenly, last))
