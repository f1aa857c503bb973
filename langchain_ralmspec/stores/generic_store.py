"""Any other LangChain vector store, through its public methods alone."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date, time
from decimal import Decimal
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.errors import DimensionMismatchError, RaLMSpecError
from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.stores.arguments import check_k, query_matrix
from langchain_ralmspec.stores.base import Hit, Metric, Query
from langchain_ralmspec.stores.concurrency import LOCAL_STORES, Calls
from langchain_ralmspec.stores.embedding import document_vectors, make_queries
from langchain_ralmspec.stores.encoding import (
    Encoding,
    embed_documents,
)
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.filters import require_passing, require_usable, telling
from langchain_ralmspec.stores.searches import refuse_async_alone, search_for
from langchain_ralmspec.stores.sharing import lock_of
from langchain_ralmspec.stores.versions import Version
from langchain_ralmspec.stores.waiting import stays_in_process
from langchain_ralmspec.stores.watching import watched
from langchain_ralmspec.stores.widths import speaks_of_width
from langchain_ralmspec.text import sha256_of, well_formed

if TYPE_CHECKING:
    from langchain_core.documents import Document

    from langchain_ralmspec.stores.base import Vector

# Vectors of documents that had to be embedded again; 384 floats each are 1.5 KB.
MAX_CACHED_VECTORS = 4096
# How stores say that they hold fewer documents than were asked for: how many that was,
# or the argument, is in the message, if there is one. A server that is gone raises none
# of these, and is not asked again.
_REFUSALS = (ValueError, IndexError, AssertionError)


class _Refused(Exception):  # noqa: N818  read as what the store has done
    """A store would not find so many."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


