"""Calls in threads that may be given up: Python ends although one of them hangs."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, Self, TypeVar

from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.registry import renewed_in_children

T = TypeVar("T")


class Call(Future[T], Generic[T]):
    """A call that a thread makes, and what comes of it.

    Attributes:
        sent: when it was asked for, by ``time.perf_counter()``.

    Raises:
        StoreError: it would be part of a call that has been given up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent = time.perf_counter()
        self._lock = threading.Lock()
        self._is_given_up = False
        self._held: list[Callable[[], None]] = []
        if (whole := _current.get()) is not None:
            whole.hold(self.give_up)

    def give_up(self) -> None:
        """Let others have what the call holds: it may never return."""
        self.cancel()
        with self._lock:
            self._is_given_up, held = True, self._held
            self._held = []
        for give_back in held:
            give_back()

    def hold(self, give_back: Callable[[], None]) -> None:
        """Note what is given back should the call be given up.

        Raises:
            StoreError: it has been, so nobody waits for its result.
        """
        with self._lock:
            if not self._is_given_up:
                self._held.append(give_back)
                return
        give_back()
        msg = "nobody waits for this call any more"
        raise StoreError(msg)


_current: contextvars.ContextVar[Call[Any] | None] = contextvars.ContextVar(
    "ralmspec_call", default=None
)


@contextmanager
def slot_of(slots: threading.Semaphore) -> Iterator[None]:
    """Hold one of some slots in this block, or until the call it is in is given up."""
    slots.acquire()
    held = [slots]  # emptied by who is first to give it back

    def give_back() -> None:
        with suppress(IndexError):
            held.pop().release()

    if (call := _current.get()) is not None:
        call.hold(give_back)
    try:
        yield
    finally:
        give_back()


class CallThreads:
    """Threads that make calls, so many at once, and that Python does not wait for.

    Those of the library's executors are joined when Python ends: with one that hangs it
    would hang too.

    Args:
        most: threads; further calls wait their turn.
        name: prefix of the threads' names.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self.renew_locks()
        renewed_in_children(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self.close():
            thread.join()

    def renew_locks(self) -> None:
        """Have no threads yet: in a forked process there are none."""
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        # Who forgets these threads need not close them.
        self._end = weakref.finalize(self, self._jobs.put, None)
        self._end.atexit = False

    def start(self, call: Callable[[], T]) -> Call[T]:
        """Have a call made, in the caller's context, which tracing reads too."""
        made: Call[T] = Call()
        context = contextvars.copy_context()
        context.run(_current.set, made)
        self._jobs.put((made, partial(context.run, call)))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
            number = len(self._threads)
            thread = threading.Thread(
                target=_work,
                args=(self._jobs, self._idle),
                name=f"{self._name}_{number}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()
        return made

    def close(self) -> list[threading.Thread]:
        """Let the threads end, each after its call; a later call has new ones.

        Returns:
            The threads, some of which may still run.
        """
        threads = self._threads
        if threads:
            self._end()
            self.renew_locks()
        return threads


def _work(jobs: queue.SimpleQueue[Any], idle: threading.Semaphore) -> None:
    while (job := jobs.get()) is not None:
        made, call = job
        tell: Callable[[], None] | None = None
        if made.set_running_or_notify_cancel():
            try:
                tell = partial(made.set_result, call())
            except BaseException as error:  # noqa: BLE001  who waits is told
                tell = partial(made.set_exception, error)
        idle.release()  # before who waits may look for an idle one
        if tell:
            tell()
        del job, made, call, tell  # an idle thread keeps nothing alive
    jobs.put(None)  # for the next thread
