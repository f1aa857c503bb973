"""Which answers of a model are written now, and which wait until one of those ends.

A context holds so many sequences at once. Where more are written, they take turns, and
each turn moves sequences out of the context and back.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Self

from langchain_ralmspec.engine.slots import is_abandoned
from langchain_ralmspec.errors import QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 1.0
"""Seconds after which an answer that nobody reads on lends its place to who waits.

A reader that hangs, or that waits for an answer of the same model, would keep it.
"""

_LOOK = 0.05  # seconds between two looks of who waits: has somebody left, or stalled?

_within: ContextVar[tuple[RequestQueue, ...]] = ContextVar("queues passed", default=())


class RequestQueue:
    """Lets so many answers be written at once; of those that wait the shortest is next.

    That is the one that would end first if each took its time from when it came: an
    answer is overtaken by none that comes later than it would have ended (shortest
    expected remaining time with ageing, as in ALISE, arXiv 2410.23537). What an answer
    takes is told by its longest length and by what a token took so far.

    Any thread may use it.

    Args:
        n_places: gives how many answers are written at once, as far as is known by now.
        max_queue: how many may wait; None lets all be written at once.
    """

    def __init__(self, n_places: Callable[[], int], max_queue: int | None) -> None:
        self._n_places, self._max_queue = n_places, max_queue
        self._changed = threading.Condition()
        self._writing: list[Place] = []
        self._waiting: list[Place] = []  # as they came
        self._seconds, self._n_tokens = 0.0, 0  # of the answers that have ended

    def place(self, n_tokens: int = 0) -> Place:
        """What one answer, of so many tokens at most, is written within."""
        return Place(self, n_tokens)

    def take(self, place: Place) -> None:
        """Wait until there is a place.

        Raises:
            QueueFullError: too many wait already.
            GeneratorExit: whoever asked has left.
        """
        if self._max_queue is None or self in _within.get():
            return  # what an answer asks for while it is written is part of it
        with self._changed:
            n_before, n_free = len(self._in_line()), self._n_free()
            n_waiting = max(0, n_before - n_free)
            if n_before >= n_free and n_waiting >= self._max_queue:
                n_writing = len(self._writing)
                raise QueueFullError.of(n_writing, n_waiting, self._max_queue)
            self._waiting.append(place)
            place.came = time.monotonic()
            try:
                while not (n := self._n_free()) or place not in self._in_line()[:n]:
                    if place.is_left():
                        raise GeneratorExit
                    self._changed.wait(_LOOK)
                self._writing.append(place)
            finally:
                self._waiting.remove(place)

    def give_back(self, place: Place) -> None:
        """Let others have a place, if it was taken."""
        with self._changed:
            if place in self._writing:
                self._writing.remove(place)
                self._seconds += place.seconds
                self._n_tokens += place.n_tokens
                self._changed.notify_all()

    def _in_line(self) -> list[Place]:
        """Who waits, the next one first, without those whose callers have left."""
        token = self._seconds / max(1, self._n_tokens)
        line = [place for place in self._waiting if not place.is_left()]
        return sorted(line, key=lambda place: place.came + token * place.n_tokens)

    def _n_free(self) -> int:
        n_taken = sum(not place.is_lent for place in self._writing)
        return max(0, self._n_places() - n_taken)


class Place:
    """What an answer holds while it is written; entering it waits for it.

    Attributes:
        n_tokens: of the answer, at most.
        came: when it was wanted, by ``time.monotonic()``.
        seconds: in which it was written, and awaited no reader.
        is_left: tells whether nobody waits for it any more.

    Raises, as it is entered:
        QueueFullError: too many wait already.
    """

    def __init__(self, queue: RequestQueue, n_tokens: int) -> None:
        self._queue, self.n_tokens = queue, n_tokens
        self.came = self.seconds = 0.0
        self._left_alone: float | None = None  # since when, by time.monotonic()
        self.is_left = is_abandoned.get()  # whether nobody waits for the answer

    def __enter__(self) -> Self:
        self.is_left = is_abandoned.get()
        self._queue.take(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.give_back(self)

    @contextmanager
    def used(self) -> Iterator[None]:
        """A block in which the answer is written, and not awaiting its reader."""
        entered = _within.set((*_within.get(), self._queue))
        self._left_alone, start = None, time.monotonic()
        try:
            yield
        finally:
            self._left_alone = time.monotonic()
            self.seconds += self._left_alone - start
            _within.reset(entered)

    @property
    def is_lent(self) -> bool:
        """Whether somebody else may write here; who comes back goes on all the same."""
        since = self._left_alone
        return since is not None and time.monotonic() - since > _PATIENCE


OPEN = RequestQueue(lambda: 0, None)
"""The queue that nobody waits in."""
