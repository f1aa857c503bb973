"""Any other LangChain vector store, through its public methods alone."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.vectorstores import VectorStore

from langchain_ralmspec.stores.arguments import check_k, query_matrix
from langchain_ralmspec.stores.base import Hit, Metric, Query
from langchain_ralmspec.stores.embedding import encode_queries
from langchain_ralmspec.stores.failures import reported_as_store_error

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from langchain_ralmspec.stores.base import Vector

# Vectors of documents that had to be embedded again; 384 floats each are 1.5 KB.
MAX_CACHED_VECTORS = 4096


class GenericStore:
    """A LangChain vector store that is asked one query at a time.

    Nothing is known about how such a store ranks, so its own order is kept.

    Args:
        vectorstore: any LangChain vector store.
        filter: handed to the store's own search as ``filter=`` when not None.

    Attributes:
        metric: ``"cosine"``: how this class compares vectors for scores.
        top_k_is_stable: False, since nothing is known about other values of ``k``.
    """

    metric: Metric = "cosine"
    top_k_is_stable = False

    def __init__(self, vectorstore: VectorStore, filter: Any = None) -> None:  # noqa: A002 (LangChain's name)
        self._store = vectorstore
        self._name = type(vectorstore).__name__
        self._options = {} if filter is None else {"filter": filter}
        self._embeddings = vectorstore.embeddings
        self._by_vector = self._embeddings is not None and (
            type(vectorstore).similarity_search_by_vector
            is not VectorStore.similarity_search_by_vector
        )
        self._dimension: int | None = None
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._vectors_lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store, self._options.get("filter"))

    @property
    def dimension(self) -> int | None:
        """Length of the vectors; None when the store shows no embeddings.

        The first reading may embed a word to find out.
        """
        if self._dimension is None and self._embeddings is not None:
            self._dimension = encode_queries(self._embeddings, ["length"]).shape[1]
        return self._dimension

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries, embedding each of them alone.

        A store that searches by text embeds once more on its own; the vector made
        here is then for scores and caches only.
        """
        embeddings = self._embeddings
        if embeddings is None:
            return [Query(text) for text in texts]
        vectors = [encode_queries(embeddings, [text])[0] for text in texts]
        if vectors:
            self._dimension = len(vectors[0])
        return [Query(*pair) for pair in zip(texts, vectors, strict=True)]

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the ``k`` best documents for every query, each searched alone.

        They are in the store's own order. The vectors are the stored ones of an
        InMemoryVectorStore; else the documents are embedded again, if the store shows
        its embeddings. The score is the cosine similarity when both vectors are known,
        which ``with_vectors`` decides; else it is ordinal only: minus the rank,
        counted from 0.

        Raises:
            InvalidValueError: ``k`` is below 1, or a query has no vector.
            StoreError: the store or the encoder raised.
        """
        check_k(k)
        return [self._hits(query, k, with_vectors=with_vectors) for query in queries]

    def count(self) -> int:
        """Number of stored documents; -1 when the store does not tell."""
        stored = getattr(self._store, "store", None)
        return len(stored) if isinstance(stored, dict) else -1

    def _hits(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        """Hits of one query in the store's order, each document once."""
        with reported_as_store_error(self._name, "search"):
            if self._by_vector:
                vector = query_matrix([query], self._dimension, self._name)[0]
                found = self._store.similarity_search_by_vector(
                    vector.tolist(), k=k, **self._options
                )
            else:
                found = self._store.similarity_search(query.text, k=k, **self._options)
        documents = {_id_of(document): document for document in found[:k]}
        vectors = self._vectors_of(documents) if with_vectors else {}
        hits = []
        for rank, (id_, document) in enumerate(documents.items()):
            vector = vectors.get(id_)
            hits.append(Hit(id_, document, _score(query.vector, vector, rank), vector))
        return hits

    def _vectors_of(self, documents: dict[str, Document]) -> dict[str, Vector]:
        """Vectors of documents by id: stored ones if public, else made anew."""
        stored = getattr(self._store, "store", None)
        if isinstance(stored, dict) and all(id_ in stored for id_ in documents):
            return {id_: _floats(stored[id_]["vector"]) for id_ in documents}
        if self._embeddings is None:
            return {}
        with self._vectors_lock:
            known = {i: self._vectors[i] for i in documents if i in self._vectors}
        missing = {id_: doc for id_, doc in documents.items() if id_ not in known}
        if missing:
            with reported_as_store_error(self._name, "embed the documents"):
                made = self._embeddings.embed_documents(
                    [document.page_content for document in missing.values()]
                )
            known.update(zip(missing, map(_floats, made), strict=True))
        with self._vectors_lock:  # those used last are kept
            self._vectors.update(known)
            for id_ in known:
                self._vectors.move_to_end(id_)
            while len(self._vectors) > MAX_CACHED_VECTORS:
                self._vectors.popitem(last=False)
        return known


def _floats(vector: Iterable[float]) -> Vector:
    return np.asarray(vector, dtype=np.float32)


def _id_of(document: Document) -> str:
    """The document's id, else a hash of what it says."""
    if document.id is not None:
        return document.id
    content = json.dumps(
        [document.page_content, document.metadata], sort_keys=True, default=str
    )
    return hashlib.sha256(content.encode()).hexdigest()


def _score(query: Vector | None, vector: Vector | None, rank: int) -> float:
    """Cosine similarity when both vectors are known, else minus the rank."""
    if query is None or vector is None:
        return float(-rank)
    one, other = query.astype(np.float64), vector.astype(np.float64)
    lengths = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / lengths if lengths else 0.0
