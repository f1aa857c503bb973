"""Documents as they come in, and what a filter says of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from inspect import iscoroutine
from typing import Any

from langchain_core.documents import Document

from langchain_ralmspec.arguments import several
from langchain_ralmspec.errors import InvalidValueError, SetupError, StoreError
from langchain_ralmspec.text import well_formed, well_formed_json

_UNDECIDED = (Awaitable, Iterator, AsyncIterator, Future)


@contextmanager
def record_named(id_: object, store: str) -> Iterator[None]:
    """Make a document of what a store has; StoreError where that is none."""
    try:
        yield
    except Exception as error:
        raise StoreError(
            f"{store} has the record {str(id_)!r}, which is no document: "
            f"{type(error).__name__}: {error}; give it a text, and a dict as metadata"
        ) from error


def known_as(document: Document) -> str:
    """What an error calls a document: its id, or else how it begins."""
    return document.id or document.page_content[:40]


def checked_documents(documents: object) -> list[Document]:
    """All of some documents checked; InvalidValueError where one is none."""
    return list(map(checked_document, several("documents", documents, "Documents")))


def checked_document(document: object) -> Document:
    """The document, with a text that can be encoded; SetupError for no document.

    Documents from JSON may hold halves of characters, which no encoder takes.
    """
    if not isinstance(document, Document):
        raise SetupError(
            f"documents must be LangChain Documents, got {document!r}; "
            "wrap a text in Document(page_content=...)"
        )
    text = document.page_content
    if not isinstance(text, str):
        raise SetupError(
            f"page_content must be a string, got {text!r} in the document "
            f"{document.id!r}"
        )
    metadata: object = document.metadata
    if metadata is not None and not isinstance(metadata, dict):
        raise SetupError(
            f"metadata must be a dict, got {metadata!r:.200} in the document "
            f"{known_as(document)!r}"
        )
    whole = well_formed(text)
    if whole is text:
        return document
    return document.model_copy(update={"page_content": whole})


def whole_documents(documents: object) -> list[Document]:
    """Documents of which a store can write all to a file, or send it to a server.

    Raises:
        InvalidValueError: one is none, or its id is no string, or two names in its
            metadata would become one.
    """
    whole = []
    for document in map(with_whole_id, checked_documents(documents)):
        try:
            metadata = well_formed_json(document.metadata)
        except ValueError as error:
            raise InvalidValueError(
                f"metadata of the document {known_as(document)!r}: {error}"
            ) from error
        whole.append(document.model_copy(update={"metadata": metadata}))
    return whole


def with_whole_id(document: Document) -> Document:
    """The document with an id that can be written to a file, as it is read again."""
    id_: object = document.id
    if id_ is None:
        return document
    if not isinstance(id_, str):
        raise InvalidValueError(
            f"the id of a document must be a string, got {id_!r} of the one that says "
            f"{document.page_content[:60]!r}; make it one by str(…)"
        )
    whole = well_formed(id_)
    return document if whole is id_ else document.model_copy(update={"id": whole})


def is_accepted(accepts: Callable[[dict[str, Any]], bool], document: Document) -> bool:
    """Whether a filter lets a document through; StoreError where it fails on it."""
    try:
        return verdict(accepts(document.metadata))
    except Exception as error:
        raise failed_on(document, error) from error


def verdict(given: Any) -> bool:
    """What a function has decided as a filter.

    Raises:
        TypeError: it gave something that is to be awaited, called or iterated over,
            which is true of every document.
    """
    if isinstance(given, _UNDECIDED) or callable(given):
        if iscoroutine(given):
            given.close()
        kind = type(given).__name__
        msg = f"it gives no verdict, but a {kind}, which is true of every document"
        raise TypeError(msg)
    return bool(given)


def failed_on(argument: object, error: Exception | None) -> StoreError:
    """What to raise where a filter fails on a document, or on metadata alone."""
    shown = f"the metadata {argument!r:.200}"
    if isinstance(argument, Document):
        name = known_as(argument)
        shown = f"the document {name!r} with the metadata {argument.metadata!r:.200}"
    why = f"{type(error).__name__}: {error}"
    return StoreError(f"the filter fails on {shown}: {why}")
