"""A FAISS index: which rows are near, found on the route that costs least."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from langchain_ralmspec.errors import InvalidValueError, MissingExtraError
from langchain_ralmspec.scans.bfloat16 import BFloat16Rows, faster_copy
from langchain_ralmspec.scans.product import Found, best_rows, loaded_torch
from langchain_ralmspec.stores.base import MaxNorm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from numpy.typing import NDArray

    from langchain_ralmspec.stores.base import Metric

# One matrix product for all queries costs as much as this many separate scans
# per thread (500k x 384: ~190 ms for 8 queries and ~270 for 32, against 134 to 322
# and 630 to 1270 for scans on 2 threads, the larger numbers on a busy machine).
SCANS_PER_MATRIX_PRODUCT = 4
# Numbers compared in about 5 ms by one thread. Below that a second thread gains
# little, and waiting for it on a busy machine costs a time slice (12 ms).
SMALL_SCAN = 30_000_000
# A product is faster than any scan of FAISS for so many queries. Up to 8 of them
# torch's is (500k x 384: 2 queries 45 against 101 ms, 4: 65 against 189, 8: 136
# against 239; a lone query takes it twice a scan), beyond that numpy's (2M x 384, a
# million rows: 16 queries 253 ms, 32: 313, against torch's 355 and 991 and FAISS's
# 360 and 520 or more).
FEWEST_IN_PRODUCT = 2
MOST_IN_TORCH = 8
MOST_IN_PRODUCT = 64
# Stored numbers from which on that holds: 20k x 384 takes 0.55 to 0.7 times as
# long, 10k x 384 as long, 5k x 384, which the caches hold, twice.
SMALL_MATRIX = 7_000_000
_MOST_FAILURES = 3
_ROWS_MEASURED = 1 << 16
_LENGTH_ERROR = 1e-4  # of a length in float32, relative: at least so much is added
_ADDITION_ERROR = 2.0**-24  # of it, for every number that is added up

_threshold_lock = threading.Lock()


class _Measured(NamedTuple):
    """How far so many rows of these names reach."""

    extent: MaxNorm
    n_rows: int
    names: object


class FaissIndex:
    """What a store asks of an index, the same for every kind of index.

    Attributes:
        metric: how the index compares vectors.
        dimension: length of the stored vectors.
        ranks_by_score: whether FAISS ranks by the very score that the stored
            vectors give, among rows that do not depend on how many are asked for.
            Then asking for more only adds rows at the end.
    """

    def __init__(self, index: Any) -> None:
        """Look at an index.

        Args:
            index: a FAISS index whose vectors can be reconstructed.

        Raises:
            MissingExtraError: faiss is not installed.
            InvalidValueError: the index has neither the inner product nor the L2
                distance as its metric.
        """
        self._faiss = faiss = _import_faiss()
        self._index = index
        self._is_flat = isinstance(index, faiss.IndexFlat)
        self._is_ivf = isinstance(index, faiss.IndexIVF)
        self.metric: Metric = _metric_of(faiss, index)
        self.dimension = int(index.d)
        # Of these types only: a subclass may lay its vectors out in another way, as
        # IndexFlatPanorama does.
        matrices = {faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2}
        self._is_matrix = type(index) in matrices
        # A copy of the rows and their names: one attribute, so that no thread takes
        # one copy for another.
        self._copied: tuple[BFloat16Rows, object] | None = None
        self._is_tried = False
        self._copying = threading.Lock()
        self._measured: _Measured | None = None
        self._measuring = threading.Lock()
        # Not HNSW: among many equal vectors, asking for more finds others.
        self.ranks_by_score = isinstance(
            index,
            (
                faiss.IndexFlat,
                faiss.IndexScalarQuantizer,
                faiss.IndexIVFFlat,
                faiss.IndexIVFScalarQuantizer,
            ),
        )
        # Making a direct map rebuilds shared state of the index.
        self._direct_map_lock = threading.Lock()

    @property
    def n_rows(self) -> int:
        """Number of stored vectors."""
        return int(self._index.ntotal)

    def normalized(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vectors scaled to length 1, to the bit as LangChain scales them.

        Args:
            vectors: shape ``(queries, dimension)``; left as they are.
        """
        units = vectors.copy()
        self._faiss.normalize_L2(units)
        return units

    def candidates(
        self,
        vectors: NDArray[np.float32],
        width: int,
        allowed: NDArray[np.bool_] | None,
        names: object = None,
    ) -> Found:
        """Find the nearest rows of every query, and their vectors.

        Args:
            vectors: the queries, shape ``(queries, dimension)``, at least one.
            width: rows per query, at least 1.
            allowed: which rows may be found, shape ``(n_rows,)``; None means all.
            names: another object whenever rows were not only added.

        Returns:
            ``width`` rows per query. Exact for a flat index, filtered or not; an
            approximate one may find fewer (row -1) than there are.
        """
        if allowed is None:
            found = self._found_by_product(vectors, width, names)
            if found is not None:
                return found
        params = None if allowed is None else self._restricted_to(allowed)
        if params is not None and self._is_ivf:
            # FAISS refuses to give the vectors during such a search.
            _, rows = self._index.search(vectors, width, params=params)
            return Found(rows, self._vectors_of(rows))
        with self._cheapest_route(len(vectors)):
            _, rows, stored = self._index.search_and_reconstruct(
                vectors, width, params=params
            )
        return Found(rows, stored)

    def prepare(self, names: object) -> None:
        """Copy the rows in a form in which batches are faster, where that pays.

        It may take memory and seconds at first, and is for nothing after that but for
        rows that are new. Where there is no memory for it there is no copy.

        Args:
            names: as in :meth:`candidates`.
        """
        torch = loaded_torch()
        if torch is None or not self._is_large_matrix:
            return
        with self._copying:
            matrix = self._matrix()
            copy = self._copy_of(matrix, names)
            if copy is None:
                if self._is_tried and self._copied is None:
                    return
                self._copied = None  # before another one takes its memory
            try:
                if copy is None:
                    copy = faster_copy(torch, matrix, self.metric)
                elif len(copy) < len(matrix) and not copy.extend(matrix):
                    copy = None
            except (RuntimeError, MemoryError):  # torch's own is the former
                copy = None
            self._copied = None if copy is None else (copy, names)
            self._is_tried = True

    def extent(self, names: object) -> MaxNorm | None:
        """How far the rows reach; those that are known are not read again.

        Args:
            names: as in :meth:`candidates`.

        Returns:
            One object until rows are added or removed. None where an index may miss
            the nearest, or there is no finite length.
        """
        if not (self._is_matrix and self.n_rows):
            return None
        with self._measuring:
            known, matrix = self._measured, self._matrix()
            if known is None or known.names is not names or known.n_rows > len(matrix):
                known = _Measured(MaxNorm(0.0), 0, names)
            if known.n_rows < len(matrix):
                longest = _longest(matrix[known.n_rows :])
                longest = float(np.maximum(known.extent.longest, longest))  # or a NaN
                known = _Measured(MaxNorm(longest), len(matrix), names)
            self._measured = known
        return known.extent if np.isfinite(known.extent.longest) else None

    @property
    def scans_by_product(self) -> bool:
        """Whether batches are scanned by one matrix product."""
        if not self._is_large_matrix or loaded_torch() is None:
            return False
        return self.metric == "inner_product" or self._copied is not None

    def _copy_of(
        self, matrix: NDArray[np.float32], names: object
    ) -> BFloat16Rows | None:
        """The copy, if it is of the first rows of a matrix.

        Rows only change when documents are deleted, which makes a new mapping; a
        sample tells of what somebody has done to the index itself.
        """
        copied = self._copied
        if copied is None or copied[1] is not names or not copied[0].is_of(matrix):
            return None
        return copied[0]

    @property
    def _is_large_matrix(self) -> bool:
        return self._is_matrix and self.n_rows * self.dimension >= SMALL_MATRIX

    def _matrix(self) -> NDArray[np.float32]:
        """FAISS's own memory, shape ``(n_rows, dimension)``."""
        n_rows = self.n_rows
        numbers = self._faiss.rev_swig_ptr(
            self._index.get_xb(), n_rows * self.dimension
        )
        matrix: NDArray[np.float32] = numbers.reshape(n_rows, self.dimension)
        return matrix

    def _found_by_product(
        self, vectors: NDArray[np.float32], width: int, names: object
    ) -> Found | None:
        """What a product finds in FAISS's own memory; None where FAISS is to search."""
        if (
            not self._is_large_matrix
            or not FEWEST_IN_PRODUCT <= len(vectors) <= MOST_IN_PRODUCT
            or width > self.n_rows
        ):
            return None
        matrix = self._matrix()
        copy = self._copy_of(matrix, names)
        if copy is not None and len(copy) == len(matrix) and np.isfinite(vectors).all():
            found = copy.best_rows(matrix, vectors, width)
            if found is not None:
                return found
            copied = self._copied
            if copied and copied[0] is copy and copy.failures >= _MOST_FAILURES:
                self._copied = None  # it would be scanned for nothing again
        takes_torch = len(vectors) <= MOST_IN_TORCH
        torch = loaded_torch() if takes_torch else None
        if self.metric != "inner_product" or (takes_torch and torch is None):
            return None
        return best_rows(torch, matrix, vectors, width)

    def _vectors_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows of an IVF index; those of row -1 are arbitrary.

        The first call makes the direct map that this takes. FAISS then refuses to
        remove vectors, so the map is made for filtered searches only.
        """
        with self._direct_map_lock:
            if self._index.direct_map.no():
                self._index.make_direct_map()
        found = np.maximum(rows, 0).reshape(-1)
        vectors: NDArray[np.float32] = self._index.reconstruct_batch(found)
        return vectors.reshape(*rows.shape, self.dimension)

    def _restricted_to(self, allowed: NDArray[np.bool_]) -> Any:
        """Search parameters that admit some rows and change nothing else."""
        faiss = self._faiss
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self._is_ivf:
            return faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nprobe)
        if isinstance(self._index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(
                sel=selector, efSearch=self._index.hnsw.efSearch
            )
        return faiss.SearchParameters(sel=selector)

    def _cheapest_route(self, n_queries: int) -> AbstractContextManager[None]:
        """How a scan of a flat index runs fastest: threads, or a matrix product.

        FAISS 1.15 splits the rows over the threads for a lone query and is then
        4 times slower than on one thread (500k x 384: 160 against 34 ms).
        """
        if not self._is_flat:
            return nullcontext()
        if n_queries == 1 or n_queries * self.n_rows * self.dimension < SMALL_SCAN:
            return _one_thread(self._faiss)
        if n_queries < SCANS_PER_MATRIX_PRODUCT * self._faiss.omp_get_max_threads():
            return nullcontext()
        return _matrix_product(self._faiss)


def _longest(rows: NDArray[np.float32]) -> float:
    """A length that no row exceeds; not finite where a row is not."""
    parts = np.split(rows, range(_ROWS_MEASURED, len(rows), _ROWS_MEASURED))
    squares = [np.einsum("nd,nd->n", part, part).max() for part in parts]
    error = max(_LENGTH_ERROR, rows.shape[1] * _ADDITION_ERROR)
    return float(np.sqrt(np.max(squares)) * (1 + error))


@contextmanager
def _one_thread(faiss: ModuleType) -> Iterator[None]:
    """Let FAISS use one thread; OpenMP keeps this number per calling thread."""
    earlier = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(earlier)


@contextmanager
def _matrix_product(faiss: ModuleType) -> Iterator[None]:
    """Let FAISS scan with one matrix product for all queries.

    It decides by a variable of the whole process, so that is set for this search
    only, one such search at a time. Releases that lack it decide on their own.
    On one thread, since BLAS threads that have to share the cores with others
    spin: 32 queries then took 8 seconds instead of 0.3.
    """
    cvar = faiss.cvar
    if not hasattr(cvar, "distance_compute_blas_threshold"):
        yield
        return
    with _threshold_lock, _one_thread(faiss):
        earlier = cvar.distance_compute_blas_threshold
        cvar.distance_compute_blas_threshold = 1
        try:
            yield
        finally:
            cvar.distance_compute_blas_threshold = earlier


def _import_faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as cause:
        module = "faiss"
        raise MissingExtraError.of(module, "faiss") from cause
    faiss_module: ModuleType = faiss
    return faiss_module


def _metric_of(faiss: ModuleType, index: Any) -> Metric:
    """How the index compares vectors.

    Raises:
        InvalidValueError: neither by inner product nor by L2 distance, or no index.
    """
    if not isinstance(index, faiss.Index):
        msg = f"index must be a FAISS index, got a {type(index).__name__}"
        raise InvalidValueError(msg)
    if index.metric_type == faiss.METRIC_INNER_PRODUCT:
        return "inner_product"
    if index.metric_type == faiss.METRIC_L2:
        return "squared_l2"
    msg = (
        f"the FAISS index has metric_type {index.metric_type}; "
        "use one built for the inner product or the L2 distance"
    )
    raise InvalidValueError(msg)
