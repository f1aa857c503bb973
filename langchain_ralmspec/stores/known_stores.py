"""LangChain's stores that are asked many queries in one call, known by their shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.stores import faiss_kinds, milvus_store, qdrant_store
from langchain_ralmspec.stores.chroma_store import ChromaStore
from langchain_ralmspec.stores.faiss_store import FaissStore
from langchain_ralmspec.stores.milvus_store import MilvusStore
from langchain_ralmspec.stores.pgvector_store import PostgresStore
from langchain_ralmspec.stores.qdrant_store import QdrantStore
from langchain_ralmspec.stores.searches import is_plain

if TYPE_CHECKING:
    from langchain_ralmspec.stores.base import Store
    from langchain_ralmspec.stores.encoding import Encoding

# What our own search of a LangChain store reads, besides calling none of its searches.
_FAISS_OWN = (
    "index",
    "docstore",
    "index_to_docstore_id",
    "embedding_function",
    "_create_filter_func",
    "_embed_query",
    "embeddings",
    "__getattribute__",
)
_CHROMA_OWN = (
    "_client",
    "_embedding_function",
    "_collection",
    "_Chroma__query_collection",
    "embeddings",
    "__getattribute__",
)
_PGVECTOR_OWN = (
    "_PGVector__query_collection",
    "_create_filter_clause",
    "_handle_field_filter",
    "_make_sync_session",
    "_results_to_docs_and_scores",
    "distance_strategy",
    "embeddings",
    "get_collection",
    "__getattribute__",
)
_MILVUS_OWN = (
    "_collection_search",
    "_parse_documents_from_search_results",
    "client",
    "col",
    "embeddings",
    "__getattribute__",
)
_QDRANT_OWN = ("client", "embeddings", "__getattribute__")


def known_store(
    vectorstore: Any,
    filter: Any,  # noqa: A002  (LangChain's name)
    words: Mapping[str, Any],
    encoding: Encoding,
) -> Store | None:
    """The store that asks a LangChain store many queries in one call, if there is one.

    Args:
        vectorstore: any object.
        filter: in the form that the store's own ``similarity_search`` takes, or None.
        words: other arguments of that. Where one call cannot serve them, it is no
            such store.
        encoding: how queries are embedded.

    Raises:
        InvalidValueError: the store cannot use the filter, or lacks something.
        MissingExtraError: it needs a package that is not installed.
    """
    # By name, so that none of their packages has to be installed.
    if is_plain(vectorstore, "QdrantVectorStore", _QDRANT_OWN):
        if qdrant_store.serves(vectorstore, words):
            return QdrantStore(vectorstore, filter, words, encoding)
    elif is_plain(vectorstore, "Milvus", _MILVUS_OWN, "langchain_milvus"):
        if filter is None and milvus_store.serves(vectorstore, words):
            return MilvusStore(vectorstore, words, encoding)
    elif words:
        pass  # their own search has to be called
    elif is_plain(vectorstore, "FAISS", _FAISS_OWN):
        if faiss_kinds.serves(vectorstore.index):
            return FaissStore.from_langchain(vectorstore, filter, encoding=encoding)
    elif is_chroma(vectorstore):
        return ChromaStore(vectorstore, filter, encoding)
    # langchain-community has one of its own, with other tables and filters.
    elif is_plain(vectorstore, "PGVector", _PGVECTOR_OWN, "langchain_postgres"):
        return PostgresStore(vectorstore, filter, encoding)
    return None


def is_chroma(vectorstore: object) -> bool:
    """Whether it is LangChain's Chroma, or searches as that does."""
    return is_plain(vectorstore, "Chroma", _CHROMA_OWN)
