"""The queries of one session, each embedded once."""

from __future__ import annotations

import threading
from numbers import Real
from typing import TYPE_CHECKING

from langchain_core.documents import Document

from langchain_ralmspec.stores.base import Query
from langchain_ralmspec.stores.failures import reported_as_store_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_ralmspec.stores.base import Hit, Store

_CAPACITY = 2048  # queries that are remembered; an answer asks fewer


def require_one_each(made: Sequence[object], given: Sequence[object]) -> None:
    """Raise what becomes a ``StoreError`` where a store gives too much, or too little.

    Stores of one's own may.
    """
    if len(made) != len(given) or any(each is None for each in made):
        msg = f"{len(given)} were asked for, it gave {made!r:.80}"
        raise ValueError(msg)


def require_queries(made: Sequence[Query]) -> None:
    """Raise what becomes a ``StoreError`` where a store makes no queries of texts."""
    for each in made:
        vector = each.vector if isinstance(each, Query) else ()
        if vector is not None and getattr(vector, "ndim", 0) != 1:
            msg = f"a Query has a vector, an array of one dimension, or None; {each!r}"
            raise TypeError(f"{msg:.200} is none")


def require_hits(found: Sequence[Hit]) -> None:
    """Raise what becomes a ``StoreError`` where a store finds something else."""
    for hit in found:
        kinds = (hit.id, str), (hit.document, Document), (hit.score, Real)
        if not all(isinstance(*each) for each in kinds):
            msg = f"a Hit has a string, a Document and a number as score; {hit!r}"
            raise TypeError(f"{msg:.200} has not")


class Queries:
    """Makes queries of texts, and remembers them: an embedding may cost money.

    May be used from several threads.
    """

    def __init__(self, store: Store) -> None:
        """Know no query yet of a store."""
        self._store = store
        self._known: dict[str, Query] = {}
        self._lock = threading.Lock()

    def alone(self, text: str) -> Query:
        """The query, embedded alone as the sequential loop does."""
        known = self._known.get(text)
        return self._made([text])[0] if known is None or known.batched else known

    def any(self, text: str) -> Query:
        """The query, embedded alone unless it is known from a batch."""
        known = self._known.get(text)
        return self._made([text])[0] if known is None else known

    def knows(self, text: str) -> bool:
        """Whether a text has been embedded."""
        return text in self._known

    def together(self, texts: Sequence[str]) -> list[Query]:
        """The queries; those that are not known are embedded in one batch."""
        known = {text: self._known.get(text) for text in texts}
        missing = [text for text, query in known.items() if query is None]
        if missing:
            known.update(zip(missing, self._made(missing), strict=True))
        return [query for text in texts if (query := known[text]) is not None]

    def _made(self, texts: Sequence[str]) -> list[Query]:
        with reported_as_store_error(type(self._store).__name__, "encode"):
            made = self._store.encode(texts)
            require_one_each(made, texts)
            require_queries(made)
        self._remember(zip(texts, made, strict=True))
        return made

    def _remember(self, made: Iterable[tuple[str, Query]]) -> None:
        with self._lock:
            self._known.update(made)
            while len(self._known) > _CAPACITY:  # the oldest goes
                del self._known[next(iter(self._known))]
