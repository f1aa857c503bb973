"""Guess and verify, for code that runs its own generation loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_ralmspec.ralm.writer import ids_of
from langchain_ralmspec.speculation import GUESS_POLICIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.documents import Document

    from langchain_ralmspec.ralm.session import Guess, Hits, Session
    from langchain_ralmspec.speculation import SpeculationStats


class RetrieverSession:
    """One session over a retriever's store; its cache is shared with nobody.

    Example:
        .. code-block:: python

            session = retriever.session()
            truth = session.verify([first_query])  # fills the cache
            guess = session.speculate(next_query)  # no store call
            truth = session.verify([next_query])   # one store call for all queries
            if guess != truth[0]: ...              # roll back what relied on it
    """

    def __init__(self, session: Session, guess_policy: str) -> None:
        """Wrap a session; use :meth:`RaLMSpecRetriever.session` to make one."""
        self._session = session
        self._policy = guess_policy
        self._current: Hits = ()
        # What was guessed since the last verification, by query.
        self._guesses: dict[str, Guess] = {}

    @property
    def stats(self) -> SpeculationStats:
        """Counts and seconds of this session so far."""
        return self._session.stats

    def speculate(self, query: str) -> list[Document]:
        """Guess what :meth:`verify` would return, without asking the store.

        Returns:
            As many documents as the last verification returned; none before that.
        """
        guess = self._session.guess(self._policy, query, self._current)
        self._guesses[query] = guess
        return _documents(guess.hits)

    def verify(self, queries: Sequence[str]) -> list[list[Document]]:
        """Retrieve the true documents of all queries in one store call.

        Generation is taken to go on under the true documents of the first query whose
        guess was wrong, else of the last one: those are what ``"same"`` guesses next.

        Raises:
            EmptyStoreError: the store found nothing.
            StoreError: the store failed.
        """
        if not queries:
            return []
        guesses = [self._guesses.get(query) for query in queries]
        known = [guess.query if guess else None for guess in guesses]
        looks_up = GUESS_POLICIES[self._policy].needs_vector
        truth = self._session.verify(queries, known, with_vectors=looks_up)
        self._guesses.clear()
        pairs = zip(guesses, truth, strict=True)
        wrong = (t for g, t in pairs if g and ids_of(g.hits) != ids_of(t))
        self._current = next(wrong, truth[-1])
        return [_documents(hits) for hits in truth]


def _documents(hits: Hits) -> list[Document]:
    return [hit.document for hit in hits]
