"""Calls in threads that may be given up: Python ends although one of them hangs."""

from __future__ import annotations

import contextvars
import math
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

# Seconds after which who waits for a place looks again who holds it: at least, at most.
_SOONEST, _LATEST = 0.01, 0.5


class Once:
    """Something that is done once at most, by whoever is first.

    Args:
        act: does it.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._left = [act]

    def __call__(self) -> None:
        """Do it, if it has not been done."""
        if (act := self._take()) is not None:
            act()

    def taken_back(self) -> bool:
        """Have it never be done; tells whether it was not."""
        return self._take() is not None

    def _take(self) -> Callable[[], None] | None:
        with suppress(IndexError):
            return self._left.pop()
        return None


class Call(Future[T], Generic[T]):
    """A call that a thread makes, and what comes of it.

    Args:
        seconds: that it may take; those of the call that it is part of count as well.

    Raises:
        StoreError: it would be part of a call that has been given up.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        super().__init__()
        self._until = time.perf_counter() + seconds
        self._lock = threading.Lock()
        self._is_given_up = False
        self._held: list[Callable[[], None]] = []
        if (whole := _current.get()) is not None:
            self._until = min(self._until, whole._until)  # noqa: SLF001  another of us
            whole.hold(self.give_up)

    @property
    def left(self) -> float:
        """Seconds until its time is over; none or less where it is."""
        return self._until - time.perf_counter()

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
        self.require_wanted()

    def require_wanted(self) -> None:
        """Raise a :class:`StoreError` where the call has been given up."""
        if self._is_given_up:
            msg = "nobody waits for this call any more"
            raise StoreError(msg)


_current: contextvars.ContextVar[Call[Any] | None] = contextvars.ContextVar(
    "ralmspec_call", default=None
)


def current_call() -> Call[Any] | None:
    """The call that this is part of."""
    return _current.get()


class Places:
    """Places of calls, so many at once.

    A call keeps its place until it returns or is given up, or has outlived its time and
    another one wants the place: whoever was to wait for it may have left.

    Args:
        most: calls at once.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._within: list[Call[Any]] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place in this block."""
        call = _current.get()
        while not self._free.acquire(timeout=self._patience()):
            for late in [each for each in self._within if each.left <= 0]:
                late.give_up()
            if call is not None:
                call.require_wanted()
        give_back = Once(partial(self._freed, call))
        if call is not None:
            self._within.append(call)
            call.hold(give_back)
        try:
            yield
        finally:
            give_back()

    def _freed(self, call: Call[Any] | None) -> None:
        self._free.release()
        if call is not None:
            self._within.remove(call)

    def _patience(self) -> float:
        """Seconds until the first of the calls has outlived its time."""
        left = min((each.left for each in [*self._within]), default=math.inf)
        return min(max(left, _SOONEST), _LATEST)


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

    def start(self, call: Callable[[], T], seconds: float = math.inf) -> Call[T]:
        """Have a call made, in the caller's context, which tracing reads too.

        It may take so many seconds.
        """
        made: Call[T] = Call(seconds)
        context = contextvars.copy_context()
        context.run(_current.set, made)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
            number = len(self._threads)
            thread = threading.Thread(
                target=_work,
                args=(self._jobs, self._idle),
                name=f"{self._name}_{number}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:  # there are too many: another of ours makes the call
                if not self._threads:
                    raise
            else:
                self._threads.append(thread)
        self._jobs.put((made, partial(context.run, call)))
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
