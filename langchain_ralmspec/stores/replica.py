"""Replicas: what is asked, for a guess, instead of a slower store."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.errors import DimensionMismatchError
from langchain_ralmspec.stores.base import Ranked

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ralmspec.stores.base import Query, Store

THREADS = "ralmspec-replica"
"""Name of the threads that build a replica."""

_TRIAL = 64  # guesses of a replica after which it is judged
_FEWEST_RIGHT = 16  # of these; one of another corpus or encoder has about none


class Replica(ABC):
    """Finds most of what a store would find, and sooner.

    What it finds is guessed, and the guess is verified like any other: a document that
    is missing here, or another one by now, costs time and nothing else. One that fails,
    or is nearly always wrong, is not asked again, and a warning says so.

    Args:
        store: what it is made of.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._fault: str | None = None  # why it is not asked any more
        self._is_told = False
        self._n_guesses = self._n_right = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store,)

    @property
    def is_ready(self) -> bool:
        """Whether it may be asked."""
        return self._fault is None

    def prepare(self) -> None:
        """Begin, in the background, what it takes to be ready and up to date.

        Warns, once, where it is not asked any more.
        """
        if self._fault is not None and not self._is_told:
            self._is_told = True
            warnings.warn(
                f"{self._fault}; it is not asked again before invalidate() of the "
                "retriever, and answers are as they should be without it",
                RuntimeWarning,
                stacklevel=2,
            )

    def renew(self) -> None:  # noqa: B027  most follow their store by themselves
        """Forget what was copied, as documents were added or deleted."""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for what :meth:`prepare` began; tells whether it is ready then."""
        del seconds
        return self.is_ready

    def near(self, query: Query, k: int) -> Ranked:
        """About ``k`` documents near a query, best first; nothing where it fails.

        A replica of a store that gives documents by their ids need not have them.
        """
        if not self.is_ready:
            return Ranked()
        try:
            found = self._near(query, k)
            _require_length(found, query)
            return found  # noqa: TRY300  what is checked is what may fail
        except Exception as failure:  # noqa: BLE001  it is only a guess
            self._failed(failure)
            return Ranked()

    def judged(self, *, right: bool) -> None:
        """Count a guess that nothing but the replica made."""
        self._n_guesses += 1
        self._n_right += right
        if self._n_guesses >= _TRIAL:
            n_right, self._n_guesses, self._n_right = self._n_right, 0, 0
            if n_right < _FEWEST_RIGHT:
                self._fault = (
                    f"of {_TRIAL} guesses of the replica only {n_right} were right: it "
                    "needs the same documents under the same ids, and vectors of the "
                    "same encoder"
                )

    def _started(
        self, build: Callable[[], None], *, may_hang: bool = False
    ) -> threading.Thread | None:
        """A thread that builds it; None where there are no more threads.

        Python does not wait for one that may hang when it ends.
        """
        thread = threading.Thread(target=build, name=THREADS, daemon=may_hang)
        try:
            thread.start()
        except RuntimeError as error:  # it is only a guess
            self._failed(error)
            return None
        return thread

    def _failed(self, failure: Exception) -> None:
        self._fault = f"the replica failed: {type(failure).__name__}: {failure}"

    @abstractmethod
    def _near(self, query: Query, k: int) -> Ranked:
        """What :meth:`near` gives; may raise anything."""


def _require_length(found: Ranked, query: Query) -> None:
    """Refuse vectors that cannot be compared to the query's."""
    if found.vectors is None or query.vector is None or not len(found.vectors):
        return
    lengths = {len(vector) for vector in found.vectors}
    if lengths != {len(query.vector)}:
        raise DimensionMismatchError(
            f"its vectors have {sorted(lengths)} numbers, the query "
            f"{len(query.vector)}; embed the documents of both by the same encoder"
        )


class StoreReplica(Replica):
    """A store as the replica of another one.

    Args:
        store: is searched before every guess.
    """

    _store: Store
    _dimension: int | None = None  # asked for once: that may be a request

    def _near(self, query: Query, k: int) -> Ranked:
        store, vector = self._store, query.vector
        self._dimension = self._dimension or store.dimension
        # The other store's vector where it fits: an embedding costs more than a search.
        if vector is None or self._dimension not in {None, len(vector)}:
            (query,) = store.encode([query.text])
        has_vectors = store.metric is not None
        (hits,) = store.search([query], k, with_vectors=has_vectors)
        return Ranked.of(hits)
