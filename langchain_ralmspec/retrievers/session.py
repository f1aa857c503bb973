"""Guess and verify over a retriever's store, for code that generates on its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

from langchain_core.documents import Document

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.arguments import Live, several
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.ralm.hits import Hits
from langchain_ralmspec.ralm.memory import Guess
from langchain_ralmspec.ralm.session import Session
from langchain_ralmspec.stores import Hit, Query
from langchain_ralmspec.text import well_formed

MOST_HITS = 100_000
"""Hits that may be asked for: a session has memory for so many vectors, 150 MB of 384
numbers each."""


class RetrieverSession(Live):
    """One session over a retriever's store; its cache is shared with nobody.

    ``RaLMSpecRetriever.session()`` opens one.

    Example:
        ```python
        session = retriever.session()
        truth = session.verify([first_query])  # fills the cache
        guess = session.speculate(next_query)  # no search
        truth = session.verify([next_query])   # one store call for all queries
        if guess != truth[0]: ...              # roll back what relied on it
        ```
    """

    instead = "open one where it is needed, by session() of the retriever"

    def __init__(self, session: Session, guess_policy: str) -> None:
        self._session = session
        self._policy = session.usable([guess_policy])[0]
        self._current: Hits | None = None  # before the first verification
        self._guesses: dict[str, Guess] = {}  # since the last verification

    @property
    def stats(self) -> SpeculationStats:
        """Counts and seconds of this session so far."""
        return self._session.stats

    def speculate(self, query: str) -> list[Document]:
        """Guess what ``verify()`` would return, without a search of the store.

        Over FAISS the guessed documents are looked up in the docstore by their ids.

        Returns:
            As many documents as the last verification returned; before that none, or
            ``k`` that a replica finds.

        Raises:
            InvalidValueError: the query is no string.
            StoreError: the encoder failed.
        """
        (query,) = checked_queries([query])
        guess = self._session.guess(self._policy, query, self._current)
        self._guesses[query] = guess
        return documents_of_hits(guess.hits)

    def verify(self, queries: Iterable[str]) -> list[list[Document]]:
        """Retrieve the true documents of all queries in one store call.

        Generation is taken to go on under the true documents of the first query whose
        guess was wrong, else of the last one: those are what ``"same"`` guesses next.

        Raises:
            InvalidValueError: a query is no string.
            EmptyStoreError: the store found nothing.
            StoreError: the store failed.
        """
        queries = checked_queries(queries)
        if not queries:
            return []
        guesses = [self._guesses.get(query) for query in queries]
        pairs = zip(queries, guesses, strict=True)
        known = [guess.query if guess else Query(text) for text, guess in pairs]
        fills_cache = self._session.fills_cache([self._policy])
        truth = self._session.verify(known, with_vectors=fills_cache)
        self._guesses.clear()
        judged = zip(guesses, truth, strict=True)
        wrong = (t for g, t in judged if g and not g.is_right(t))
        self._current = next(wrong, truth[-1])
        return list(map(documents_of_hits, truth))


def documents_of_hits(hits: Sequence[Hit]) -> list[Document]:
    """The documents that were found; those without an id get that of their hit."""
    return [
        hit.document
        if hit.document.id
        else hit.document.model_copy(update={"id": hit.id})
        for hit in hits
    ]


def checked_queries(queries: object) -> list[str]:
    """The queries, of characters alone.

    Raises:
        InvalidValueError: they are no list of strings.
    """
    checked = []
    for query in several("queries", queries, "strings"):
        if not isinstance(query, str):
            kind = type(query).__name__
            msg = f"a query must be a string, got {kind} {query!r}"
            raise InvalidValueError(msg)
        checked.append(well_formed(query))
    return checked


def require_hits(name: str, value: int) -> None:
    """Refuse a number of hits that no search can be asked for."""
    is_number = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= MOST_HITS:
        msg = f"{name} must be a whole number from 1 to {MOST_HITS:,}, got {value!r}"
        raise InvalidValueError(msg)
