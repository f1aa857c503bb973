"""What a retriever opens: a store of its own making, or one under its settings."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_ralmspec.errors import InvalidValueError, UnknownArgumentError
from langchain_ralmspec.stores import BM25Store, Replica, Store

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from pydantic import BaseModel


class Opened(NamedTuple):
    """A store, what it was opened with, its replica, and the key of what is found."""

    settings: Any
    store: Store
    replica: Replica | None
    key: str


def built_store(
    owner: type[BaseModel],
    documents: Iterable[Document],
    kind: str,
    given: dict[str, Any],
) -> tuple[Store, dict[str, Any]]:
    """A store of documents, and what of the given arguments is its retriever's.

    Args:
        owner: the retriever's class.
        documents: at least one.
        kind: of store.
        given: arguments of the store and of the retriever.

    Raises:
        InvalidValueError: there is no such kind, or the store refused something.
        MissingExtraError: the extra ``bm25`` is not installed.
        UnknownArgumentError: an argument is neither's.
    """
    if kind != "bm25":
        msg = f"kind must be 'bm25', got {kind!r}; put other stores in vectorstore="
        raise InvalidValueError(msg)
    names = signature(BM25Store.from_documents).parameters
    options = {name: value for name, value in given.items() if name in names}
    rest = {name: value for name, value in given.items() if name not in names}
    for name in rest:
        if name not in owner.model_fields:
            known = {*names, *owner.model_fields} - {"documents", "vectorstore"}
            raise UnknownArgumentError.of(
                f"{owner.__name__}.from_documents()", name, known
            )
    return BM25Store.from_documents(documents, **options), rest
