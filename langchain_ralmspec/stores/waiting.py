"""How long a store is waited for."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Annotated, TypeVar

from langchain_core.runnables import Runnable
from pydantic import Field

from langchain_ralmspec.errors import StoreTimeoutError
from langchain_ralmspec.speculation.plan import IN_FLIGHT
from langchain_ralmspec.stores.call_threads import Call, CallThreads
from langchain_ralmspec.stores.concurrency import LOCAL_STORES, ONE_THREAD
from langchain_ralmspec.stores.encoding import computes_here
from langchain_ralmspec.stores.searches import filter_of, unbound

T = TypeVar("T")

THREADS = "ralmspec-verify"
"""Prefix of the names of threads that ask a store."""

_KNOWN = {__name__.partition(".")[0], "langchain_core"}
"""Packages whose classes are known: ours, and that of ``as_retriever()``."""

Seconds = Annotated[float, Field(gt=0, le=threading.TIMEOUT_MAX, allow_inf_nan=False)]
"""How long something may be waited for."""


class Waiting:
    """Calls of one store, or retriever, each waited for so long and then given up.

    A call of a store that stays in this process, where nothing can be waited for, is
    made by the caller's thread.

    Args:
        store: any store, or any retriever.
        seconds: a call may take; None waits for ever, in the caller's thread.
    """

    def __init__(self, store: object, seconds: float | None) -> None:
        self._seconds = seconds
        kind = type(store).__name__
        name = store.get_name() if isinstance(store, Runnable) else kind
        self._name = getattr(store, "_name", name)
        self._is_bounded = seconds is not None and not _stays_here(store)
        self._threads = CallThreads(max(IN_FLIGHT), THREADS)

    def call(self, call: Callable[[], T]) -> T:
        """Make a call, and wait for it.

        Raises:
            StoreTimeoutError: it takes too long.
        """
        return self.result_of(self.start(call)) if self._is_bounded else call()

    def start(self, call: Callable[[], T]) -> Call[T]:
        """Have a call made by another thread, in the caller's context."""
        seconds = self._seconds if self._is_bounded else None
        return self._threads.start(call, math.inf if seconds is None else seconds)

    def result_of(self, made: Future[T]) -> T:
        """What a call gives, or has given; waits until its time is over.

        Raises:
            StoreTimeoutError: its time is over. Nobody waits for it any more.
        """
        if self._is_bounded and self._seconds is not None and isinstance(made, Call):
            wait([made], max(0.0, made.left))
            if not made.done():
                made.give_up()
                self._threads.close()  # so that none that hangs is counted as one
                raise StoreTimeoutError.of(self._name, self._seconds)
        return made.result()

    def close(self) -> None:
        """Let the threads end, each after its call; a later call has new ones."""
        self._threads.close()


def stays_in_process(vectorstore: object, filter: object) -> bool:  # noqa: A002
    """Whether a LangChain store is known to wait for nobody, or wants one thread.

    A filter that is a function may ask a service.
    """
    kinds = {kind.__name__ for kind in type(vectorstore).__mro__}
    embeddings = getattr(vectorstore, "embeddings", None)
    is_quick = type(vectorstore).__name__ in LOCAL_STORES and computes_here(embeddings)
    is_quick = is_quick and not callable(filter)
    return is_quick or not ONE_THREAD.isdisjoint(kinds)


def _stays_here(store: object) -> bool:
    """Whether a store, or what a retriever searches, is known to be in this process."""
    inner, given = unbound(store)
    # What a subclass of somebody's does is not known.
    if type(inner).__module__.partition(".")[0] not in _KNOWN:
        return False
    own = getattr(inner, "filter", None) or filter_of(inner)
    filter_ = given.get("filter", own)
    within = stays_in_process(getattr(inner, "vectorstore", None), filter_)
    return within or getattr(inner, "stays_in_process", False)


def shorter(one: float | None, other: float | None) -> float | None:
    """The shorter of two time-outs, of which None is none."""
    return min(filter(None, (one, other)), default=None)
