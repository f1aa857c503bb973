"""FAISS: exact order, whatever the batch, and batched where batching pays."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from langchain_ralmspec.errors import (
    InvalidValueError,
    MissingExtraError,
    StoreError,
)
from langchain_ralmspec.stores.arguments import check_k, query_matrix
from langchain_ralmspec.stores.base import Hit, Metric, Query
from langchain_ralmspec.stores.embedding import Encoder, make_queries
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.faiss_rows import Filter, FixedRows, LangChainRows, Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from langchain_core.documents import Document
    from numpy.typing import NDArray

# Candidates fetched beyond k: rounding may place a true hit just behind the cut.
MARGIN = 8
# How far FAISS's float32 score may be from the true one, relative to the squared
# lengths of the two vectors (its BLAS route subtracts numbers of that size).
ROUNDING = 1e-6
# One matrix product for all queries costs as much as this many separate scans
# per thread (384 dimensions, 500k rows: 2 threads break even near 10 queries).
SCANS_PER_MATRIX_PRODUCT = 5

_threshold_lock = threading.Lock()


class _Candidates(NamedTuple):
    """Rows found per query and their vectors; row -1 means there were no more."""

    rows: NDArray[np.int64]  # (queries, width)
    vectors: NDArray[np.float32]  # (queries, width, dimension)


class _Scored(NamedTuple):
    """One candidate with its exact score."""

    score: float
    id: str
    vector: NDArray[np.float32]  # (dimension,)


class FaissStore:
    """Documents behind a FAISS index.

    FAISS finds candidates; their scores are then computed again in float64, one
    query at a time, and equal scores ordered by the smaller id. So neither the
    number of queries in the call nor the route FAISS takes can change an answer.

    Attributes:
        metric: ``"inner_product"`` or ``"squared_l2"``, from the index. A score
            is the inner product or the negated squared distance.
        dimension: length of the stored vectors.
        stable_k: None for flat and IVF indexes over whole or scalar-quantised
            vectors, which rank by the score itself. For HNSW the largest ``k``
            that leaves the search width at the index's ``efSearch``. 0 for others.
    """

    def __init__(
        self,
        index: Any,
        documents: Sequence[Document] | LangChainRows,
        embeddings: Encoder,
        *,
        ids: Sequence[str] | None = None,
        normalize: bool = False,
    ) -> None:
        """Put documents behind an index.

        Args:
            index: a FAISS index whose vectors can be reconstructed.
            documents: one per row of the index, in row order.
            embeddings: embeds the queries.
            ids: one per document; the document's own id, else its row number,
                when None.
            normalize: whether query vectors are scaled to length 1.

        Raises:
            MissingExtraError: faiss is not installed.
            InvalidValueError: the ids are not unique, documents and rows differ
                in number, or the index has another metric.
        """
        self._faiss = _import_faiss()
        self._index = index
        self._embeddings = embeddings
        self._normalize = normalize
        self._rows: Rows = (
            documents
            if isinstance(documents, LangChainRows)
            else FixedRows(documents, ids)
        )
        n_documents = len(self._rows.ids())
        if n_documents != index.ntotal:
            msg = f"the index has {index.ntotal} rows for {n_documents} documents"
            raise InvalidValueError(msg)
        self.metric: Metric = _metric_of(self._faiss, index)
        self.dimension: int | None = int(index.d)
        # make_direct_map rebuilds shared state of the index.
        self._direct_map_lock = threading.Lock()

    @classmethod
    def from_langchain(cls, store: Any, filter: Filter | None = None) -> FaissStore:  # noqa: A002 (LangChain's name)
        """Wrap a LangChain FAISS store; later additions and deletions are seen.

        Args:
            store: the LangChain store.
            filter: restricts every search, as in ``store.similarity_search``. Unlike
                there it is applied inside the search: a flat index finds the ``k``
                best of all documents that pass, however few they are.

        Raises:
            MissingExtraError: faiss is not installed.
            InvalidValueError: the store cannot use the filter, its index and its
                documents differ in number, or the index has another metric.
        """
        return cls(
            store.index,
            LangChainRows(store, filter),
            store.embedding_function,
            normalize=bool(getattr(store, "_normalize_L2", False)),
        )

    @property
    def stable_k(self) -> int | None:
        """Largest ``k`` up to which a larger one leaves the earlier hits alone."""
        if self._ranks_by_score():
            return None
        if isinstance(self._index, self._faiss.IndexHNSW) and isinstance(
            self._index, (self._faiss.IndexHNSWFlat, self._faiss.IndexHNSWSQ)
        ):
            return max(0, int(self._index.hnsw.efSearch) - MARGIN)
        return 0

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries, in one batch.

        Raises:
            StoreError: the encoder raised, or returned something unusable.
        """
        queries = make_queries(self._embeddings, texts)
        if not self._normalize:
            return queries
        # As LangChain does it, so that its own search sees the same vectors.
        vectors = np.stack(
            [query.vector for query in queries if query.vector is not None]
        )
        self._faiss.normalize_L2(vectors)
        return [
            Query(query.text, vector, query.batched)
            for query, vector in zip(queries, vectors, strict=True)
        ]

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the ``k`` best documents for every query, best first, in one call.

        Args:
            queries: made by ``encode``.
            k: hits per query; fewer come back when the store holds fewer.
            with_vectors: whether the hits carry their stored vectors.

        Returns:
            One list of hits per query; equal scores by the smaller id.

        Raises:
            InvalidValueError: ``k`` is below 1, or a query has no vector.
            DimensionMismatchError: a query vector does not fit the index.
            StoreError: FAISS raised, or a row has no document.
        """
        check_k(k)
        if not queries:
            return []
        vectors = query_matrix(queries, self.dimension, "the FAISS index")
        with reported_as_store_error("FAISS", "search"):
            ranked = self._ranked(vectors, k)
            return [
                [self._hit(found, with_vectors=with_vectors) for found in hits]
                for hits in ranked
            ]

    def count(self) -> int:
        """Number of stored documents, those that a filter hides included."""
        return int(self._index.ntotal)

    def _hit(self, found: _Scored, *, with_vectors: bool) -> Hit:
        # A copy: the vector must not keep the whole answer of FAISS alive.
        vector = found.vector.copy() if with_vectors else None
        return Hit(found.id, self._rows.document(found.id), found.score, vector)

    def _ranks_by_score(self) -> bool:
        """Whether FAISS ranks a fixed set of rows by the very score we compute."""
        exact = (
            self._faiss.IndexFlat,
            self._faiss.IndexScalarQuantizer,
            self._faiss.IndexIVFFlat,
            self._faiss.IndexIVFScalarQuantizer,
        )
        return isinstance(self._index, exact)

    def _ranked(self, vectors: NDArray[np.float32], k: int) -> list[list[_Scored]]:
        """Score, id and vector of the best ``k`` rows of every query."""
        n_rows = self.count()
        ranked: list[list[_Scored]] = [[] for _ in vectors]
        pending = list(range(len(vectors))) if n_rows else []
        width = min(k + MARGIN, n_rows)
        while pending:
            ids = self._rows.ids()
            found = self._candidates(vectors[pending], width)
            undecided = []
            for number, rows, stored in zip(pending, *found, strict=True):
                there = rows >= 0
                scored = self._scored(vectors[number], rows[there], stored[there], ids)
                ranked[number] = scored[:k]
                if len(scored) == width < n_rows and self._cut_is_open(
                    vectors[number], scored, k
                ):
                    undecided.append(number)
            pending, width = undecided, min(4 * width, n_rows)
        return ranked

    def _scored(
        self,
        query: NDArray[np.float32],
        rows: NDArray[np.int64],
        stored: NDArray[np.float32],
        ids: Any,
    ) -> list[_Scored]:
        """Candidates of one query with their exact scores, best first."""
        missing = [row for row in rows.tolist() if row not in ids]
        if missing:
            msg = f"the FAISS rows {missing} stand for no document"
            raise StoreError(msg)
        # Element by element and row by row: BLAS would round differently for
        # different numbers of rows.
        if self.metric == "inner_product":
            scores = (stored.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        else:
            apart = stored.astype(np.float64) - query.astype(np.float64)
            scores = -(apart * apart).sum(axis=1)
        scored = [
            _Scored(score, ids[row], vector)
            for score, row, vector in zip(
                scores.tolist(), rows.tolist(), stored, strict=True
            )
        ]
        return sorted(scored, key=lambda found: (-found.score, found.id))

    def _cut_is_open(
        self,
        query: NDArray[np.float32],
        scored: list[_Scored],
        k: int,
    ) -> bool:
        """Whether a row that was not fetched may still belong to the best ``k``.

        It may when the last candidate scores like the k-th: many copies of one
        vector, say. Only indexes that rank by the score can be asked for more
        without changing what they find.
        """
        if not self._ranks_by_score():
            return False
        last_in, last = scored[k - 1], scored[-1]
        lengths = float(query @ query) + float(last_in.vector @ last_in.vector)
        return last_in.score - last.score <= ROUNDING * lengths

    def _candidates(self, vectors: NDArray[np.float32], width: int) -> _Candidates:
        """Let FAISS find ``width`` rows per query, and fetch their vectors."""
        n_queries = len(vectors)
        if n_queries == 1 and isinstance(self._index, self._faiss.IndexFlat):
            # FAISS 1.15 splits the rows over the threads for a lone query and is
            # then 4 times slower than for two (500k x 384: 160 against 36 ms).
            vectors = np.repeat(vectors, 2, axis=0)
        allowed = self._rows.allowed(self.count())
        params = None if allowed is None else self._restricted_to(allowed)
        with self._matrix_product_if_cheaper(n_queries):
            if params is None or not isinstance(self._index, self._faiss.IndexIVF):
                _, rows, stored = self._index.search_and_reconstruct(
                    vectors, width, params=params
                )
                return _Candidates(rows[:n_queries], stored[:n_queries])
            _, rows = self._index.search(vectors, width, params=params)
        return _Candidates(rows, self._reconstructed(rows))

    def _reconstructed(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows of an IVF index; those of row -1 are arbitrary.

        Only filtered searches need this (FAISS refuses to reconstruct during
        them), since the direct map it takes makes FAISS refuse removals.
        """
        with self._direct_map_lock:
            if self._index.direct_map.no():
                self._index.make_direct_map()
        flat = np.maximum(rows, 0).reshape(-1)
        vectors: NDArray[np.float32] = self._index.reconstruct_batch(flat)
        return vectors.reshape(*rows.shape, -1)

    def _restricted_to(self, allowed: NDArray[np.bool_]) -> Any:
        """Search parameters that admit some rows and change nothing else."""
        faiss = self._faiss
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if isinstance(self._index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nprobe)
        if isinstance(self._index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(
                sel=selector, efSearch=self._index.hnsw.efSearch
            )
        return faiss.SearchParameters(sel=selector)

    @contextmanager
    def _matrix_product_if_cheaper(self, n_queries: int) -> Iterator[None]:
        """Scan a flat index with one matrix product for all queries, if that pays.

        FAISS decides by a variable of the whole process, so it is set for this
        search only, one such search at a time.
        """
        cvar = self._faiss.cvar
        break_even = SCANS_PER_MATRIX_PRODUCT * self._faiss.omp_get_max_threads()
        if (
            n_queries < break_even
            or not isinstance(self._index, self._faiss.IndexFlat)
            or not hasattr(cvar, "distance_compute_blas_threshold")
        ):
            yield
            return
        with _threshold_lock:
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
        InvalidValueError: neither by inner product nor by L2 distance.
    """
    if index.metric_type == faiss.METRIC_INNER_PRODUCT:
        return "inner_product"
    if index.metric_type == faiss.METRIC_L2:
        return "squared_l2"
    msg = (
        f"the FAISS index has metric_type {index.metric_type}; "
        "use one built for the inner product or the L2 distance"
    )
    raise InvalidValueError(msg)
