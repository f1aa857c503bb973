"""Exact search over all rows of a matrix, as one product with many queries.

A scan only picks candidates, with a bound on its rounding that leaves none of the best
rows out. Callers compute exact scores for those alone, in one fixed way, so that no
batch can change an answer.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from langchain_ralmspec.scans import forms
from langchain_ralmspec.scans.candidates import (
    Candidates,
    distance_reach,
    product_reach,
    take_block,
)
from langchain_ralmspec.scans.forms import (
    ROUNDING,
    BFloat16Form,
    BFloat16Rows,
    Form,
    Rows,
    RowsInPlace,
    TorchForm,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

Metric = Literal["inner_product", "squared_l2"]
FormName = Literal["numpy", "torch", "bfloat16", "rival"]

BATCHES = (1, 8, 32)
"""Numbers of queries for which forms are timed; others go with the next larger one."""

_SCORES_PER_BLOCK = 1 << 22  # held at a time, 16 MB; smaller blocks are slower
_CONVERTED_ROWS = 1 << 15
_CENTRE_SAMPLE = 1 << 14
_TRIAL_ROWS = 1 << 15
_TRIALS = 3
_MOST_CANDIDATES = 1 << 16  # of a query; to look at more takes longer than the rival
_MOST_LENGTH = 1e18  # of vectors whose products float32 holds
_LENGTH_ERROR = 1e-4  # of a length in float32, relative
_CHECKED = 16  # candidates whose scores are compared with the true ones
_SAMPLED = 8  # rows


class Scan:
    """All rows of a matrix, compared with every query.

    Attributes:
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
        """Look at a matrix; the first searches choose forms and make copies.

        Args:
            vectors: float32, or float16 if centred, shape ``(n_rows, dimension)``.
            metric: how rows are compared with queries.
            torch: the module, if it may be used.
            centred: whether float32 rows are copied too, less their mean, of squared_l2
                alone: distances stay, and lengths, which rounding grows with, shrink.
            rounded: whether there may be a copy in bfloat16.
            rival: another exact search, of given rows by given queries. Lone queries
                are left to it, and batches where it is the fastest.
        """
        self._vectors, self._metric, self._torch = vectors, metric, torch
        self._is_centred, self._rival = centred, rival
        self._is_rounded = rounded and torch is not None
        step = max(1, len(vectors) // _CENTRE_SAMPLE)
        self._centre = np.zeros(vectors.shape[1], np.float32)
        if centred:
            self._centre = vectors[::step].astype(np.float32).mean(axis=0)
        self._rows = Rows(_empty_floats) if centred else RowsInPlace()
        self._facts = _Facts()
        self._forms: dict[FormName, Form] = {}
        self._chosen: dict[int, FormName] = {}
        self._n_tried = len(vectors)
        self._sample = vectors[_places(len(vectors))]
        self.failures = 0
        self._lock = threading.Lock()  # a scan takes all cores

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._vectors)

    @property
    def chosen(self) -> dict[int, FormName]:
        """The form that was chosen for each size of batches so far."""
        return dict(self._chosen)

    @property
    def bytes_per_row(self) -> int:
        """Memory that a row takes in a copy in bfloat16, if there is one."""
        dimension: int = self._vectors.shape[1]
        return 2 * dimension if "bfloat16" in self._forms else 0

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
                self._chosen.clear()  # few rows are in the caches: try again
                self._n_tried = len(vectors)
        return True

    def candidates(
        self, queries: NDArray[np.float32], k: int
    ) -> list[NDArray[np.int64]] | None:
        """Rows among which the ``k`` best are, for every query.

        Args:
            queries: shape ``(n_queries, dimension)``.
            k: at most the number of rows.

        Returns:
            None where the rival is to search: it is faster, or numbers are not finite,
            or too many rows score alike.
        """
        queries = queries - self._centre  # or a copy, which torch may write to
        with self._lock:
            name = self._form_for(len(queries))
            if name == "rival":
                return None
            found = self._found(name, queries, k)
            if found is not None and not self._is_as_exact(name, queries, found):
                self._chosen = dict.fromkeys(BATCHES, "numpy")
                found = self._found("numpy", queries, k)
            self.failures = self.failures + 1 if found is None else 0
        return None if found is None else [each.rows for each in found]

    def prepare(self) -> None:
        """Choose forms and make copies now instead of at the first searches."""
        with self._lock:
            names = {self._form_for(size) for size in BATCHES} - {"rival"}
            for name in names:  # the first scan takes memory too, and longer
                self._found(name, self._some_queries(8), 1)

    def _form_for(self, n_queries: int) -> FormName:
        if not self._chosen:
            self._chosen = self._fastest()
        size = next((size for size in BATCHES if n_queries <= size), BATCHES[-1])
        return self._chosen[size]

    def _fastest(self) -> dict[int, FormName]:
        """The form that is fastest for each size of batches, by a trial on some."""
        names: list[FormName] = ["numpy"]
        names += ["torch"] * (self._torch is not None)
        names += ["bfloat16"] * self._is_rounded
        some = self._vectors[:_TRIAL_ROWS]
        trial = Scan(some, self._metric, self._torch, centred=self._is_centred)
        chosen: dict[int, FormName] = {}
        for size in BATCHES:
            queries = trial._some_queries(size)
            works: dict[FormName, Callable[[], object]] = {
                name: partial(trial._found, name, queries, 1) for name in names
            }
            if self._rival:
                works["rival"] = partial(self._rival, some, queries)
            chosen[size] = "rival" if self._rival and size == 1 else fastest(works)
        return chosen

    def _some_queries(self, n_queries: int) -> NDArray[np.float32]:
        """Queries like the rows, less the centre."""
        rows = self._read(slice(n_queries))
        return np.resize(rows, (n_queries, rows.shape[1]))

    def _form(self, name: FormName) -> Form:
        """A form of all rows."""
        torch = self._torch
        if name not in self._forms:
            if torch is None or name == "numpy":
                self._forms[name] = Form(self._rows)
            elif name == "torch":
                self._forms[name] = TorchForm(self._rows, torch)
            else:
                self._forms[name] = BFloat16Form(BFloat16Rows(torch), torch)
        form = self._forms[name]
        if isinstance(self._rows, RowsInPlace):
            self._rows.matrix = self._vectors
        self._append([self._facts, form.rows])
        return form

    def _append(self, takers: Sequence[_Facts | Rows]) -> None:
        """Let all have all rows, each of which is read and converted once."""
        n_rows = len(self._vectors)
        while (start := min(taker.n_rows for taker in takers)) < n_rows:
            behind = [taker for taker in takers if taker.n_rows == start]
            stop = min(
                start + _CONVERTED_ROWS,
                _block_end(start),
                *(taker.n_rows for taker in takers if taker.n_rows > start),
                n_rows,
            )
            chunk = self._read(slice(start, stop))
            for taker in behind:
                taker.append(chunk)

    def _read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows in float32, less the centre."""
        part: NDArray[np.float32] = self._vectors[rows]
        if self._is_centred:
            part = np.subtract(part, self._centre, dtype=np.float32)
        return part

    def _found(
        self, name: FormName, queries: NDArray[np.float32], k: int
    ) -> list[Candidates] | None:
        """Candidates by one form; None where there would be too many of them."""
        form, facts, n_rows = self._form(name), self._facts, len(self._vectors)
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        if not lengths.max() + facts.longest < _MOST_LENGTH:  # or no number
            return None
        errors = form.errors(queries)
        found = [
            Candidates(k, self._reach(length, error))
            for length, error in zip(lengths.tolist(), errors.tolist(), strict=True)
        ]
        is_product = self._metric == "inner_product"
        factors = queries * np.float32(-1 if is_product else -2)
        step, start = max(1, _SCORES_PER_BLOCK // len(queries)), 0
        while start < n_rows:
            stop = min(start + step, _block_end(start), n_rows)
            added = None if is_product else facts.squares[start:stop]
            take_block(found, form.scores(factors, start, stop, added), start)
            if self._rival and max(len(e.rows) for e in found) > _MOST_CANDIDATES + k:
                return None
            start = stop
        return found

    def _reach(self, length: float, error: float) -> Callable[[float], float]:
        if self._metric == "inner_product":
            return product_reach(length, error, self._facts.longest)
        return distance_reach(length, error)

    def _is_as_exact(
        self,
        name: FormName,
        queries: NDArray[np.float32],
        found: Sequence[Candidates],
    ) -> bool:
        """Whether scores are off by no more than the form says, in a sample."""
        errors = self._forms[name].usual_errors(queries)
        for query, error, each in zip(
            queries.astype(float), errors, found, strict=True
        ):
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


class _Facts:
    """What is known about rows: squared lengths, and a length that none exceeds."""

    def __init__(self) -> None:
        self.n_rows = 0
        self.longest = 0.0
        self._squares: list[NDArray[np.float32]] = []

    def append(self, chunk: NDArray[np.float32]) -> None:
        with np.errstate(over="ignore"):
            self._squares.append(np.einsum("nd,nd->n", chunk, chunk))
        longest = float(np.sqrt(self._squares[-1].max())) * (1 + _LENGTH_ERROR)
        # A length that is no number stays one, which is looked at later.
        self.longest = float(np.maximum(self.longest, longest))
        self.n_rows += len(chunk)

    @property
    def squares(self) -> NDArray[np.float32]:
        if len(self._squares) > 1:
            self._squares = [np.concatenate(self._squares)]
        return self._squares[0]


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


def _block_end(start: int) -> int:
    return (start // forms.BLOCK_ROWS + 1) * forms.BLOCK_ROWS


def _empty_floats(shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.empty(shape, np.float32)


def _places(n_rows: int) -> NDArray[np.int64]:
    """Some rows evenly over a matrix, and its last ones."""
    evenly = np.linspace(0, n_rows - 1, _SAMPLED, dtype=np.int64)
    last = np.arange(max(0, n_rows - _SAMPLED), n_rows)
    return np.unique(np.append(evenly, last))
