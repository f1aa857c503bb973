"""Answers that are written in threads, and stop once their reader leaves."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from langchain_core.runnables.config import run_in_executor

from langchain_ralmspec.base.together import THREADS
from langchain_ralmspec.engine.slots import is_abandoned

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

Piece = TypeVar("Piece")


async def from_threads(
    pieces: Generator[Piece], *, may_wait: bool = False
) -> AsyncGenerator[Piece]:
    """Iterate in threads over pieces, none of which may be None.

    Who leaves, or is cancelled while a piece is awaited, does not wait for that piece.
    The model stops after the batch that it is at, be it of a long prompt; what does not
    ask the model is done to its end. Nothing is made behind it: the iterator is closed.

    A piece that ``may_wait`` until other answers have ended takes no thread that these
    need: it is made by one of its own.
    """
    shared = _Shared(pieces)
    own = ThreadPoolExecutor(1, THREADS) if may_wait else None
    try:
        while True:
            make = partial(contextvars.copy_context().run, shared.next)
            if (piece := await run_in_executor(own, make)) is None:
                return
            yield piece
    except asyncio.CancelledError:
        shared.is_left = True
        # Not awaited: all threads may be busy, with a store that hangs for example.
        asyncio.get_running_loop().run_in_executor(None, shared.leave)
        raise
    except GeneratorExit:
        await run_in_executor(None, shared.leave)
        raise
    finally:
        if own is not None:
            own.shutdown(wait=False)


async def in_thread(work: Callable[[], Piece], *, may_wait: bool = False) -> Piece:
    """Do in a thread what makes something, with the same manners."""

    def pieces() -> Generator[Piece]:
        yield work()

    (made,) = [piece async for piece in from_threads(pieces(), may_wait=may_wait)]
    return made


class _Shared(Generic[Piece]):
    """An iterator that one thread may be in while another one closes it.

    Attributes:
        is_left: whether nobody waits for a piece any more.
    """

    def __init__(self, pieces: Generator[Piece]) -> None:
        self._pieces = pieces
        self._inside = threading.Lock()
        self.is_left = False

    def next(self) -> Piece | None:
        """Make a piece; None where there is none any more."""
        asked = is_abandoned.set(lambda: self.is_left)
        try:
            with self._inside:
                return None if self.is_left else next(self._pieces, None)
        except GeneratorExit:  # closed in the midst of a piece
            return None
        finally:
            is_abandoned.reset(asked)
            if self.is_left:  # meanwhile
                self.leave()

    def leave(self) -> None:
        """Close the iterator; if a thread is inside, that thread does so."""
        self.is_left = True
        if self._inside.acquire(blocking=False):
            try:
                self._pieces.close()
            finally:
                self._inside.release()
