"""Chroma: embedded, persistent or a server, one request for many queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from langchain_core.documents import Document

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.stores.arguments import check_k, query_matrix
from langchain_ralmspec.stores.base import Hit, Metric, Query
from langchain_ralmspec.stores.embedding import make_queries
from langchain_ralmspec.stores.failures import reported_as_store_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.embeddings import Embeddings
    from numpy.typing import NDArray

# Hits fetched beyond k, so that equal distances at the cut fall to the smaller id.
MARGIN = 4
# SQLite, under a Chroma of one machine, refuses more than 32766 results at once.
MAX_RESULTS = 32_000
_METRICS: dict[str, Metric] = {
    "l2": "squared_l2",
    "cosine": "cosine",
    "ip": "inner_product",
}


class ChromaStore:
    """A LangChain Chroma store, asked many queries in one request.

    The order is Chroma's own, by distance, equal distances by the smaller id.
    As in LangChain, records without a document text are left out of the hits.

    Attributes:
        metric: from the collection's space. Scores are the negated squared
            distance for ``l2``, the similarity for ``cosine`` and ``ip``.
        top_k_is_stable: False: hnswlib searches with width
            ``max(ef_search, n_results)``, of many equal vectors it finds as many as it
            is asked for, and records without text are left out only afterwards.
    """

    top_k_is_stable = False

    def __init__(self, store: Any, filter: dict[str, Any] | None = None) -> None:  # noqa: A002 (LangChain's name)
        """Wrap a store.

        Args:
            store: a ``langchain_chroma.Chroma``.
            filter: condition on the metadata, Chroma's ``where``.

        Raises:
            InvalidValueError: the store has no embedding function.
        """
        if store._embedding_function is None:  # noqa: SLF001 (no public name)
            msg = (
                f"the Chroma store {store._collection.name!r} has no embedding "  # noqa: SLF001
                "function; construct it with embedding_function=…"
            )
            raise InvalidValueError(msg)
        self._store = store
        self._filter = filter
        self._embeddings: Embeddings = store._embedding_function  # noqa: SLF001
        self._name = f"Chroma collection {self._collection.name!r}"
        # The raw form: reading the parsed one warns about collections that, as
        # LangChain's, were made without an embedding function of Chroma's.
        configuration = self._collection.configuration_json or {}
        hnsw, spann = configuration.get("hnsw"), configuration.get("spann")
        space = (hnsw or spann or {}).get("space") or "l2"
        self.metric: Metric = _METRICS[space]
        self._seen: tuple[object, int] | None = None

    @property
    def _collection(self) -> Any:
        # Read each time: reset_collection() puts another one in its place.
        return self._store._collection  # noqa: SLF001 (no public name)

    @property
    def dimension(self) -> int | None:
        """Length of the stored vectors; None while the collection is empty.

        The first reading asks the collection for one record.

        Raises:
            StoreError: Chroma raised.
        """
        collection = self._collection
        if self._seen is None or self._seen[0] != collection.id:
            with reported_as_store_error(self._name, "give its dimension"):
                record = collection.get(limit=1, include=["embeddings"])
            if len(record["embeddings"]) == 0:
                return None
            self._seen = (collection.id, len(record["embeddings"][0]))
        return self._seen[1]

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries, in one batch.

        Raises:
            StoreError: the encoder raised, or returned something unusable.
        """
        return make_queries(self._embeddings, texts)

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the ``k`` best documents for every query, best first, in one request.

        Only when queries times hits exceed what SQLite takes at once (32,000) is
        there more than one.

        Args:
            queries: made by ``encode``.
            k: hits per query; fewer come back when the collection holds fewer.
            with_vectors: whether the hits carry their stored vectors. A server
                sends those as text, so ask only when they are needed.

        Returns:
            One list of hits per query; equal scores by the smaller id.

        Raises:
            InvalidValueError: ``k`` is below 1, or a query has no vector.
            DimensionMismatchError: a query vector does not fit the collection.
            StoreError: Chroma raised, e.g. because the server is gone.
        """
        check_k(k)
        if not queries:
            return []
        vectors = query_matrix(queries, self.dimension, self._name)
        n_results = k + MARGIN
        per_request = max(1, MAX_RESULTS // n_results)
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), per_request):
            chunk = vectors[start : start + per_request]
            hits += self._search_at_once(chunk, n_results, with_vectors=with_vectors)
        return [found[:k] for found in hits]

    def count(self) -> int:
        """Number of stored documents, those that a filter hides included.

        Raises:
            StoreError: Chroma raised.
        """
        with reported_as_store_error(self._name, "count"):
            return int(self._collection.count())

    def _search_at_once(
        self, vectors: NDArray[np.float32], n_results: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        """Hits of every query, in one request."""
        include = ["documents", "metadatas", "distances"]
        if with_vectors:
            include.append("embeddings")
        with reported_as_store_error(self._name, "search"):
            found = self._collection.query(
                query_embeddings=vectors,
                n_results=n_results,
                include=include,
                where=self._filter,
            )
        return [self._hits(found, number) for number in range(len(vectors))]

    def _hits(self, found: Any, number: int) -> list[Hit]:
        """Hits of one query, nearest first, equal distances by the smaller id."""
        ids = cast("list[str]", found["ids"][number])
        vectors = found["embeddings"][number] if found["embeddings"] else None
        hits = [
            Hit(
                id=id_,
                document=Document(
                    id=id_,
                    page_content=found["documents"][number][place],
                    metadata=found["metadatas"][number][place] or {},
                ),
                score=self._score(float(found["distances"][number][place])),
                vector=None
                if vectors is None
                else np.asarray(vectors[place], np.float32),
            )
            for place, id_ in enumerate(ids)
            if found["documents"][number][place] is not None
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

    def _score(self, distance: float) -> float:
        """Turn Chroma's distance (lower is better) into the metric's own score."""
        return -distance if self.metric == "squared_l2" else 1.0 - distance
