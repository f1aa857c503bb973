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

Of two that decode by turns, each reads the whole model. Between two tokens, an answer
needs about a hundredth of that time, and those of eight threads come one by one.
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

    def __init__(self, decode: Callable[[list[Call]], None], n_most: int) -> None:
        """Take what decodes at least the first of up to ``n_most`` calls, or raises."""
        self._decode, self._n_most = decode, n_most
        self._lock = threading.Lock()
        self._asked = threading.Condition(self._lock)
        self._decoded = threading.Condition(self._lock)
        self._waiting: list[Call] = []
        self._is_decoding = False
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
            if calls := self._turn(call):
                self._decode_all(calls)
        return call.logits

    def _turn(self, call: Call) -> list[Call]:
        """Wait until a call is decoded, or to be decoded by this thread, and with whom.

        Nobody else decodes from then on.
        """
        leads = False
        with self._lock:
            try:
                self._decoded.wait_for(
                    lambda: call.logits is not None or not self._is_decoding
                )
                if call.logits is not None:
                    return []
                self._is_decoding = leads = True
                return self._gather(call)
            except BaseException:  # Ctrl-C
                if leads:
                    self._is_decoding = False
                    self._decoded.notify_all()
                self._decoded.wait_for(lambda: not self._is_decoding)
                self._waiting = [each for each in self._waiting if each is not call]
                raise

    def _gather(self, call: Call) -> list[Call]:
        """Take who waits, once those of the last call are here again, or late."""
        calls = [call]
        if not call.has_failed:
            deadline = time.perf_counter() + _PATIENCE * self._seconds
            while len(self._waiting) < min(self._n_expected, self._n_most):
                if (left := deadline - time.perf_counter()) <= 0:
                    break
                self._asked.wait(left)
            others = (
                each
                for each in self._waiting
                if each is not call and not each.has_failed
            )
            calls += islice(others, self._n_most - 1)
        self._waiting = [each for each in self._waiting if each not in calls]
        return calls

    def _decode_all(self, calls: list[Call]) -> None:
        """Decode calls, of which the first is this thread's, and wake their threads."""
        start = time.perf_counter()
        try:
            self._decode(calls)
        except BaseException as error:
            for call in calls:
                call.has_failed = True
            if len(calls) == 1 or not isinstance(error, DecodeError):
                del calls[0]  # the others are decoded by their own threads
                raise
        finally:
            with self._lock:
                missing = [call for call in calls if call.logits is None]
                self._n_expected = len(calls) + len(self._waiting)
                self._seconds = time.perf_counter() - start
                self._waiting = missing + self._waiting
                self._is_decoding = False
                self._decoded.notify_all()
