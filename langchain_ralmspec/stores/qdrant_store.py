"""Qdrant: in the process or a server, one request for many queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.stores.base import Hit, Metric
from langchain_ralmspec.stores.documents import record_named
from langchain_ralmspec.stores.filters import require_qdrant_filter
from langchain_ralmspec.stores.one_call import OneCallStore, in_order, ranked
from langchain_ralmspec.stores.sharing import lock_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.stores.base import Vector
    from langchain_ralmspec.stores.encoding import Encoding

# Of Qdrant's distances those that a session's cache can compare by, too.
_METRICS: dict[str, Metric] = {
    "Cosine": "cosine",
    "Euclid": "squared_l2",
    "Dot": "inner_product",
}
# LangChain's words for what is part of a query, and Qdrant's.
_OF_A_QUERY = {
    "search_params": "params",
    "score_threshold": "score_threshold",
    "offset": "offset",
}
_WORDS = frozenset({*_OF_A_QUERY, "consistency"})


def serves(store: Any, words: Iterable[str]) -> bool:
    """Whether one request of many queries can do what a LangChain store does.

    Args:
        store: a ``langchain_qdrant.QdrantVectorStore``. It is to be searched by dense
            vectors alone, and by a distance that guesses can be compared by.
        words: arguments of its search that are given.
    """
    is_dense = store.retrieval_mode == "dense" and store.distance in _METRICS
    return is_dense and _WORDS.issuperset(words)


class QdrantStore(OneCallStore):
    """A LangChain QdrantVectorStore, asked many queries in one request.

    The order is Qdrant's own, by score, equal scores by the smaller id.

    Args:
        store: a ``langchain_qdrant.QdrantVectorStore`` which :func:`serves` accepts.
        filter: a ``qdrant_client.models.Filter``.
        words: ``search_params``, ``score_threshold``, ``offset`` and ``consistency``
            of LangChain's search. Copied: what is done to them later has no effect.
        encoding: how queries are embedded; None takes what is known of the class.

    Attributes:
        metric: from the store's distance. Scores are the negated squared distance for
            ``Euclid``, the similarity for ``Cosine`` and ``Dot``.
        top_k_is_stable: False: a server's HNSW searches more widely for more hits, and
            Qdrant in the process scales its vectors to length 1 again at every search
            by cosine, which changes last bits.

    Raises:
        InvalidValueError: the store has no embeddings, or the filter is none of
            Qdrant's.
    """

    top_k_is_stable = False

    def __init__(
        self,
        store: Any,
        filter: Any = None,  # noqa: A002  (LangChain's name)
        words: Mapping[str, Any] | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        name = f"Qdrant collection {store.collection_name!r}"
        super().__init__(name, store.embeddings, encoding)
        if filter is not None:
            require_qdrant_filter(filter)
        filter, options = owned((filter, dict(words or {})))  # noqa: A001
        self._consistency = options.pop("consistency", None)
        self._options = {_OF_A_QUERY[word]: given for word, given in options.items()}
        self._options |= {"filter": filter, "using": store.vector_name}
        self._store, self._lock = store, lock_of(store)
        self.metric = _METRICS[store.distance]

    def _ask(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        from qdrant_client import models

        # The unnamed vector cannot be asked for by its name.
        wanted = [self._store.vector_name] if self._store.vector_name else True
        requests = [
            models.QueryRequest(
                query=vector.tolist(),
                limit=int(k) + self._margin,
                with_payload=True,
                with_vector=wanted if with_vectors else False,
                **self._options,
            )
            for vector in vectors
        ]
        with self._lock.searching():
            found = self._store.client.query_batch_points(
                self._store.collection_name, requests, consistency=self._consistency
            )
        return [ranked(self._hits(each.points))[:k] for each in found]

    def _hits(self, points: Any) -> list[Hit]:
        hits = [self._hit(point) for point in points]
        return in_order(hits, self._name, self._store.distance)

    def _hit(self, point: Any) -> Hit:
        store = self._store
        with record_named(point.id, self._name):
            document = store._document_from_point(  # noqa: SLF001 (no public name)
                point,
                store.collection_name,
                store.content_payload_key,
                store.metadata_payload_key,
            )
        return Hit(
            str(point.id),
            document,
            -(point.score**2) if self.metric == "squared_l2" else point.score,
            self._vector(point.vector),
        )

    def _vector(self, given: Any) -> Vector | None:
        """The vector that is searched by; None where a point has several for it."""
        if isinstance(given, dict):
            given = given.get(self._store.vector_name)
        vector = None if given is None else np.asarray(given, np.float32)
        return vector if vector is not None and vector.ndim == 1 else None

    def _read_dimension(self) -> int | None:
        info = self._store.client.get_collection(self._store.collection_name)
        vectors = info.config.params.vectors
        if isinstance(vectors, dict):
            vectors = vectors[self._store.vector_name]
        return int(vectors.size)

    def _count(self) -> int:
        return int(self._store.client.count(self._store.collection_name).count)
