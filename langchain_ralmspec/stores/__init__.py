"""Document stores that answer many queries in one call."""

from __future__ import annotations

from typing import Any, cast

from langchain_core.vectorstores import VectorStore

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.stores.base import Hit, Metric, Query, Store, Vector
from langchain_ralmspec.stores.bm25_store import BM25Store
from langchain_ralmspec.stores.chroma_store import ChromaStore
from langchain_ralmspec.stores.embedding import (
    SentenceTransformerEmbeddings,
    encode_queries,
)
from langchain_ralmspec.stores.faiss_store import FaissStore
from langchain_ralmspec.stores.generic_store import GenericStore
from langchain_ralmspec.stores.ties import is_near_tie

__all__ = [
    "BM25Store",
    "ChromaStore",
    "FaissStore",
    "GenericStore",
    "Hit",
    "Metric",
    "Query",
    "SentenceTransformerEmbeddings",
    "Store",
    "Vector",
    "encode_queries",
    "is_near_tie",
    "open_store",
]

_STORE_PARTS = ("encode", "search", "count")
_STORE_TRAITS = ("metric", "top_k_is_stable")  # dimension may ask a server
_FAISS_PARTS = ("index", "docstore", "index_to_docstore_id", "embedding_function")
_CHROMA_PARTS = ("_client", "_embedding_function")


def open_store(vectorstore: object, *, filter: Any = None) -> Store:  # noqa: A002 (LangChain's name)
    """Put a vector store behind the protocol that speculation needs.

    Args:
        vectorstore: LangChain's FAISS or Chroma, any other LangChain
            ``VectorStore``, or an object that follows ``Store``: it is returned.
        filter: restricts every search, in the form the store's own
            ``similarity_search`` takes.

    Raises:
        InvalidValueError: the object is no vector store, or lacks a part of one, or
            a filter was given for a ``Store``, or the store cannot use the filter.
        MissingExtraError: the store needs a package that is not installed.
    """
    # By class for our own kind: a property such as ``dimension`` may ask a server.
    if _has(type(vectorstore), _STORE_PARTS):
        for name in _STORE_TRAITS:
            if not hasattr(vectorstore, name):
                raise InvalidValueError(
                    f"{type(vectorstore).__name__} has no {name!r}; a store needs it, "
                    "see langchain_ralmspec.stores.Store"
                )
        if filter is not None:
            raise InvalidValueError(
                f"a filter ({filter!r}) cannot be added to a "
                f"{type(vectorstore).__name__}; give it when that store is made"
            )
        return cast("Store", vectorstore)
    # By shape for the others, so that neither package has to be installed.
    if _has(vectorstore, _FAISS_PARTS):
        return FaissStore.from_langchain(vectorstore, filter)
    bases = {base.__name__ for base in type(vectorstore).__mro__}
    if "Chroma" in bases and _has(vectorstore, _CHROMA_PARTS):
        return ChromaStore(vectorstore, filter)
    if isinstance(vectorstore, VectorStore):
        return GenericStore(vectorstore, filter)
    raise InvalidValueError(
        f"{type(vectorstore).__name__} is no vector store; give a LangChain "
        "VectorStore or an object with encode, search and count"
    )


def _has(owner: object, names: tuple[str, ...]) -> bool:
    return all(hasattr(owner, name) for name in names)
