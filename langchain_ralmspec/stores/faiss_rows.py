"""What the rows of a FAISS index stand for: ids and documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from langchain_core.documents import Document

from langchain_ralmspec.arguments import several
from langchain_ralmspec.errors import InvalidValueError, SetupError, StoreError
from langchain_ralmspec.stores.base import Ranked
from langchain_ralmspec.stores.documents import (
    checked_documents,
    is_accepted,
    with_whole_id,
)
from langchain_ralmspec.text import sha256_of, well_formed

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


class FixedRows:
    """Documents given once, in the order of the rows.

    Args:
        documents: one per row, in row order.
        ids: one per row; when None, the document's own, else the row number, behind
            as many ``#`` as keep all of those from being some document's own.

    Raises:
        InvalidValueError: the ids are not unique, or not one per document, or
            something is no document.
    """

    def __init__(
        self, documents: Iterable[Document], ids: Iterable[str] | None = None
    ) -> None:
        documents = list(map(with_whole_id, checked_documents(documents)))
        ids = _ids_of(documents) if ids is None else _checked_ids(ids)
        if len(ids) != len(documents):
            raise InvalidValueError(
                f"got {len(ids)} ids for {len(documents)} documents"
            )
        self._ids = dict(enumerate(ids))
        self._documents = dict(zip(ids, documents, strict=True))
        if len(self._documents) != len(ids):
            ((twice, _),) = Counter(ids).most_common(1)
            raise InvalidValueError(
                f"document ids must be unique, got {twice!r} more than once"
            )

    def ids(self) -> Mapping[int, str]:
        """Document id of every row."""
        return self._ids

    def document(self, id_: str) -> Document:
        """The document with that id."""
        document = self._documents[id_]
        # Under its own id it might be taken for the one that goes by it here.
        if document.id not in (id_, None):
            document = document.model_copy(update={"id": id_})
        return _complete(document, id_)


class LangChainRows:
    """The rows of a LangChain FAISS store, read anew at every search.

    LangChain renumbers the rows when documents are deleted, so nothing about a
    row number may be remembered.

    Args:
        store: a LangChain FAISS store.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

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
        if not isinstance(found, Document) and (keys := self._named_by(id_)):
            found = self._store.docstore.search(keys[0])
        if not isinstance(found, Document):
            raise StoreError(
                f"the FAISS document store has no document {id_!r}: {found}"
            )
        return _complete(found, id_)

    def _named_by(self, name: str) -> list[object]:
        others = {key for key in self.ids().values() if not isinstance(key, str)}
        return [key for key in others if name_of(key) == name]


def name_of(key: object) -> str:
    """What a document goes by whose key in LangChain's store is no string.

    Where some of the documents that it was given had ids, that is None for one that had
    none. The name is no other document's, whatever is added, and the same everywhere.
    """
    return sha256_of(f"{type(key).__name__} {key}")


def names_of(keys: list[Any]) -> list[str]:
    """Ids of documents, of their keys in LangChain's store."""
    if all(isinstance(key, str) for key in keys):
        return keys
    return [key if isinstance(key, str) else name_of(key) for key in keys]


def _checked_ids(ids: Iterable[object]) -> list[str]:
    checked = []
    for row, id_ in enumerate(several("ids", ids, "strings")):
        if not isinstance(id_, str):
            raise InvalidValueError(
                f"an id must be a string, got {id_!r} for the row {row}; make it one "
                "by str(…), or leave ids out to take the documents' own"
            )
        checked.append(well_formed(id_))
    return checked


def _ids_of(documents: Sequence[Document]) -> list[str]:
    """The documents' own ids; where one has none, a number that is no other's."""
    given = {document.id for document in documents}
    numbers = [str(row) for row, each in enumerate(documents) if not each.id]
    while not given.isdisjoint(numbers):
        numbers = [f"#{number}" for number in numbers]
    made = iter(numbers)
    return [document.id or next(made) for document in documents]