class GenericStore:
    """A LangChain vector store that is asked one query a call, many calls at once.

    Nothing is known about how such a store ranks, so its own order is kept. Calls of
    one that is known to compute in this process are made one after the other.

    Args:
        vectorstore: any LangChain vector store.
        filter: handed to the store's own search as ``filter=`` when not None. What
            comes back is tested where the filter is a function, or a dict that gives
            values to keys. A dict is copied: what is done to it later has no effect.
        search_kwargs: other arguments of the store's own search, copied likewise.
        encoding: how queries are embedded, and how many searches are out at once.
        embed_found_documents: whether documents that were found are embedded, for
            their vectors, where the store does not give these. It takes an encoder
            that is cheap to ask.

    Attributes:
        metric: ``"cosine"``, how this class compares vectors for scores; None where
            there are no vectors of documents, or the store searches by text alone.
        one_call_a_query: True: each query is counted as a call.
        reads_shared_memory: True, since it may.
        top_k_is_stable: False, since nothing is known about other values of ``k``.

    Raises:
        InvalidValueError: the store's searches do not name ``filter``, or it is of a
            kind that the store cannot use, or one of them is overridden for ``await``
            alone.
        UnknownArgumentError: they do not name one of ``search_kwargs``.
    """

    top_k_is_stable = False
    one_call_a_query = True
    reads_shared_memory = True

    def __init__(
        self,
        vectorstore: VectorStore,
        filter: Any = None,  # noqa: A002  (LangChain's name)
        search_kwargs: Mapping[str, Any] | None = None,
        *,
        encoding: Encoding | None = None,
        embed_found_documents: bool = False,
    ) -> None:
        refuse_async_alone(vectorstore)
        self._store = vectorstore
        self._lock, self._version = lock_of(vectorstore), Version()
        self._name = type(vectorstore).__name__
        self._filter = owned(filter)
        self._options = owned(dict(search_kwargs or {}))
        if filter is not None:
            require_usable(filter, vectorstore)
            self._options["filter"] = telling(self._filter)
        self._embeddings = vectorstore.embeddings
        self._method = search_for(
            vectorstore, self._options, may_embed=self._embeddings is not None
        )
        by_vector = self._method.endswith("by_vector")
        self._asked = vectorstore if by_vector else watched(vectorstore)
        # Its own vectors are at hand, and with them the scores that it ranks by.
        self._gives_vectors = by_vector and isinstance(vectorstore, InMemoryVectorStore)
        self._embeds_documents = embed_found_documents and self._embeddings is not None
        knows = self._gives_vectors or self._embeds_documents
        self.metric: Metric | None = "cosine" if knows else None
        self._embeds_queries = by_vector or self._embeds_documents
        self._encoding = encoding or Encoding()
        self._calls = Calls(self._encoding.max_concurrency)
        kinds = {kind.__name__ for kind in type(vectorstore).__mro__}
        self._is_local = not LOCAL_STORES.isdisjoint(kinds)
        self.stays_in_process = stays_in_process(vectorstore, filter)
        self._dimension: int | None = None
        self._widest = 1  # k that the store did not refuse when it refused another
        self._refused: int | None = None  # the one above it, once there is
        self._vectors: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Have a free lock: in a forked process, no thread gives the old one back."""
        self._vectors_lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        words = {k: v for k, v in self._options.items() if k != "filter"}
        settings: dict[str, Any] = {
            "encoding": self._encoding,
            "embed_found_documents": self._embeds_documents,
        }
        make = partial(type(self), **settings)
        return make, (self._store, self._filter, words)

    @property
    def dimension(self) -> int | None:
        """Length of the vectors; None when the store shows no embeddings.

        The first reading may embed a word to find out.
        """
        if self._dimension is None:
            self.encode(["length"])
        return self._dimension

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries.

        They are embedded in one batch only where hits have scores, which tell when the
        last bits of a vector matter; else each alone, in calls that are out at once. A
        store that searches by text is left to embed them itself.

        Raises:
            StoreError: the encoder fails, or gives what is no direction.
            DimensionMismatchError: a vector is not as long as earlier ones.
        """
        if self._embeddings is None or not self._embeds_queries:
            return [Query(text) for text in texts]
        queries = make_queries(
            self._embeddings,
            texts,
            dimension=self._dimension,
            store=self._name,
            encoding=self._encoding,
            together=self._gives_vectors,
        )
        if self._dimension is None and queries:
            self._dimension = len(cast("Vector", queries[0].vector))
        return queries

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the ``k`` best documents for every query, each searched alone.

        They are in the store's own order, and fewer where it refuses so many. The
        vectors are the stored ones of an InMemoryVectorStore; of documents of other
        stores there are none, unless found documents are to be embedded. The score is
        the cosine similarity where both vectors were looked up: with ``with_vectors``,
        and for a query that was embedded in a batch. Else it is ordinal only: minus
        the rank, counted from 0.

        Raises:
            InvalidValueError: ``k`` is below 1, or a query has no vector.
            StoreError: the store or the encoder raised, or the store gave a document
                that does not pass the filter.
        """
        check_k(k)
        with self._lock.searching():
            find = partial(self._hits, k=k, with_vectors=with_vectors)
            if self._is_local:
                return list(map(find, queries))
            return self._calls.map(find, queries)

    def changed(self) -> None:
        """Be told that documents were added or deleted: ask for as many as wanted."""
        self._refused = None

    def count(self) -> int:
        """Number of stored documents; -1 when the store does not tell."""
        store = self._store
        return len(store.store) if isinstance(store, InMemoryVectorStore) else -1

    def version(self) -> int | None:
        """Another number once documents are others; None where the store cannot tell.

        An in-memory store tells, of whose documents each is looked at, by identity.
        """
        if not isinstance(self._store, InMemoryVectorStore):
            return None
        return self._version.of((), list(self._store.store.values()))

    def _hits(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        """Hits of one query in the store's order, each document once."""
        with reported_as_store_error(self._name, "search"):
            documents = distinct(self._found(query, k))
        require_passing(self._filter, documents.values(), self._name)
        needs_vectors = with_vectors or query.batched  # whose scores must be known
        vectors = self._vectors_of(documents) if needs_vectors else {}
        hits = []
        for rank, (id_, document) in enumerate(documents.items()):
            vector = vectors.get(id_)
            hits.append(Hit(id_, document, _score(query.vector, vector, rank), vector))
        return hits

    def _found(self, query: Query, k: int) -> list[Document]:
        """What the store finds; fewer than ``k`` where it refuses to find so many.

        So does one of four documents that is asked for five. What it granted is
        remembered, and asked for in place of more, once one more is refused again.
        """
        refused = self._refused
        if refused is not None and k >= refused:
            try:
                self._ask(query, refused)
            except _Refused:
                with suppress(_Refused):  # it holds fewer now
                    return self._ask(query, self._widest)
            self._refused = None
        with suppress(_Refused, *_REFUSALS):  # it may fail for another reason, once
            return self._ask(query, k)
        try:
            return self._ask(query, k)
        except _Refused as refusal:
            return self._narrower(query, k, refusal.why)

    def _narrower(self, query: Query, refused: int, why: Exception) -> list[Document]:
        """The widest search that is not refused, looked for from the last such one."""
        found, granted = None, 0
        tries = [self._widest + 1, self._widest]
        while refused - granted > 1:
            width = tries.pop() if tries else (granted + refused) // 2
            if not granted < width < refused:
                continue
            try:
                found, granted = self._ask(query, width), width
            except _Refused:
                refused = width
        if found is None:  # it refuses the query, not its width
            raise why from None
        self._widest, self._refused = granted, refused
        return found

    def _ask(self, query: Query, k: int) -> list[Document]:
        asked: Any = query.text
        if self._method.endswith("by_vector"):
            (vector,) = query_matrix([query], self._dimension, self._name)
            asked = vector.tolist()
        search = getattr(self._asked, self._method)
        try:
            return list(search(asked, k=k, **self._options))[:k]
        except RaLMSpecError:
            raise  # of an encoder or a filter, and not of how many are wanted
        except Exception as error:
            says_nothing = isinstance(error, _REFUSALS) and not str(error)
            if says_nothing or speaks_of_width(error, k):
                raise _Refused(error) from error
            raise

    def _vectors_of(self, documents: dict[str, Document]) -> dict[str, Vector]:
        """Vectors of documents by id: stored ones if public, else made if wanted."""
        if isinstance(self._store, InMemoryVectorStore):
            entries = {id_: self._store.store.get(id_) for id_ in documents}
            if all(entries.values()):  # else one was deleted meanwhile
                return {id_: _floats(each) for id_, each in entries.items() if each}
        if not self._embeds_documents:
            return {}
        assert self._embeddings is not None  # noqa: S101  else it embeds nothing
        with self._vectors_lock:
            known = {
                id_: self._vectors[key]
                for id_, doc in documents.items()
                if (key := (id_, doc.page_content)) in self._vectors
            }
        missing = {id_: doc for id_, doc in documents.items() if id_ not in known}
        if missing:
            texts = [well_formed(each.page_content) for each in missing.values()]
            encoder = type(self._embeddings).__name__
            made = embed_documents(self._embeddings, texts, "documents")
            vectors = document_vectors(made, texts, encoder)
            if self._dimension not in (None, vectors.shape[1]):
                raise DimensionMismatchError(
                    f"{encoder} gave {vectors.shape[1]} numbers for a document but "
                    f"{self._dimension} for a query; embed both with one model"
                )
            known.update(zip(missing, vectors, strict=True))
        with self._vectors_lock:  # those used last are kept
            for id_, vector in known.items():
                # Under its id alone, a document may be replaced.
                key = id_, documents[id_].page_content
                self._vectors[key] = vector
                self._vectors.move_to_end(key)
            while len(self._vectors) > MAX_CACHED_VECTORS:
                self._vectors.popitem(last=False)
        return known


