"""What the rows of a FAISS index stand for: ids, documents, and who may be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from langchain_core.documents import Document

from langchain_ralmspec.errors import InvalidValueError, StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Filter = dict[str, Any] | Callable[[dict[str, Any]], bool]


class Rows(Protocol):
    """What a FAISS store has to know about its rows."""

    def ids(self) -> Mapping[int, str]:
        """Document id of every row, as it is now."""
        ...

    def document(self, id_: str) -> Document:
        """The document with that id."""
        ...

    def allowed(self, n_rows: int) -> NDArray[np.bool_] | None:
        """Which of the first ``n_rows`` rows may be found; None means all."""
        ...


class FixedRows:
    """Documents given once, in the order of the rows.

    Args:
        documents: one per row, in row order.
        ids: one per row; the document's own id, else the row number, when None.

    Raises:
        InvalidValueError: the ids are not unique, or not one per document, or
            something is no document.
    """

    def __init__(
        self, documents: Sequence[Document], ids: Sequence[str] | None = None
    ) -> None:
        for document in documents:
            if not isinstance(document, Document):
                raise InvalidValueError(
                    f"documents must be LangChain Documents, got {document!r}; "
                    "wrap a text in Document(page_content=...)"
                )
        if ids is None:
            ids = [doc.id or str(row) for row, doc in enumerate(documents)]
        if len(ids) != len(documents):
            raise InvalidValueError(
                f"got {len(ids)} ids for {len(documents)} documents"
            )
        self._ids = dict(enumerate(ids))
        self._documents = dict(zip(ids, documents, strict=True))
        if len(self._documents) != len(ids):
            twice = next(id_ for row, id_ in self._ids.items() if id_ in ids[:row])
            raise InvalidValueError(
                f"document ids must be unique, got {twice!r} more than once"
            )

    def ids(self) -> Mapping[int, str]:
        """Document id of every row."""
        return self._ids

    def document(self, id_: str) -> Document:
        """The document with that id."""
        return _complete(self._documents[id_], id_)

    def allowed(self, n_rows: int) -> None:
        """All rows may be found."""


class LangChainRows:
    """The rows of a LangChain FAISS store, read anew at every search.

    LangChain renumbers the rows when documents are deleted, so nothing about a
    row number may be remembered.

    Args:
        store: a LangChain FAISS store.
        filter_: a condition on the metadata as LangChain's FAISS takes it: a dict
            with its operators, or a function of the metadata.

    Raises:
        InvalidValueError: the store cannot make sense of the filter.
    """

    def __init__(self, store: Any, filter_: Filter | None = None) -> None:
        self._store = store
        self._accepts = None if filter_ is None else _condition(store, filter_)
        # One attribute, so that a second thread never sees half of an update.
        self._known: tuple[Mapping[int, str], NDArray[np.bool_]] | None = None

    def ids(self) -> Mapping[int, str]:
        """Document id of every row, as it is now."""
        mapping: Mapping[int, str] = self._store.index_to_docstore_id
        return mapping

    def document(self, id_: str) -> Document:
        """The document with that id.

        Raises:
            StoreError: the document store does not have it.
        """
        found = self._store.docstore.search(id_)
        if not isinstance(found, Document):
            raise StoreError(
                f"the FAISS document store has no document {id_!r}: {found}"
            )
        return _complete(found, id_)

    def allowed(self, n_rows: int) -> NDArray[np.bool_] | None:
        """Which of the first ``n_rows`` rows may be found; None means all.

        The answer is kept until documents are added (more rows) or deleted
        (LangChain then makes a new mapping). A change of a stored document's
        metadata in place is not noticed.
        """
        if self._accepts is None:
            return None
        mapping, known = self.ids(), self._known
        if known is not None and known[0] is mapping and len(known[1]) == n_rows:
            return known[1]
        mask = np.zeros(n_rows, dtype=np.bool_)
        for row in range(n_rows):
            if row in mapping:
                mask[row] = self._accepts(self.document(mapping[row]).metadata)
        self._known = (mapping, mask)
        return mask


def _condition(store: Any, filter_: Filter) -> Callable[[dict[str, Any]], bool]:
    """Let the store turn its kind of filter into a function of the metadata."""
    if callable(filter_):
        return filter_
    try:
        accepts: Callable[[dict[str, Any]], bool] = store._create_filter_func(filter_)  # noqa: SLF001
    except (AttributeError, ValueError) as cause:
        raise InvalidValueError(
            f"{type(store).__name__} cannot use the filter {filter_!r}: {cause}"
        ) from cause
    return accepts


def _complete(document: Document, id_: str) -> Document:
    """Give a document its id and metadata where they are missing, but in a copy."""
    if document.id is not None and document.metadata is not None:
        return document
    return Document(
        id=id_, page_content=document.page_content, metadata=document.metadata or {}
    )
