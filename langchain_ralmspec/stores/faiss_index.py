"""A FAISS index: which rows are near, found by the scan that is fastest."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from langchain_ralmspec.errors import InvalidValueError, MissingExtraError
from langchain_ralmspec.scans import BATCHES, Metric, Scan, loaded_torch
from langchain_ralmspec.scans.faiss import one_thread
from langchain_ralmspec.scans.memory import has_room
from langchain_ralmspec.stores.base import MaxNorm

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

# Numbers compared in about 5 ms by one thread. Below that a second thread gains
# little, and waiting for it on a busy machine costs a time slice (12 ms).
SMALL_SCAN = 30_000_000
_MOST_FAILURES = 3
_ROWS_MEASURED = 1 << 16
_LENGTH_ERROR = 1e-4  # of a length in float32, relative: at least so much is added
_ADDITION_ERROR = 2.0**-24  # of it, for every number that is added up


class Found(NamedTuple):
    """Rows per query and their vectors; row -1 means there were no more."""

    rows: NDArray[np.int64]  # (queries, width)
    vectors: NDArray[np.float32]  # (queries, width, dimension)


class _Known(NamedTuple):
    """A scan of the index, or None where FAISS is to search."""

    scan: Scan | None
    layout: object
    torch: ModuleType | None
    is_prepared: bool  # whether a copy in bfloat16 was tried as well


class _Measured(NamedTuple):
    """How far the first rows reach."""

    extent: MaxNorm
    n_rows: int
    layout: object


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
        # One attribute, so that no thread takes one scan for another.
        self._known: _Known | None = None
        self._making = threading.Lock()
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
        layout: object = None,
    ) -> Found:
        """Find the nearest rows of every query, and their vectors.

        Args:
            vectors: the queries, shape ``(queries, dimension)``, at least one.
            width: rows per query, at least 1.
            allowed: which rows may be found, shape ``(n_rows,)``; None means all.
            layout: another object whenever rows were renumbered, not only added.

        Returns:
            ``width`` rows per query. Exact for a flat index, filtered or not; an
            approximate one may find fewer (row -1) than there are.
        """
        is_small = len(vectors) * self.n_rows * self.dimension < SMALL_SCAN
        is_lone = is_small or len(vectors) == 1
        if allowed is None and not is_lone:
            found = self._found_by_scan(vectors, width, layout)
            if found is not None:
                return found
        params = None if allowed is None else self._restricted_to(allowed)
        if params is not None and self._is_ivf:
            # FAISS refuses to give the vectors during such a search.
            _, rows = self._index.search(vectors, width, params=params)
            return Found(rows, self._vectors_of(rows))
        # FAISS 1.15 splits the rows over the threads for a lone query and is then 4
        # times slower than on one thread (500k x 384: 160 against 34 ms).
        is_single = self._is_flat and is_lone
        with one_thread(self._faiss) if is_single else nullcontext():
            _, rows, stored = self._index.search_and_reconstruct(
                vectors, width, params=params
            )
        return Found(rows, stored)

    def prepare(self, layout: object) -> None:
        """Try which scan is fastest for batches, and copy the rows where that pays.

        It may take memory and seconds at first, and is for nothing after that but for
        rows that are new. Where there is no memory for a copy there is none.

        Args:
            layout: as in :meth:`candidates`.
        """
        n_numbers = self.n_rows * self.dimension * BATCHES[-1]
        if self._is_matrix and n_numbers >= max(1, SMALL_SCAN):
            self._scan_of(self._matrix(), layout, is_prepared=True)

    def extent(self, layout: object) -> MaxNorm | None:
        """How far the rows reach; those that are known are not read again.

        Args:
            layout: as in :meth:`candidates`.

        Returns:
            One object until rows are added or removed. None where an index may miss
            the nearest, or there is no finite length.
        """
        if not (self._is_matrix and self.n_rows):
            return None
        with self._measuring:
            known, matrix = self._measured, self._matrix()
            if (
                known is None
                or known.layout is not layout
                or known.n_rows > len(matrix)
            ):
                known = _Measured(MaxNorm(0.0), 0, layout)
            if known.n_rows < len(matrix):
                longest = _longest(matrix[known.n_rows :])
                longest = float(np.maximum(known.extent.longest, longest))  # or a NaN
                known = _Measured(MaxNorm(longest), len(matrix), layout)
            self._measured = known
        return known.extent if np.isfinite(known.extent.longest) else None

    @property
    def scans_by_product(self) -> bool:
        """Whether batches are scanned by one matrix product."""
        scan = self._known and self._known.scan
        return bool(scan and set(scan.chosen.values()) > {"rival"})

    def _scan_of(
        self, matrix: NDArray[np.float32], layout: object, *, is_prepared: bool
    ) -> Scan | None:
        """A scan of the matrix, a new one where the last one is of no use any more.

        Rows only change when documents are deleted, which makes a new layout; a sample
        tells of what somebody has done to the index itself.
        """
        torch = loaded_torch()
        with self._making:
            known = self._known
            if (
                known
                and known.layout is layout
                and (not is_prepared or (known.is_prepared and known.torch is torch))
                and (known.scan is None or _follows(known.scan, matrix))
            ):
                return known.scan
            self._known = None  # before another one takes the memory of its copy
            rounded = is_prepared and has_room(2 * matrix.size)
            scan = self._made(matrix, torch, rounded=rounded)
            if rounded:
                try:
                    scan.prepare()
                except (RuntimeError, MemoryError):  # torch's own is the former
                    scan = self._made(matrix, torch, rounded=False)
            self._known = _Known(scan, layout, torch, is_prepared)
            return scan

    def _made(
        self, matrix: NDArray[np.float32], torch: ModuleType | None, *, rounded: bool
    ) -> Scan:
        knn, metric = self._faiss.knn, self._index.metric_type

        def by_faiss(rows: NDArray[np.float32], queries: NDArray[np.float32]) -> object:
            return knn(queries, rows, 1, metric=metric)

        return Scan(matrix, self.metric, torch, rounded=rounded, rival=by_faiss)

    def _matrix(self) -> NDArray[np.float32]:
        """FAISS's own memory, shape ``(n_rows, dimension)``."""
        n_rows = self.n_rows
        numbers = self._faiss.rev_swig_ptr(
            self._index.get_xb(), n_rows * self.dimension
        )
        matrix: NDArray[np.float32] = numbers.reshape(n_rows, self.dimension)
        return matrix

    def _found_by_scan(
        self, vectors: NDArray[np.float32], width: int, layout: object
    ) -> Found | None:
        """What a scan of FAISS's own memory finds; None where FAISS is to search."""
        if not self._is_matrix or width > self.n_rows:
            return None
        matrix = self._matrix()
        scan = self._scan_of(matrix, layout, is_prepared=False)
        candidates = scan and scan.candidates(vectors, width)
        if scan and scan.failures >= _MOST_FAILURES:
            with self._making:  # it would scan for nothing again
                if self._known and self._known.scan is scan:
                    self._known = self._known._replace(scan=None)
        if not candidates:
            return None
        best = [
            self._best(matrix, query, rows, width)
            for query, rows in zip(vectors, candidates, strict=True)
        ]
        return Found(np.stack([r for r, _ in best]), np.stack([v for _, v in best]))

    def _best(
        self,
        matrix: NDArray[np.float32],
        query: NDArray[np.float32],
        rows: NDArray[np.int64],
        width: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best of some rows, equal ones by the lower row, and their vectors."""
        found = matrix[rows]
        if self.metric == "inner_product":
            exact = -(found @ query)
        else:
            apart = found - query
            exact = np.einsum("nd,nd->n", apart, apart)
        order = np.lexsort((rows, exact))[:width]
        return rows[order], found[order]

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


def _longest(rows: NDArray[np.float32]) -> float:
    """A length that no row exceeds; not finite where a row is not."""
    parts = np.split(rows, range(_ROWS_MEASURED, len(rows), _ROWS_MEASURED))
    squares = [np.einsum("nd,nd->n", part, part).max() for part in parts]
    error = max(_LENGTH_ERROR, rows.shape[1] * _ADDITION_ERROR)
    return float(np.sqrt(np.max(squares)) * (1 + error))


def _follows(scan: Scan, matrix: NDArray[np.float32]) -> bool:
    """Whether a scan takes in what was appended, and there is memory for it."""
    n_bytes = (len(matrix) - len(scan)) * scan.bytes_per_row
    return (n_bytes <= 0 or has_room(n_bytes)) and scan.follow(matrix)


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
