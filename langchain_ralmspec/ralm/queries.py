"""The queries of one session, each embedded once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from langchain_ralmspec.stores.asking import queries_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_ralmspec.stores.base import Query, Store

_CAPACITY = 2048  # queries that are remembered; an answer asks fewer


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
        made = queries_of(self._store, texts)
        self._remember(zip(texts, made, strict=True))
        return made

    def _remember(self, made: Iterable[tuple[str, Query]]) -> None:
        with self._lock:
            self._known.update(made)
            while len(self._known) > _CAPACITY:  # the oldest goes
                del self._known[next(iter(self._known))]