def _floats(entry: Mapping[str, Any]) -> Vector:
    return np.asarray(entry["vector"], dtype=np.float32)


def id_of(document: Document) -> str:
    """The document's id, else a hash of what it says."""
    return content_id(document) if document.id is None else document.id


def distinct(found: Iterable[Document]) -> dict[str, Document]:
    """Documents by id, in order, each once.

    Where several stores are asked, or pieces bear the id of their document, two may
    have one id; the second goes by what it says.
    """
    documents: dict[str, Document] = {}
    for document in found:
        id_ = id_of(document)
        same = documents.get(id_, document)
        if same.page_content != document.page_content:
            id_ = content_id(document)
        documents.setdefault(id_, document)
    return documents


def content_id(document: Document) -> str:
    """A hash of what the document says, fractions and times in its metadata aside.

    Rerankers write scores there, and other retrievers when it was found last, which
    are others for every query.
    """
    metadata = {
        key: value
        for key, value in document.metadata.items()
        if isinstance(value, Integral)
        or not isinstance(value, Real | Decimal | date | time)
    }
    said = [document.page_content, metadata]
    try:
        content = json.dumps(said, sort_keys=True, default=str)
    except (TypeError, ValueError):  # keys of several kinds, or a circle
        content = ascii(said)
    return sha256_of(content)


def _score(query: Vector | None, vector: Vector | None, rank: int) -> float:
    """Cosine similarity when both vectors are known, else minus the rank."""
    if query is None or vector is None:
        return float(-rank)
    one, other = query.astype(np.float64), vector.astype(np.float64)
    lengths = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / lengths if lengths else 0.0
