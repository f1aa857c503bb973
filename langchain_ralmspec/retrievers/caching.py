"""Whether what a search finds depends on nothing but what is stored."""

from __future__ import annotations

from typing import Any

from langchain_ralmspec.stores import (
    BM25Store,
    FaissStore,
)
from langchain_ralmspec.stores.faiss_rows import FixedRows

_KNOWN = ("langchain_core", "langchain_community", "langchain_chroma")
"""Packages whose stores' searches depend on nothing but what is stored."""


def why_uncacheable(retriever: Any, own: type[Any]) -> str | None:
    """Why a retriever's answer must not serve another call; None where it may.

    Args:
        retriever: a retriever with a ``vectorstore`` and a ``filter``.
        own: the class whose searches are known.
    """
    if callable(retriever.filter):
        return "the retriever's filter is a function, which may depend on anything"
    for searched in (retriever, retriever.vectorstore):
        if not _is_known(searched, own):
            kind = type(searched).__name__
            return f"what {kind} finds may depend on anything: its code is not ours"
    if retriever.version is None:
        kind = type(retriever.vectorstore).__name__
        return f"{kind} does not tell when documents were added or replaced"
    return None


def _is_known(searched: object, own: type[Any]) -> bool:
    """Whether it is of such a class itself, and none of its methods was replaced."""
    kind, names = type(searched), getattr(searched, "__dict__", {})
    if kind is FaissStore:  # which may be a view of another store, with a filter
        is_known = isinstance(names["_rows"], FixedRows)
    else:
        package = kind.__module__.partition(".")[0]
        is_known = kind in (BM25Store, own) or package in _KNOWN
    return is_known and not any(callable(getattr(kind, name, None)) for name in names)
