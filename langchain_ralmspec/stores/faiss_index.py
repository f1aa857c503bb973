"""A FAISS index: which rows are near, found by the scan that is fastest."""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext, suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from langchain_ralmspec import machine
from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.scans import (
    BATCHES,
    Metric,
    Scan,
    installed_faiss,
    loaded_torch,
    longest_of,
    one_thread,
)
from langchain_ralmspec.stores.base import MaxNorm
from langchain_ralmspec.stores.faiss_kinds import metric_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# Numbers compared in about 5 ms by one thread. Below that a second thread gains
# little, and waiting for it on a busy machine costs a time slice (12 ms).
SMALL_SCAN = 30_000_000
_MOST_FAILURES = 3
_MEMORY_SHARE = 0.75  # of the free memory that a copy may take
_ROWS_MEASURED = 1 << 16


_MANY_LISTS = 10_000  # FAISS's own, in utils/distances.cpp


class NearestRows(NamedTuple):
    """Rows per query and their vectors; row -1 means there were no more."""

    rows: NDArray[np.int64]  # (queries, width)
    vectors: Floats  # (queries, width, dimension)


class _Known(NamedTuple):
    """A prepared scan of the index, or None where FAISS is to search."""

    scan: Scan | None
    layout: object
    torch: ModuleType | None


