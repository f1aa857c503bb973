"""Any retriever as one that generation can ask, and that stays what its user sees."""

from __future__ import annotations

from typing import Any

from langchain_core.vectorstores import VectorStoreRetriever

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.retrievers.retriever import RaLMSpecRetriever
from langchain_ralmspec.retrievers.session import require_hits
from langchain_ralmspec.retrievers.snapshot import Origin, is_same, searches_itself
from langchain_ralmspec.stores.searches import inmost
from langchain_ralmspec.stores.watching import watched


def adopt(value: Any) -> RaLMSpecRetriever:
    """Make a retriever of what a language model was given, or of what that is now.

    A ``VectorStore``, and an ``as_retriever()`` that searches it by similarity, is
    asked for many queries in one call. Whatever else a retriever does (MMR, a
    threshold, a reranker, code of its own) it does itself, query by query.

    Args:
        value: a ``RaLMSpecRetriever``, a ``VectorStore``, any ``Runnable`` from a
            string to a list of documents, or an object that follows ``Store``.

    Returns:
        The retriever as it is at this moment: one that was adopted before is given back
        unless what it was adopted from has changed.

    Raises:
        InvalidValueError: it is none of these, or has a setting that cannot be served.
        UnknownArgumentError: its search takes no such word.
    """
    if not isinstance(value, RaLMSpecRetriever):
        return _adopted(value)
    if searches_itself(value, RaLMSpecRetriever):
        return _adopted(value)
    origin = value.origin
    if origin is None or is_same(origin.settings, _settings_of(origin.retriever)):
        return value
    return _adopted(origin.retriever)


def documents_wanted(retriever: RaLMSpecRetriever) -> int | None:
    """The ``k`` in the ``search_kwargs`` of a store's retriever; None for others."""
    origin = retriever.origin
    return None if origin is None else origin.settings["search_kwargs"].get("k")


def _adopted(value: Any) -> RaLMSpecRetriever:
    settings = _settings_of(value)
    words = dict(settings["search_kwargs"])
    if "k" in words:
        require_hits("k", words["k"])
    if not _is_plain(value):
        made = RaLMSpecRetriever(vectorstore=value)
    elif settings["search_type"] == "similarity":
        given = {name: words.pop(name) for name in ("k", "filter") if name in words}
        store = settings["vectorstore"]
        made = RaLMSpecRetriever(vectorstore=store, search_kwargs=words, **given)
    else:  # a copy of it, which does not change while an answer is written
        own = settings | {"vectorstore": watched(settings["vectorstore"])}
        made = RaLMSpecRetriever(vectorstore=value.model_copy(update=own))
    made.origin = Origin(value, settings)
    made.store_timeout = None  # who adopts it has one
    return made


def _settings_of(retriever: Any) -> dict[str, Any]:
    """What adoption reads of a retriever, at this moment."""
    if not _is_plain(retriever):
        inner, words = inmost(retriever)
        # Others count candidates in theirs, or chunks of what they give.
        is_one = isinstance(inner, VectorStoreRetriever)
        k = (inner.search_kwargs | words).get("k") if is_one else None
        return {"search_kwargs": {} if k is None else {"k": k}}
    words = retriever.search_kwargs
    return {
        "vectorstore": retriever.vectorstore,
        "search_type": retriever.search_type,
        "search_kwargs": owned(words),
    }


def _is_plain(value: Any) -> bool:
    """Whether it is what ``as_retriever()`` gives, and searches as that does."""
    is_one = isinstance(value, VectorStoreRetriever)
    return is_one and not searches_itself(value, VectorStoreRetriever)
