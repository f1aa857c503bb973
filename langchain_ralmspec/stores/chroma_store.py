"""Chroma: embedded, persistent or a server, one request for many queries."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.stores.base import Hit, Metric
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.filters import require_where
from langchain_ralmspec.stores.one_call import OneCallStore, ranked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.stores.encoding import Encoder, Encoding

# SQLite, under a Chroma of one machine, refuses more than 32766 results at once.
MAX_RESULTS = 32_000
_METRICS: dict[str, Metric] = {
    "l2": "squared_l2",
    "cosine": "cosine",
    "ip": "inner_product",
}


class ChromaStore(OneCallStore):
    """A LangChain Chroma store, asked many queries in one request.

    Or in several, where SQLite does not take so many results at once. The order is
    Chroma's own, by distance, equal distances by the smaller id. As in LangChain,
    records without a document text are left out of the hits.

    Args:
        store: a ``langchain_chroma.Chroma``.
        filter: condition on the metadata, Chroma's ``where``. The dict is copied: what
            is done to it afterwards has no effect.
        encoding: how queries are embedded; None takes what is known of the class.

    Attributes:
        metric: from the collection's space. Scores are the negated squared
            distance for ``l2``, the similarity for ``cosine`` and ``ip``.
        top_k_is_stable: False: hnswlib searches with width
            ``max(ef_search, n_results)``, of many equal vectors it finds as many as it
            is asked for, and records without text are left out only afterwards.

    Raises:
        InvalidValueError: the store has no embedding function, or the filter is no
            condition of Chroma's.
    """

    top_k_is_stable = False
    is_remote = False  # a replica's dimension is compared with what it tells at once

    def __init__(
        self,
        store: Any,
        filter: dict[str, Any] | None = None,  # noqa: A002  (LangChain's name)
        encoding: Encoding | None = None,
    ) -> None:
        embeddings: Encoder | None = store._embedding_function  # noqa: SLF001 (no public name)
        self._store = store
        name = self._collection.name
        if embeddings is None:
            raise InvalidValueError(
                f"the Chroma store {name!r} has no embedding function; construct it "
                "with embedding_function=…"
            )
        super().__init__(f"Chroma collection {name!r}", embeddings, encoding)
        if filter is not None:
            require_where(filter)
        self._filter = owned(filter)
        # The raw form: reading the parsed one warns about collections that, as
        # LangChain's, were made without an embedding function of Chroma's.
        configuration = self._collection.configuration_json or {}
        hnsw, spann = configuration.get("hnsw"), configuration.get("spann")
        space = (hnsw or spann or {}).get("space") or "l2"
        self.metric: Metric = _METRICS[space]

    @property
    def _collection(self) -> Any:
        # Read each time: reset_collection() puts another one in its place.
        with reported_as_store_error("Chroma", "give its collection"):
            return self._store._collection  # noqa: SLF001 (no public name)

    @property
    def embeddings(self) -> Encoder:
        """What embeds queries."""
        return self._embeddings

    def page(
        self, start: int, n: int
    ) -> tuple[int, list[Document], NDArray[np.float32]]:
        """Read ``n`` records from ``start`` on, in Chroma's own order.

        Returns:
            How many records there were, and the documents of those with a text, and
            their vectors.

        Raises:
            StoreError: Chroma raised.
        """
        include = ["documents", "metadatas", "embeddings"]
        with reported_as_store_error(self._name, "give its records"):
            got = self._collection.get(
                limit=n, offset=start, where=self._filter, include=include
            )
        ids, texts, vectors = got["ids"], got["documents"], got["embeddings"]
        there = [place for place, text in enumerate(texts) if text is not None]
        about = got["metadatas"]
        documents = [_document(ids[at], texts[at], about[at]) for at in there]
        matrix = np.asarray(vectors, np.float32)
        return len(ids), documents, matrix[there] if there else matrix[:0]

    def _ask(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        n_results = int(k) + self._margin
        per_request = max(1, MAX_RESULTS // n_results)
        include = ["documents", "metadatas", "distances"]
        include += ["embeddings"] * with_vectors
        hits: list[list[Hit]] = []
        for start in range(0, len(vectors), per_request):
            chunk = vectors[start : start + per_request]
            found = self._collection.query(
                query_embeddings=chunk,
                n_results=n_results,
                include=include,
                where=self._filter,
            )
            hits += [self._hits(found, number)[:k] for number in range(len(chunk))]
        return hits

    def _read_dimension(self) -> int | None:
        record = self._collection.get(limit=1, include=["embeddings"])
        return len(record["embeddings"][0]) if len(record["embeddings"]) else None

    def _count(self) -> int:
        return int(self._collection.count())

    def _hits(self, found: Any, number: int) -> list[Hit]:
        """Hits of one query, nearest first, equal distances by the smaller id."""
        is_l2 = self.metric == "squared_l2"
        records = zip(
            found["ids"][number],
            found["documents"][number],
            found["metadatas"][number],
            found["distances"][number],
            found["embeddings"][number] if found["embeddings"] else repeat(None),
            strict=False,
        )
        hits = [
            Hit(
                id_,
                _document(id_, text, metadata),
                # Chroma's distance, lower is better, as the metric's own score.
                -float(distance) if is_l2 else 1.0 - float(distance),
                None if vector is None else np.asarray(vector, np.float32),
            )
            for id_, text, metadata, distance, vector in records
            if text is not None
        ]
        return ranked(hits)


def _document(id_: str, text: str, metadata: Any) -> Document:
    return Document(id=id_, page_content=text, metadata=metadata or {})


def find_again(store: Any) -> None:
    """Give a LangChain Chroma the collection that now has its collection's name.

    A client remembers an id, which another client's drop makes void.

    Raises:
        StoreError: there is no such collection, or no server.
    """
    # LangChain's two classes for Chroma keep it under different names.
    own = (
        "_chroma_collection" if hasattr(store, "_chroma_collection") else "_collection"
    )
    # One that LangChain has deleted it knows by name alone.
    name = getattr(store, "_collection_name", None) or getattr(store, own).name
    with reported_as_store_error(f"Chroma collection {name!r}", "be found again"):
        found = store._client.get_collection(name, embedding_function=None)  # noqa: SLF001 (no public name)
        setattr(store, own, found)
