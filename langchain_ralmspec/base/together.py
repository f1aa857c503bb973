"""Several answers at the same time, each written by a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from langchain_ralmspec.engine.slots import is_abandoned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence

    from langchain_core.runnables import RunnableConfig

Made = TypeVar("Made")

THREADS = "ralmspec-answer"
"""Prefix of the names of threads that write answers."""


def at_once(configs: Sequence[RunnableConfig], n_together: Callable[[int], int]) -> int:
    """How many answers of a batch are written at once.

    Args:
        configs: of the answers; the first one's ``max_concurrency`` bounds it.
        n_together: how many of so many answers the model writes at once.
    """
    if len(configs) < 2:  # noqa: PLR2004  a lone one asks for no measurement
        return 1
    most = configs[0].get("max_concurrency") or len(configs)
    try:
        return max(1, n_together(min(most, len(configs))))
    except Exception:  # noqa: BLE001  each answer fails by itself then
        return 1


def in_order(works: Sequence[Callable[[], Made]], n_at_once: int) -> list[Made]:
    """Do works, some of them at once, and give what they made in their order.

    Raises:
        Exception: the first that a work raised, by the order of the works. Those behind
            it are left within a step; no thread is left when it is raised.
    """
    if n_at_once == 1:
        return [work() for work in works]
    with _Threads(works, n_at_once) as threads:
        for number in threads.done():
            if threads.has_failed(number):
                threads.leave(number + 1)
        return [threads.made(number) for number in range(len(works))]


def as_done(
    works: Sequence[Callable[[], Made]], n_at_once: int
) -> Generator[tuple[int, Made]]:
    """Do works, some of them at once, and give each one's number and what it made.

    Raises what a work raises as soon as it does; the others are left then, as they are
    when the generator is closed.
    """
    if n_at_once == 1:
        for number, work in enumerate(works):
            yield number, work()
        return
    with _Threads(works, n_at_once) as threads:
        for number in threads.done():
            yield number, threads.made(number)


async def awaited_in_order(
    works: Sequence[Callable[[], Awaitable[Made]]], n_at_once: int
) -> list[Made]:
    """Do what :func:`in_order` does, with works that are awaited."""
    turns = asyncio.Semaphore(n_at_once)

    async def done(work: Callable[[], Awaitable[Made]]) -> Made:
        async with turns:
            return await work()

    tasks = [asyncio.create_task(done(work)) for work in works]

    def leave_behind(number: int, task: asyncio.Task[Made]) -> None:
        if task.cancelled() or task.exception():
            for other in tasks[number + 1 :]:
                other.cancel()

    for number, task in enumerate(tasks):
        task.add_done_callback(partial(leave_behind, number))
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def exhausted(pieces: Generator[object, None, Made]) -> Made:
    """What a generator returns behind its pieces; it is closed if nobody waits."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            made: Made = end.value
            return made
        if is_abandoned.get()():
            pieces.close()
            raise GeneratorExit


class _Threads(Generic[Made]):
    """Works under way in threads, which are gone when the ``with`` block is left."""

    def __init__(self, works: Sequence[Callable[[], Made]], n_at_once: int) -> None:
        self._n_wanted = len(works)  # the first ones; nobody waits for the others
        self._executor = ThreadPoolExecutor(n_at_once, THREADS)
        # In the caller's context, which tracing and the like read.
        self._futures = [
            self._executor.submit(contextvars.copy_context().run, doing)
            for doing in (partial(self._do, *each) for each in enumerate(works))
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave(0)
        self._executor.shutdown()
        # Else an error and its frames would hold one another, and the sequences in the
        # model's context that these know.
        self._futures.clear()

    def done(self) -> Iterator[int]:
        """Numbers of the works that are over; the first one to be over first."""
        numbers = {future: number for number, future in enumerate(self._futures)}
        for future in as_completed(numbers):
            yield numbers[future]

    def has_failed(self, number: int) -> bool:
        """Whether a work that is over raised something."""
        future = self._futures[number]
        return not future.cancelled() and future.exception() is not None

    def made(self, number: int) -> Made:
        """What a work made, or raised."""
        return self._futures[number].result()

    def leave(self, first: int) -> None:
        """Have the works from that one on end before their next call of the model."""
        self._n_wanted = min(self._n_wanted, first)
        for future in self._futures[first:]:
            future.cancel()

    def _do(self, number: int, work: Callable[[], Made]) -> Made:
        is_left = is_abandoned.get()
        is_abandoned.set(lambda: is_left() or number >= self._n_wanted)
        return work()
