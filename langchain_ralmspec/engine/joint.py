"""Tokens of several answers, decoded by one call of llama.cpp.

A call reads the whole model, for one token as for eight. So threads that each want a
token decoded at the same time have them decoded together.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from langchain_ralmspec.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from langchain_ralmspec.engine.kv import KV

_PATIENCE = 0.25
"""Share of the last call's seconds that the next one waits for who was in that one.

Of two that decode by turns, each reads the whole model. Between two tokens an answer
needs about a hundredth of that time, and the answers of 16 threads do so one by one.
"""


@dataclass(eq=False, slots=True)
class Call:
    """A token to be decoded behind a sequence, and what became of it."""

    kv: KV
    token: int
    logits: NDArray[np.float32] | None = None
    has_failed: bool = False  # with others, so it is decoded alone


class JointDecoder:
    """Decodes one token for each of the threads that ask at the same time.

    The first to ask decodes for all; who asks meanwhile waits for the next call.
    """

    def __init__(
        self, decode: Callable[[list[Call]], float], n_most: Callable[[], int]
    ) -> None:
        """Take what decodes at least the first of some calls, or raises.

        Args:
            decode: gives the seconds that llama.cpp took.
            n_most: how many calls it is worth to gather.
        """
        self._decode, self._n_most = decode, n_most
        self._lock = threading.Lock()
        self._asked = threading.Condition(self._lock)
        self._decoded = threading.Condition(self._lock)
        self._waiting: list[Call] = []
        self._running: list[Call] = []  # decoded now, the first one by its thread
        # Of the last call of llama.cpp: who was in it or came during it, its seconds.
        self._n_expected, self._seconds = 1, 0.0

    def __call__(self, kv: KV, token: int) -> NDArray[np.float32]:
        """The logits behind a token, which is part of the sequence from then on.

        Raises:
            DecodeError: llama.cpp failed; no other thread notices.
        """
        call = Call(kv, token)
        with self._lock:
            self._waiting.append(call)
            self._asked.notify()
        while call.logits is None:
            self._advance(call)
        return call.logits

    def _advance(self, call: Call) -> None:
        """Wait until a call is decoded, or decode it, and others with it."""
        leads = False
        try:
            with self._lock:
                self._decoded.wait_for(
                    lambda: call.logits is not None or not self._running
                )
                if call.logits is not None:
                    return
                leads, self._running = True, [call]  # so nobody else decodes
                self._gather(call)
            self._seconds = self._decode(self._running)
        except BaseException as error:
            is_shared = len(self._running) > 1 and isinstance(error, DecodeError)
            if leads:
                self._end(failed=True)
            if leads and is_shared:
                return  # now each is decoded alone
            self._withdraw(call)  # Ctrl-C, or its own failure
            raise
        self._end()

    def _gather(self, call: Call) -> None:
        """Take who waits, once those of the last call are here again, or late."""
        if not call.has_failed:
            n_most = self._n_most()
            deadline = time.perf_counter() + _PATIENCE * self._seconds
            while len(self._waiting) < min(self._n_expected, n_most):
                if (left := deadline - time.perf_counter()) <= 0:
                    break
                self._asked.wait(left)
            others = (
                each
                for each in self._waiting
                if each is not call and not each.has_failed
            )
            self._running += islice(others, n_most - 1)
        self._waiting = [each for each in self._waiting if each not in self._running]

    def _end(self, *, failed: bool = False) -> None:
        """Put back the calls that were not decoded, and wake all threads."""
        with self._lock:
            missing = [call for call in self._running if call.logits is None]
            for call in missing:
                call.has_failed |= failed
            self._n_expected = len(self._running) + len(self._waiting)
            self._waiting = missing + self._waiting
            self._running = []
            self._decoded.notify_all()

    def _withdraw(self, call: Call) -> None:
        """Have a call decoded no more; it may be one last time."""
        with self._lock:
            self._waiting = [each for each in self._waiting if each is not call]
            self._decoded.wait_for(lambda: call not in self._running)
