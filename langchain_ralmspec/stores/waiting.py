"""How long a store is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Annotated, TypeVar

from pydantic import Field

from langchain_ralmspec.errors import StoreTimeoutError
from langchain_ralmspec.speculation.plan import IN_FLIGHT
from langchain_ralmspec.stores.call_threads import Call, CallThreads

T = TypeVar("T")

THREADS = "ralmspec-verify"
"""Prefix of the names of threads that ask a store."""

Seconds = Annotated[float, Field(gt=0, le=threading.TIMEOUT_MAX, allow_inf_nan=False)]
"""How long something may be waited for."""


class Waiting:
    """Calls of one store, each waited for so long and then given up.

    A call of a store that stays in this process, where nothing can be waited for, is
    made by the caller's thread.

    Args:
        store: any store.
        seconds: a call may take; None waits for ever, in the caller's thread.
    """

    def __init__(self, store: object, seconds: float | None) -> None:
        self._seconds = seconds
        self._name = getattr(store, "_name", type(store).__name__)
        # What a subclass of somebody's does is not known.
        is_ours = type(store).__module__.partition(".")[0] == __name__.partition(".")[0]
        stays_here = is_ours and getattr(store, "stays_in_process", False)
        self._is_bounded = seconds is not None and not stays_here
        self._threads = CallThreads(max(IN_FLIGHT), THREADS)

    def call(self, call: Callable[[], T]) -> T:
        """Make a call, and wait for it.

        Raises:
            StoreTimeoutError: it takes too long.
        """
        return self.result_of(self.start(call)) if self._is_bounded else call()

    def start(self, call: Callable[[], T]) -> Call[T]:
        """Have a call made by another thread, in the caller's context."""
        return self._threads.start(call)

    def result_of(self, made: Future[T]) -> T:
        """What a call gives, or has given; waits until its time is over.

        Raises:
            StoreTimeoutError: its time is over. Nobody waits for it any more.
        """
        if self._is_bounded and self._seconds is not None and isinstance(made, Call):
            left = made.sent + self._seconds - time.perf_counter()
            wait([made], max(0.0, left))
            if not made.done():
                made.give_up()
                self._threads.close()  # so that none that hangs is counted as one
                raise StoreTimeoutError.of(self._name, self._seconds)
        return made.result()

    def close(self) -> None:
        """Let the threads end, each after its call; a later call has new ones."""
        self._threads.close()


def shorter(one: float | None, other: float | None) -> float | None:
    """The shorter of two time-outs, of which None is none."""
    return min(filter(None, (one, other)), default=None)
