"""Calls that wait for a service, several of them out at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.stores.call_threads import CallThreads, Places

T = TypeVar("T")
R = TypeVar("R")

MAX_CONCURRENCY = 8
"""Calls at once where nobody says how many: as many as verifications may be in flight,
and fewer than services allow."""
ONE_THREAD = frozenset({"DuckDB", "SQLiteVSS", "SQLiteVec"})
"""Stores that compute in this process, and refuse other threads than the one that
opened them."""
LOCAL_STORES = ONE_THREAD | {
    "Annoy",
    "DocArrayHnswSearch",
    "DocArrayInMemorySearch",
    "FAISS",
    "InMemoryVectorStore",
    "SKLearnVectorStore",
    "ScaNN",
    "USearch",
}
"""Stores that compute in this process: threads gain nothing."""
THREADS = "ralmspec-ask"
"""Prefix of the names of threads that wait for a service."""


class Calls:
    """Calls of one kind, of which so many at most are out at once, whoever makes them.

    Args:
        most: calls at once; 1 makes them one after the other.

    Raises:
        InvalidValueError: ``most`` is no whole number of at least 1.
    """

    def __init__(self, most: int = MAX_CONCURRENCY) -> None:
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            msg = f"max_concurrency must be a number of at least 1, got {most!r}"
            raise InvalidValueError(msg)
        self.most = most
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Let calls be made: in a forked process, no thread ends the parent's."""
        self._places = Places(self.most)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.most,)

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Make a call for every item, at once where there are several.

        Returns:
            What the calls returned, in the order of the items. When it returns or
            raises, none of its calls is out any more.

        Raises:
            Exception: the first that a call raised, by the order of the items; calls
                that were not begun are not made then.
        """

        def bounded(item: T) -> R:
            with self._places.one():
                return call(item)

        if self.most == 1 or len(items) < 2:  # noqa: PLR2004  nothing to overlap
            return list(map(bounded, items))
        n_threads = min(self.most, len(items))
        with CallThreads(n_threads, THREADS) as threads:
            made = [threads.start(partial(bounded, item)) for item in items]
            try:
                return [each.result() for each in made]
            finally:
                for each in made:
                    each.cancel()