def condition(store: Any, filter_: Filter) -> Callable[[dict[str, Any]], bool]:
    """Let a LangChain FAISS store turn its kind of filter into a function of metadata.

    Args:
        store: the store.
        filter_: a dict with its operators, or a function of the metadata.

    Raises:
        SetupError: the store cannot make sense of the filter, or would heed a
            part of it only.
    """
    if callable(filter_):
        return filter_
    if isinstance(filter_, dict):
        _refuse_half_heeded(filter_)
        if len(filter_) == 1:
            ((key, value),) = filter_.items()
            # What the store makes of it, and ten times as fast.
            is_name = isinstance(key, str) and not key.startswith("$")
            if is_name and not isinstance(value, dict | list):
                return lambda metadata: bool(metadata.get(key) == value)
    try:
        accepts: Callable[[dict[str, Any]], bool] = store._create_filter_func(filter_)  # noqa: SLF001
    except (AttributeError, TypeError, ValueError) as cause:
        raise SetupError(
            f"{type(store).__name__} cannot use the filter {filter_!r}: {cause}"
        ) from cause
    return accepts


def _refuse_half_heeded(filter_: dict[str, Any]) -> None:
    """Refuse conditions beside ``$and``, ``$or``, ``$not``: LangChain ignores them."""
    for operator in ("$and", "$or", "$not"):
        if operator in filter_:
            if len(filter_) > 1:
                raise SetupError(
                    f"of the filter {filter_!r}, FAISS would heed {operator!r} alone; "
                    "put all conditions into one '$and': [{…}, {…}]"
                )
            parts = filter_[operator]
            for part in parts if isinstance(parts, list | tuple) else [parts]:
                if isinstance(part, dict):
                    _refuse_half_heeded(part)


def require_parts(store: Any, **own: object) -> None:
    """Refuse to search a LangChain store whose parts are not those it was opened with.

    What was derived from the index, and queries already embedded, fit no other.

    Raises:
        StoreError: one of them is another now.
    """
    for name, part in own.items():
        if getattr(store, name) is not part:
            raise StoreError(
                f"the {name} of the {type(store).__name__} store was replaced by "
                f"{getattr(store, name)!r:.80} since it was opened; call invalidate() "
                "of the retriever, which opens it anew"
            )


def _complete(document: Document, id_: str) -> Document:
    """Give a document its id and metadata where they are missing, but in a copy."""
    if document.id is not None and document.metadata is not None:
        return document
    return Document(
        id=id_, page_content=document.page_content, metadata=document.metadata or {}
    )


class Passing:
    """Which documents a filter lets through, during one search.

    Nothing is kept longer: metadata may change in place, and a function may heed who
    asks, or the clock.
    """

    def __init__(self, rows: Rows, accepts: Callable[[dict[str, Any]], bool]) -> None:
        self._rows, self._accepts = rows, accepts
        self._known: dict[str, bool] = {}

    def best(self, scored: Ranked, k: int) -> Ranked:
        """The first ``k`` that pass."""
        passing = (place for place, id_ in enumerate(scored.ids) if self._passes(id_))
        places = list(islice(passing, k))
        assert scored.vectors is not None  # noqa: S101  they were scored
        return Ranked(
            ids=[scored.ids[place] for place in places],
            scores=[scored.scores[place] for place in places],
            vectors=scored.vectors[places],
        )

    def all_rows(self) -> NDArray[np.bool_]:
        """Which of all rows pass, or have the filter fail: if they come to be found."""
        ids = self._rows.ids()
        found = (self._rows.document(ids[row]) for row in range(len(ids)))
        return np.fromiter(map(self._may_pass, found), np.bool_, len(ids))

    def _may_pass(self, document: Document) -> bool:
        try:
            return is_accepted(self._accepts, document)
        except StoreError:
            return True

    def _passes(self, id_: str) -> bool:
        verdict = self._known.get(id_)
        if verdict is None:
            verdict = is_accepted(self._accepts, self._rows.document(id_))
            self._known[id_] = verdict
        return verdict
