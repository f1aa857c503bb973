"""Tokens of several threads in one call: who gets what, and what a failure takes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.engine.fair_lock import FairLock
from langchain_ralmspec.engine.joint import Call, JointDecoder
from langchain_ralmspec.engine.kv import KV
from langchain_ralmspec.errors import DecodeError

WAIT = 20.0  # seconds after which something hangs


class Together:
    """Decodes calls; the first one waits until it is told, so that others come."""

    def __init__(self, n_most: int = 16) -> None:
        self.calls: list[list[int]] = []
        self.refused: set[int] = set()
        self.n_at_once = 16
        self.error: type[BaseException] = DecodeError
        self.go = threading.Event()
        self.began = threading.Event()
        self.decode = JointDecoder(self._decode, lambda: n_most)

    def _decode(self, calls: list[Call]) -> float:
        self.calls.append([call.token for call in calls])
        self.began.set()
        assert self.go.wait(WAIT)
        for call in calls:
            if call.token in self.refused:
                raise self.error
        for call in calls[: self.n_at_once]:
            call.kv.length += 1
            call.logits = np.array([call.token], np.float32)
        return 0.0

    def asked(self, *tokens: int) -> list[Any]:
        """What threads get that ask while the first one is decoded."""
        with ThreadPoolExecutor(len(tokens)) as pool:
            first = pool.submit(self.decode, KV(), tokens[0])
            assert self.began.wait(WAIT)
            others = [pool.submit(self.decode, KV(), token) for token in tokens[1:]]
            while len(self.decode._waiting) < len(others):
                threading.Event().wait(0.001)
            self.go.set()
            return [first, *others]


def test_who_asks_meanwhile_is_decoded_together() -> None:
    together = Together()
    asked = together.asked(1, 2, 3, 4)
    assert [float(each.result()[0]) for each in asked] == [1, 2, 3, 4]
    assert [sorted(tokens) for tokens in together.calls] == [[1], [2, 3, 4]]


def test_no_call_has_more_than_fit() -> None:
    together = Together(n_most=2)
    assert len(together.asked(1, 2, 3, 4)) == 4
    assert [len(tokens) for tokens in together.calls] == [1, 2, 1]


def test_who_was_left_out_is_decoded_next() -> None:
    together = Together()
    together.n_at_once = 1
    asked = together.asked(1, 2, 3)
    assert [float(each.result()[0]) for each in asked] == [1, 2, 3]
    assert [len(tokens) for tokens in together.calls] == [1, 2, 1]


def test_only_who_is_to_blame_gets_the_error() -> None:
    together = Together()
    together.refused = {3}
    one, two, three, four = together.asked(1, 2, 3, 4)
    assert [float(each.result()[0]) for each in (one, two, four)] == [1, 2, 4]
    with pytest.raises(DecodeError):
        three.result()
    assert sorted(map(len, together.calls)) == [1, 1, 1, 1, 3], "then each alone"


def test_an_interruption_is_that_of_one_thread() -> None:
    together = Together()
    together.refused, together.error = {1}, KeyboardInterrupt
    one, two, three = together.asked(1, 2, 3)
    with pytest.raises(KeyboardInterrupt):
        one.result()
    assert [float(each.result()[0]) for each in (two, three)] == [2, 3]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_each_thread_gets_all_of_its_tokens_in_order(lengths: list[int]) -> None:
    def decode(calls: list[Call]) -> float:
        assert len({id(call.kv) for call in calls}) == len(calls)
        for call in calls:
            call.kv.length += 1
            call.logits = np.array([call.kv.length, call.token], np.float32)
        return 0.0

    joint = JointDecoder(decode, lambda: 4)

    def write(thread: int) -> list[list[float]]:
        kv = KV()
        return [joint(kv, 10 * thread + n).tolist() for n in range(lengths[thread])]

    with ThreadPoolExecutor(len(lengths)) as pool:
        written = list(pool.map(write, range(len(lengths))))
    assert written == [
        [[n + 1, 10 * thread + n] for n in range(length)]
        for thread, length in enumerate(lengths)
    ]


def test_nobody_overtakes_at_a_fair_lock() -> None:
    lock, order = FairLock(), list[int]()
    ready, all_wait = threading.Event(), threading.Event()

    def take(number: int) -> None:
        with lock:
            order.append(number)

    def keep() -> None:
        with lock:
            ready.set()
            assert all_wait.wait(WAIT)
        take(9)  # asks again at once, behind those that wait

    keeper = threading.Thread(target=keep)
    keeper.start()
    assert ready.wait(WAIT)
    others = []
    for number in (1, 2, 3):
        others.append(threading.Thread(target=take, args=(number,)))
        others[-1].start()
        while len(lock._gates) < number + 1:
            threading.Event().wait(0.001)
    all_wait.set()
    for thread in (keeper, *others):
        thread.join(WAIT)
    assert order == [1, 2, 3, 9]
