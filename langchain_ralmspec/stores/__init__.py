"""Document stores that answer many queries in one call."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore

from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    SetupError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.stores.base import (
    Hit,
    Metric,
    Query,
    Store,
    as_array_store,
)
from langchain_ralmspec.stores.bm25_store import BM25Store
from langchain_ralmspec.stores.chroma_replica import ChromaReplica
from langchain_ralmspec.stores.chroma_store import ChromaStore, find_again
from langchain_ralmspec.stores.concurrency import MAX_CONCURRENCY
from langchain_ralmspec.stores.embedding import encode_queries
from langchain_ralmspec.stores.encoding import Encoding
from langchain_ralmspec.stores.faiss_replica import FaissReplica
from langchain_ralmspec.stores.faiss_store import FaissStore
from langchain_ralmspec.stores.generic_store import GenericStore
from langchain_ralmspec.stores.known_stores import is_chroma, known_store
from langchain_ralmspec.stores.milvus_store import MilvusStore
from langchain_ralmspec.stores.pgvector_store import PostgresStore
from langchain_ralmspec.stores.qdrant_store import QdrantStore
from langchain_ralmspec.stores.replica import Replica, StoreReplica
from langchain_ralmspec.stores.retriever_store import RetrieverStore
from langchain_ralmspec.stores.searches import require_filter
from langchain_ralmspec.stores.sentence_encoder import SentenceTransformerEmbeddings
from langchain_ralmspec.stores.sharing import lock_of

__all__ = [
    "BM25Store",
    "ChromaStore",
    "Encoding",
    "FaissStore",
    "GenericStore",
    "Hit",
    "Metric",
    "MilvusStore",
    "PostgresStore",
    "QdrantStore",
    "Query",
    "Replica",
    "RetrieverStore",
    "SentenceTransformerEmbeddings",
    "Store",
    "encode_queries",
    "lock_of",
    "open_replica",
    "open_store",
    "refresh",
]

_STORE_PARTS = ("encode", "search", "count")
_STORE_TRAITS = ("metric", "top_k_is_stable")  # dimension may ask a server


def open_store(
    vectorstore: object,
    *,
    filter: Any = None,  # noqa: A002  (LangChain's name)
    search_kwargs: Mapping[str, Any] | None = None,
    max_concurrency: int = MAX_CONCURRENCY,
    symmetric_embeddings: bool | None = None,
    embed_found_documents: bool = False,
) -> Store:
    """Put a vector store behind the protocol that speculation needs.

    A subclass of a LangChain store that overrides a search is asked by that search, as
    any other store is: it may keep documents back.

    Args:
        vectorstore: LangChain's FAISS, Chroma, PGVector, QdrantVectorStore or Milvus,
            which are asked many queries in one call; any other LangChain
            ``VectorStore``, any retriever, that is a ``Runnable`` from a string to a
            list of documents, or an object that follows ``Store``: it is returned.
        filter: restricts every search, in the form the store's own
            ``similarity_search`` takes.
        search_kwargs: other arguments of the store's own ``similarity_search``. With
            these, FAISS and Chroma too are asked by that, query by query. Dicts and
            lists in these, and in ``filter``, are copied: what is done to them later
            has no effect.
        max_concurrency: requests to an encoder, and searches, out at once where each is
            for one query; an object that follows ``Store`` has its own.
        symmetric_embeddings: whether ``embed_documents`` embeds queries as well, so
            that one request serves many; None looks the encoder's class up.
        embed_found_documents: whether documents found by a store that gives no vectors
            are embedded, so that guesses can be looked up.

    Raises:
        InvalidValueError: the object is no vector store, or lacks a part of one, or
            a filter was given for a ``Store`` or a retriever, or the store cannot use
            the filter, or a search of it is overridden for ``await`` alone,
            or ``max_concurrency`` is below 1.
        UnknownArgumentError: one of ``search_kwargs`` is no argument of the store's.
        MissingExtraError: the store needs a package that is not installed.
    """
    encoding = Encoding(max_concurrency, symmetric_embeddings)
    require_filter(filter)
    # By class for our own kind: a property such as ``dimension`` may ask a server.
    if _has(type(vectorstore), _STORE_PARTS):
        for name in _STORE_TRAITS:
            if not hasattr(vectorstore, name):
                raise InvalidValueError(
                    f"{type(vectorstore).__name__} has no {name!r}; a store needs it, "
                    "see langchain_ralmspec.stores.Store"
                )
        _refuse_words(vectorstore, "search()", filter, search_kwargs)
        return cast("Store", vectorstore)
    known = known_store(vectorstore, filter, search_kwargs or {}, encoding)
    if known is not None:
        return known
    if isinstance(vectorstore, VectorStore):
        return GenericStore(
            vectorstore,
            filter,
            search_kwargs,
            encoding=encoding,
            embed_found_documents=embed_found_documents,
        )
    if isinstance(vectorstore, Runnable):
        _refuse_words(vectorstore, "invoke()", filter, search_kwargs)
        return RetrieverStore(vectorstore, max_concurrency)
    raise InvalidValueError(
        f"{type(vectorstore).__name__} is no vector store and no retriever; give a "
        "LangChain VectorStore, a retriever or another Runnable from a string to a "
        "list of Documents (RunnableLambda makes one of a function), or an object with "
        "encode, search and count"
    )


def open_replica(
    replica: object,
    store: Store,
    filter: Any = None,  # noqa: A002  (LangChain's name)
    search_kwargs: Mapping[str, Any] | None = None,
    *,
    anew: bool = False,
) -> Replica | None:
    """Make what a retriever was given as its replica one that is asked for guesses.

    Args:
        replica: None; ``"auto"`` to build one of a flat FAISS index, or to copy a
            Chroma collection; or what :func:`open_store` takes.
        store: the one whose answers are guessed.
        filter: restricts its searches, and so those of a replica.
        search_kwargs: other arguments of its searches, and so of those of a replica.
        anew: whether to build one even where another retriever has one of this index.

    Raises:
        InvalidValueError: it is none of these, or of this store none is built, or the
            replica cannot be searched as the store is.
        DimensionMismatchError: the two have vectors of different lengths.
        MissingExtraError: a Chroma collection is to be copied without FAISS.
    """
    if replica is None:
        return None
    if isinstance(replica, str):
        if replica != "auto":
            raise InvalidValueError(
                f"replica must be 'auto', a vector store or None, got {replica!r}"
            )
        kind = type(store).__name__
        if type(store) is ChromaStore:
            return ChromaReplica(store)
        # A class of one's own that searches otherwise may keep documents back.
        if isinstance(store, FaissStore) and as_array_store(store) is not None:
            if store.parts[0].is_matrix:
                return FaissReplica.of(store, anew=anew)
            kind = type(store.parts[0].raw).__name__
        raise InvalidValueError(
            "replica='auto' builds one of a flat FAISS index or of Chroma, not of "
            f"{kind}; put a copy that is fast to search, such as a local FAISS or "
            "Chroma of the same documents, in replica="
        )
    try:
        opened = open_store(replica, filter=filter, search_kwargs=search_kwargs)
    except (InvalidValueError, UnknownArgumentError) as error:
        # Without them it would guess documents that are to be kept from the user.
        raise InvalidValueError(f"the replica cannot be searched: {error}") from error
    is_near = not any(getattr(each, "is_remote", False) for each in (store, opened))
    if is_near and store.metric is not None and opened.metric is not None:
        with suppress(StoreError):  # of a server that is not there yet
            _require_dimension(opened, store)
    return StoreReplica(opened)


def _require_dimension(replica: Store, store: Store) -> None:
    """Refuse vectors that cannot be compared; those of an empty store may be any."""
    lengths = replica.dimension, store.dimension
    if None not in lengths and lengths[0] != lengths[1]:
        raise DimensionMismatchError(
            f"the replica ({type(replica).__name__}) has vectors of {lengths[0]} "
            f"numbers and the vectorstore of {lengths[1]}; embed the documents of both "
            "by the same encoder"
        )


def _refuse_words(
    store: object,
    method: str,
    filter: Any,  # noqa: A002  (LangChain's name)
    search_kwargs: Mapping[str, Any] | None,
) -> None:
    """Refuse what could only be left aside: searches of this store take no words."""
    name = type(store).__name__
    if filter is not None:
        raise SetupError(
            f"a filter ({filter!r}) cannot be added to a {name}; give it when that is "
            "made"
        )
    for word in search_kwargs or ():
        raise UnknownArgumentError.of(f"{name}.{method}", word, ["k"])


def refresh(vectorstore: object) -> None:
    """Let a vector store find again what was dropped and made anew behind its back.

    Raises:
        StoreError: it is not there.
    """
    if is_chroma(vectorstore):
        find_again(vectorstore)


def _has(owner: object, names: tuple[str, ...]) -> bool:
    return all(hasattr(owner, name) for name in names)
