"""Replicas: what is asked, for a guess, instead of a slower store."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.stores.base import Found

if TYPE_CHECKING:
    from langchain_ralmspec.stores.base import Query, Store

_TRIAL = 64  # guesses of a replica after which it is judged
_FEWEST_RIGHT = 8  # of these; one of another corpus or encoder has about none


class Replica(ABC):
    """Finds most of what a store would find, and sooner.

    What it finds is guessed, and the guess is verified like any other: a document that
    is missing here, or another one by now, costs time and nothing else. So does a
    replica that fails: a warning says so, and it is not asked again.

    Args:
        store: what it is made of.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._failure: Exception | None = None
        self._is_told = False  # whether a warning said that it failed
        self._n_guesses = self._n_right = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store,)

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked."""
        return self._failure is None

    def prepare(self) -> None:
        """Begin, in the background, what it takes to be ready and up to date."""
        if self._failure is not None and not self._is_told:
            self._is_told = True
            warnings.warn(
                f"the replica failed and is not asked again before invalidate() of the "
                f"retriever: {type(self._failure).__name__}: {self._failure}",
                RuntimeWarning,
                stacklevel=2,
            )

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for what :meth:`prepare` began; tells whether it is ready then."""
        del seconds
        return self.is_ready

    def near(self, query: Query, k: int) -> Found:
        """About ``k`` documents near a query, best first, nothing where it fails.

        Their hits have their documents where a store is to be believed that cannot give
        a document by its id.
        """
        if not self.is_ready:
            return Found()
        try:
            return self._near(query, k)
        except Exception as failure:  # noqa: BLE001  it is only a guess
            self._failure = failure
            self.prepare()
            return Found()

    def judged(self, *, right: bool) -> None:
        """Count a guess that nothing but the replica made; warn where all are wrong."""
        self._n_guesses += 1
        self._n_right += right
        if self._n_guesses == _TRIAL and self._n_right < _FEWEST_RIGHT:
            warnings.warn(
                f"of {_TRIAL} guesses of the replica only {self._n_right} were right; "
                "answers are as they should be, but slower: the replica needs the same "
                "documents under the same ids, and vectors of the same encoder",
                RuntimeWarning,
                stacklevel=2,
            )

    @abstractmethod
    def _near(self, query: Query, k: int) -> Found:
        """What :meth:`near` gives; may raise anything."""


class StoreReplica(Replica):
    """A store as the replica of another one.

    Args:
        store: is searched before every guess.
    """

    _store: Store

    def _near(self, query: Query, k: int) -> Found:
        store, vector = self._store, query.vector
        # The other store's vector where it fits: an embedding costs more than a search.
        if vector is None or store.dimension not in (None, len(vector)):
            (query,) = store.encode([query.text])
        has_vectors = store.metric is not None
        (hits,) = store.search([query], k, with_vectors=has_vectors)
        return Found.of(hits)
