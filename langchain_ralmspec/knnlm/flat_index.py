"""Exact search for the nearest keys, as one matrix product for many queries.

A scan of all keys is bound by memory, so that 16 queries in one product cost little
more than one, if multiplying is fast: where the processor multiplies bfloat16 natively,
batches are scanned in that. A scan only picks *candidates*, with a bound on its
rounding that leaves none of the nearest out. Their distances are computed elsewhere,
from the keys themselves.
"""

from __future__ import annotations

import importlib.util
import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from langchain_ralmspec.scans.candidates import (
    FLOAT32_ERROR,
    Candidates,
    bfloat16_errors,
    least_seconds,
    lengths_of,
    lost_by_rounding,
    take_block,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Scores held at a time, 16 MB; smaller blocks make the products slower.
_SCORES_PER_BLOCK = 1 << 22
_ROWS_CONVERTED = 1 << 16
_CENTRE_SAMPLE = 1 << 14
_TRIAL_ROWS = 1 << 15
_TRIALS_OF = (1, 16)  # queries: the per-token loop's, and a batch


class Scan(Protocol):
    """Keys in the form in which they are multiplied."""

    def errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Largest error of a product with each, relative to the vectors' lengths."""
        ...

    def scores(
        self, queries: NDArray[np.float32], start: int, stop: int
    ) -> NDArray[np.float32]:
        """|x|² - 2·x·q of the rows from ``start`` to ``stop``, a line per query.

        Valid until the next call.
        """
        ...


class FlatIndex:
    """All keys, compared with every query.

    Attributes:
        is_nested: asking for more neighbours only adds some behind the others.
    """

    is_nested = True

    def __init__(self, keys: NDArray[Any]) -> None:
        """Look at the keys; the first searches copy them into memory.

        Args:
            keys: float16 or float32, shape ``(n, dimension)``.
        """
        self._n = len(keys)
        # Distances stay as they are, and lengths, which rounding grows with, shrink.
        step = max(1, self._n // _CENTRE_SAMPLE)
        self._centre = keys[::step].astype(np.float32).mean(axis=0)
        self._keys = keys
        # One form for lone queries and one for batches, made when first needed; often
        # another, since a lone query is bound by memory and a batch by multiplying.
        self._scans: dict[bool, Scan] = {}
        self._lock = threading.Lock()  # a scan takes all cores

    def candidates(
        self, queries: NDArray[np.float32], k: int
    ) -> list[NDArray[np.int64]]:
        """Rows among which the ``k`` nearest are, for every query.

        Args:
            queries: shape ``(n_queries, dimension)``.
            k: at most the number of keys.
        """
        centred = queries - self._centre
        lengths = np.linalg.norm(centred.astype(np.float64), axis=1)
        step = max(1, _SCORES_PER_BLOCK // len(queries))
        with self._lock:
            scan = self._scan_for(len(queries))
            nearest = [
                _Nearest(k, length, error)
                for length, error in zip(lengths, scan.errors(centred), strict=True)
            ]
            for start in range(0, self._n, step):
                stop = min(start + step, self._n)
                scores = scan.scores(centred, start, stop)
                take_block(nearest, scores, start)
        return [each.rows for each in nearest]

    def prepare(self) -> None:
        """Make the forms of the keys now instead of at the first searches."""
        with self._lock:
            for n_queries in _TRIALS_OF:
                self._scan_for(n_queries)

    def _scan_for(self, n_queries: int) -> Scan:
        is_batch = n_queries > 1
        if is_batch not in self._scans:
            made = list(self._scans.values())
            self._scans[is_batch] = _fastest_scan(
                self._keys, self._centre, _TRIALS_OF[is_batch], made
            )
        return self._scans[is_batch]


class _Nearest(Candidates):
    """Candidates for the nearest of one query.

    The error of a score s is at most c·|x|, where c is twice a product's relative
    error times |q|. So d² <= s + |q|² + c·|x|, where |x| <= |q| + d: this bounds d for
    the k-th lowest score, hence for the k-th nearest row, and no nearer row has a
    higher score than its own d² and error allow.
    """

    def __init__(self, k: int, length: float, error: float) -> None:
        super().__init__(k)
        self._length = length
        self._error = 2 * error * length

    def reach(self, score: float) -> float:
        q, c = self._length, self._error
        seen = max(0.0, score + q * q)  # d², but for the error
        apart = c / 2 + float(np.sqrt(seen + c * q + c * c / 4))  # at least d
        slack = FLOAT32_ERROR / 10 * (q + apart) ** 2  # |x|² is rounded as well
        return apart * apart - q * q + c * (q + apart) + slack


class _Float32Scan:
    """Keys in float32, multiplied by numpy."""

    def __init__(self, keys: NDArray[Any], centre: NDArray[np.float32]) -> None:
        self._rows = np.empty(keys.shape, np.float32)
        for start in range(0, len(keys), _ROWS_CONVERTED):
            part = slice(start, start + _ROWS_CONVERTED)
            np.subtract(keys[part], centre, out=self._rows[part], dtype=np.float32)
        self._squares = np.einsum("nd,nd->n", self._rows, self._rows)

    def errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Those of sums in float32."""
        return np.full(len(queries), FLOAT32_ERROR)

    def scores(
        self, queries: NDArray[np.float32], start: int, stop: int
    ) -> NDArray[np.float32]:
        """|x|² - 2·x·q."""
        products: NDArray[np.float32] = queries @ self._rows[start:stop].T
        products *= -2
        products += self._squares[start:stop]
        return products


class _BFloat16Scan:
    """Keys in bfloat16, multiplied by torch."""

    def __init__(self, keys: NDArray[Any], centre: NDArray[np.float32]) -> None:
        import torch  # two seconds: only where it is used

        self._torch = torch
        self._rows = torch.empty(keys.shape, dtype=torch.bfloat16)
        self._squares = torch.empty(len(keys), dtype=torch.float32)
        self._most_lost = 0.0  # of any row by rounding, relative to its length
        # Fresh memory costs as much as the product.
        self._products = torch.empty(0, dtype=torch.bfloat16)
        self._scores = torch.empty(0, dtype=torch.float32)
        for start in range(0, len(keys), _ROWS_CONVERTED):
            part = slice(start, start + _ROWS_CONVERTED)
            rows = torch.from_numpy(keys[part].astype(np.float32) - centre)
            self._rows[part] = rows
            self._squares[part] = (rows * rows).sum(dim=1)
            lengths = lengths_of(torch, rows)
            lost = lost_by_rounding(torch, rows, self._rows[part], lengths)
            self._most_lost = max(self._most_lost, float(lost.max()))

    def errors(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Those of rounding both vectors, as measured, and the product, at most."""
        return bfloat16_errors(self._torch, queries, self._most_lost)

    def scores(
        self, queries: NDArray[np.float32], start: int, stop: int
    ) -> NDArray[np.float32]:
        """|x|² - 2·x·q, in memory that the next call takes again."""
        torch, shape = self._torch, (len(queries), stop - start)
        size = shape[0] * shape[1]
        if size > len(self._scores):
            self._products = torch.empty(size, dtype=torch.bfloat16)
            self._scores = torch.empty(size, dtype=torch.float32)
        products = self._products[:size].view(shape)
        scores = self._scores[:size].view(shape)
        factors = torch.from_numpy(queries).to(torch.bfloat16)
        torch.mm(factors, self._rows[start:stop].T, out=products)
        scores.copy_(products)  # mixed types in one operation are slow
        torch.sub(self._squares[start:stop], scores, alpha=2, out=scores)
        numbers: NDArray[np.float32] = scores.numpy()
        return numbers


def _fastest_scan(
    keys: NDArray[Any],
    centre: NDArray[np.float32],
    n_queries: int,
    made: list[Scan],
) -> Scan:
    """The form that is fastest for so many queries here, by a trial on some rows.

    Args:
        keys: all of them.
        centre: is taken off them.
        n_queries: in a call.
        made: forms of all keys that are there already.
    """
    if importlib.util.find_spec("torch") is None:
        forms: list[Callable[..., Scan]] = [_Float32Scan]
    else:
        forms = [_Float32Scan, _BFloat16Scan]
    some, queries = keys[:_TRIAL_ROWS], np.repeat(centre[np.newaxis], n_queries, axis=0)
    fastest = min(
        forms, key=lambda form: _least_seconds(form(some, centre), queries, len(some))
    )
    known = (scan for scan in made if type(scan) is fastest)
    return next(known, None) or fastest(keys, centre)


def _least_seconds(scan: Scan, queries: NDArray[np.float32], n_rows: int) -> float:
    return least_seconds(lambda: scan.scores(queries, 0, n_rows))