class FaissIndex:
    """What a store asks of an index, the same for every kind of index.

    The ``layout`` that methods take is another object whenever rows were renumbered,
    not only added.

    Args:
        index: a FAISS index whose vectors can be reconstructed.

    Attributes:
        metric: how the index compares vectors.
        dimension: length of the stored vectors.
        faiss: the module.
        is_matrix: whether it is a plain flat index, a matrix in memory.
        ranks_by_score: whether FAISS ranks by the very score that the stored
            vectors give, among rows that do not depend on how many are asked for.
            Then asking for more only adds rows at the end.

    Raises:
        MissingExtraError: faiss is not installed.
        InvalidValueError: it is no FAISS index, or has neither the inner product nor
            the L2 distance as its metric.
    """

    def __init__(self, index: Any) -> None:
        self.faiss = faiss = installed_faiss()
        self._index = index
        self._is_flat = isinstance(index, faiss.IndexFlat)
        self._is_inverted = isinstance(index, faiss.IndexIVF)
        self.metric: Metric = metric_of(faiss, index)
        self.dimension = int(index.d)
        # Of these types only: a subclass may lay its vectors out in another way, as
        # IndexFlatPanorama does.
        matrices = {faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2}
        self.is_matrix = type(index) in matrices
        # Not HNSW: among many equal vectors, asking for more finds others.
        self.ranks_by_score = self._is_flat or isinstance(
            index,
            (
                faiss.IndexScalarQuantizer,
                faiss.IndexIVFFlat,
                faiss.IndexIVFScalarQuantizer,
            ),
        )
        # One attribute, so that no thread takes one scan for another.
        self._known: _Known | None = None
        # The bound of the norms of the first rows of a layout.
        self._measured: tuple[MaxNorm, int, object] = MaxNorm(0.0), 0, None
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Have free locks: threads that held them are not in a forked process."""
        self._making = threading.Lock()  # held for seconds, which no search waits for
        self._publishing = threading.Lock()
        self._measuring = threading.Lock()
        # Making a direct map rebuilds shared state of the index.
        self._direct_map_lock = threading.Lock()

    @property
    def raw(self) -> Any:
        """The index of FAISS itself."""
        return self._index

    @property
    def _most_alike(self) -> int | None:
        """How many queries one call may answer as it answers each alone; None for all.

        For more, FAISS finds the lists of an inverted index by a product of matrices,
        with other bits: from so many numbers on, or so many queries in older releases.
        """
        if not self._is_inverted:
            return None
        threshold = int(self.faiss.cvar.distance_compute_blas_threshold)
        return max(1, (threshold - 1) // self.dimension)

    @property
    def _has_many_lists(self) -> bool:
        """Whether FAISS would find the lists of fewer queries than threads otherwise.

        It does so from ``_MANY_LISTS`` lists on, with other bits, where it has threads.
        """
        return self._is_inverted and self._index.nlist >= _MANY_LISTS

    @property
    def n_rows(self) -> int:
        """Number of stored vectors."""
        return int(self._index.ntotal)

    @property
    def scans_by_product(self) -> bool:
        """Whether batches are scanned by one matrix product."""
        scan = self._known and self._known.scan
        return scan is not None and any(
            form != "rival" for form in scan.chosen.values()
        )

    def normalized(self, vectors: Floats) -> Floats:
        """Vectors scaled to length 1, to the bit as LangChain scales them; copies."""
        units = vectors.copy()
        self.faiss.normalize_L2(units)
        return units

    def vectors(self, rows: NDArray[np.int64]) -> Floats:
        """Copies of some rows of a plain flat index."""
        copied: Floats = self._matrix()[rows]
        return copied

    def candidates(
        self,
        vectors: Floats,
        width: int,
        allowed: NDArray[np.bool_] | None,
        layout: object = None,
    ) -> NearestRows:
        """Find the nearest rows of every query, and their vectors.

        Args:
            vectors: the queries, shape ``(queries, dimension)``, at least one.
            width: rows per query, at least 1.
            allowed: which rows may be found, shape ``(n_rows,)``; None means all.
            layout: as the class says.

        Returns:
            ``width`` rows per query. Exact for a flat index, filtered or not; an
            approximate one may find fewer (row -1) than there are.
        """
        most = self._most_alike
        if most and len(vectors) > most:
            parts = np.array_split(vectors, math.ceil(len(vectors) / most))
            each = [self.candidates(part, width, allowed, layout) for part in parts]
            rows = np.concatenate([one.rows for one in each])
            return NearestRows(rows, np.concatenate([one.vectors for one in each]))
        is_small = len(vectors) * self.n_rows * self.dimension < SMALL_SCAN
        is_lone = is_small or len(vectors) == 1
        if allowed is None and not is_lone:
            found = self._found_by_scan(vectors, width, layout)
            if found is not None:
                return found
        params = None if allowed is None else self._restricted_to(allowed)
        if params is not None and self._is_inverted:
            # FAISS refuses to give the vectors during such a search.
            with one_thread(self.faiss) if self._has_many_lists else nullcontext():
                _, rows = self._index.search(vectors, width, params=params)
            return NearestRows(rows, self._vectors_of(rows))
        # FAISS 1.15 splits the rows over the threads for a lone query and is then 4
        # times slower than on one thread (500k x 384: 160 against 34 ms).
        is_single = self._has_many_lists or (self._is_flat and is_lone)
        with one_thread(self.faiss) if is_single else nullcontext():
            _, rows, stored = self._index.search_and_reconstruct(
                vectors, width, params=params
            )
        return NearestRows(rows, stored)

    def prepare(self, layout: object) -> None:
        """Try which scan is fastest for batches, and copy the rows where that pays.

        It may take memory and seconds at first, and is for nothing after that but for
        rows that are new. Where there is no memory for a copy there is none. Batches
        are FAISS's until it has returned, in this or another thread.
        """
        n_numbers = self.n_rows * self.dimension * BATCHES[-1]
        if not self.is_matrix or n_numbers < max(1, SMALL_SCAN):
            return
        if not self._making.acquire(blocking=False):
            return
        try:
            matrix, torch = self._matrix(), loaded_torch()
            if not self._is_prepared(matrix, layout, torch):
                with self._publishing:  # before another one takes the memory of a copy
                    self._known = None
                known = _Known(self._new_scan(matrix, torch), layout, torch)
                with self._publishing:
                    self._known = known
        finally:
            self._making.release()

    def max_norm(self, layout: object) -> MaxNorm | None:
        """Bound of the rows' norms; rows that are known are not read again.

        Returns:
            One object until rows are added or removed. None where an index may miss
            the nearest, or there is no finite length.
        """
        if not (self.is_matrix and self.n_rows):
            return None
        with self._measuring:
            (norm, n_rows, earlier), matrix = self._measured, self._matrix()
            if earlier is not layout or n_rows > len(matrix):
                norm, n_rows = MaxNorm(0.0), 0
            if n_rows < len(matrix):
                longest = _longest(matrix[n_rows:])
                norm = MaxNorm(float(np.maximum(norm.longest, longest)))  # or a NaN
            self._measured = norm, len(matrix), layout
        return norm if np.isfinite(norm.longest) else None

    def _is_prepared(
        self, matrix: Floats, layout: object, torch: ModuleType | None
    ) -> bool:
        """Whether what is known of the index holds for all rows it has now.

        Rows only change when documents are deleted, which makes a new layout; a sample
        tells of what somebody has done to the index itself.
        """
        known = self._known
        if known is None or known.layout is not layout or known.torch is not torch:
            return False
        scan = known.scan
        return scan is None or (_follows(scan, matrix) and bool(scan.chosen))

    def _new_scan(self, matrix: Floats, torch: ModuleType | None) -> Scan:
        """A scan that has chosen its forms, with a copy where there is memory."""
        knn, metric = self.faiss.knn, self._index.metric_type

        def prepared(*, rounded: bool) -> Scan:
            scan = Scan(
                matrix,
                self.metric,
                torch,
                rounded=rounded,
                rival=lambda rows, queries: knn(queries, rows, 1, metric=metric),
            )
            scan.prepare()
            return scan

        if has_room(2 * matrix.size):
            # RuntimeError is how torch says that there is no memory.
            with suppress(RuntimeError, MemoryError):
                return prepared(rounded=True)
        return prepared(rounded=False)

    def _matrix(self) -> Floats:
        """FAISS's own memory, shape ``(n_rows, dimension)``."""
        shape = self.n_rows, self.dimension
        numbers = self.faiss.rev_swig_ptr(self._index.get_xb(), shape[0] * shape[1])
        matrix: Floats = numbers.reshape(shape)
        return matrix

    def _found_by_scan(
        self, vectors: Floats, width: int, layout: object
    ) -> NearestRows | None:
        """What a scan of FAISS's own memory finds; None where FAISS is to search."""
        known = self._known
        if not (known and known.scan and known.layout is layout):
            return None
        scan, matrix = known.scan, self._matrix()
        if width > len(matrix) or not _follows(scan, matrix):
            return None
        candidates = scan.candidates(vectors, width)
        if scan.failures >= _MOST_FAILURES:  # it would scan for nothing again
            with self._publishing:
                if self._known is known:
                    self._known = known._replace(scan=None)
        if candidates is None:
            return None
        matrix = self._matrix()  # another thread may have added rows that were scanned
        best = [
            self._best(matrix, query, rows, width)
            for query, rows in zip(vectors, candidates, strict=True)
        ]
        rows, stored = zip(*best, strict=True)
        return NearestRows(np.stack(rows), np.stack(stored))

    def _best(
        self, matrix: Floats, query: Floats, rows: NDArray[np.int64], width: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """The best of some rows, equal ones by the lower row, and their vectors."""
        found = matrix[rows]
        if self.metric == "inner_product":
            exact = -(found @ query)
        else:
            apart = found - query
            exact = np.einsum("nd,nd->n", apart, apart)
        order = np.lexsort((rows, exact))[:width]
        return rows[order], found[order]

    def _vectors_of(self, rows: NDArray[np.int64]) -> Floats:
        """Vectors of rows of an IVF index; those of row -1 are arbitrary.

        The first call makes the direct map that this takes. FAISS then refuses to
        remove vectors, so the map is made for filtered searches only.
        """
        with self._direct_map_lock:
            if self._index.direct_map.no():
                self._index.make_direct_map()
        found = np.maximum(rows, 0).reshape(-1)
        vectors: Floats = self._index.reconstruct_batch(found)
        return vectors.reshape(*rows.shape, self.dimension)

    def _restricted_to(self, allowed: NDArray[np.bool_]) -> Any:
        """Search parameters that admit some rows and change nothing else."""
        faiss, index = self.faiss, self._index
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
        if isinstance(index, faiss.IndexHNSW):
            width = index.hnsw.efSearch
            return faiss.SearchParametersHNSW(sel=selector, efSearch=width)
        return faiss.SearchParameters(sel=selector)


def has_room(n_bytes: int) -> bool:
    """Whether there is memory for a copy, and a quarter of what is free left."""
    spare = machine.free_memory()
    return spare is None or n_bytes <= _MEMORY_SHARE * spare


def _longest(rows: Floats) -> float:
    """A length that no row exceeds; not finite where a row is not."""
    parts = np.split(rows, range(_ROWS_MEASURED, len(rows), _ROWS_MEASURED))
    squares = [np.einsum("nd,nd->n", part, part).max() for part in parts]
    return longest_of(np.array(squares), rows.shape[1])


def _follows(scan: Scan, matrix: Floats) -> bool:
    """Whether a scan takes in what was appended, and there is memory for it."""
    n_bytes = scan.growth(len(matrix))
    return (n_bytes <= 0 or has_room(n_bytes)) and scan.follow(matrix)
