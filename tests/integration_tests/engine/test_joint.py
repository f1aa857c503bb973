"""Answers that are written at the same time: each is the one that is written alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from langchain_ralmspec.engine.model import N_SLOTS, Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from langchain_ralmspec import engine

N_TOKENS = 12
WAIT = 60.0  # seconds after which something hangs


def begun(model: Model, number: int) -> tuple[engine.Sequence, NDArray[np.float32]]:
    """A text of its own length that was read, and the logits behind it."""
    rng = np.random.default_rng(number)
    length = 40 if number % 2 else 280 + number
    sequence = model.new_sequence()
    text = rng.integers(0, model.weights.n_vocab, length).tolist()
    return sequence, sequence.extend(text)


def written(
    sequence: engine.Sequence, logits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Logits of a greedy answer."""
    rows = [logits]
    while len(rows) < N_TOKENS:
        rows.append(sequence.extend([int(rows[-1].argmax())]))
    return np.stack(rows)


def written_together(model: Model, n: int) -> list[NDArray[np.float32]]:
    """Logits of answers that all want their first token before any one has it."""
    texts = [begun(model, number) for number in range(n)]
    slots = model._slots
    with ThreadPoolExecutor(n) as pool:
        with slots._lock:
            answers = [pool.submit(written, *text) for text in texts]
            until = time.monotonic() + WAIT
            while len(slots._decode_one._waiting) < n - 1:  # one waits for the lock
                assert time.monotonic() < until
                time.sleep(0.001)
        return [answer.result() for answer in answers]


def sizes_of_calls(model: Model) -> list[int]:
    """How many tokens are decoded by each call from now on."""
    sizes: list[int] = []
    context = model._slots._context
    decode_each = context.decode_each

    def noted(slots: Sequence[int], *args: Any) -> NDArray[np.float32]:
        sizes.append(len(slots))
        return decode_each(slots, *args)

    context.decode_each = noted  # type: ignore[method-assign,assignment]
    return sizes


@pytest.mark.parametrize("n_requests", [3, 9])
def test_company_changes_no_bit_where_it_is_not_asked_for(
    gguf: str, n_requests: int
) -> None:
    alone = Model.load(gguf, n_ctx=1024, n_threads=1, joint_decoding=False)
    lone = [written(*begun(alone, number)) for number in range(n_requests)]
    model = Model.load(gguf, n_ctx=1024, n_threads=1)
    sizes = sizes_of_calls(model)
    assert all(map(np.array_equal, written_together(model, n_requests), lone))
    assert n_requests - 1 in sizes
    assert n_requests - 1 <= model._slots._company.most


def test_a_company_that_changes_bits_is_not_kept(gguf: str) -> None:
    model = Model.load(gguf, n_ctx=1280, n_threads=1)  # nobody else's
    context = model._slots._context
    decode_each = context.decode_each

    def changed(slots: Sequence[int], *args: Any) -> NDArray[np.float32]:
        return decode_each(slots, *args) + np.float32(len(slots) > 2)

    context.decode_each = changed  # type: ignore[method-assign,assignment]
    written_together(model, 4)
    assert model._slots._company.most == 2
    sizes = sizes_of_calls(model)
    written_together(model, 6)
    assert max(sizes) == 2


def test_slots_are_added_for_company_and_not_for_one(gguf: str) -> None:
    model = Model.load(gguf, n_ctx=1536, n_threads=1)
    written(*begun(model, 0))
    assert model._slots._context.n_slots == N_SLOTS
    written_together(model, N_SLOTS + 2)
    assert model._slots._context.n_slots == 2 * N_SLOTS


def test_without_joint_decoding_tokens_are_decoded_one_by_one(gguf: str) -> None:
    model = Model.load(gguf, n_ctx=1024, n_threads=1, joint_decoding=False)
    sizes = sizes_of_calls(model)
    written_together(model, 3)
    assert set(sizes) == {1}


def test_a_company_may_be_larger_than_a_batch(gguf: str) -> None:
    model = Model.load(gguf, n_ctx=512, n_threads=1, n_batch=4)
    alone = Model.load(gguf, n_ctx=512, n_threads=1, n_batch=4, joint_decoding=False)
    lone = [written(*begun(alone, number)) for number in range(7)]
    sizes = sizes_of_calls(model)
    assert all(map(np.array_equal, written_together(model, 7), lone))
    assert 6 in sizes


N_RUNNING = 3


class Steps:
    """Counts calls from the step on in which somebody new asks for one."""

    def __init__(self, model: Model) -> None:
        self.sizes: list[int] = []  # of the steps of others; 0 is a prompt's call
        self.all_run, self.asks = threading.Event(), threading.Event()
        self._gates = model._slots._lock._gates
        context = model._slots._context
        self._decode, self._decode_each = context.decode, context.decode_each
        context.decode, context.decode_each = self.read, self.step  # type: ignore[method-assign,assignment]

    def read(self, *args: Any, **how: Any) -> NDArray[np.float32]:
        if self.asks.is_set():
            self.sizes.append(0)
        return self._decode(*args, **how)

    def step(self, slots: Sequence[int], *args: Any) -> NDArray[np.float32]:
        if len(slots) == N_RUNNING and not self.all_run.is_set():
            self.all_run.set()
            assert self.asks.wait(WAIT)
            until = time.monotonic() + WAIT
            while len(self._gates) < 2:  # that of this step, and of who asks
                assert time.monotonic() < until
                time.sleep(0.001)
        if self.asks.is_set():
            self.sizes.append(len(slots))
        return self._decode_each(slots, *args)


def test_a_new_request_has_its_first_token_within_two_steps_of_the_others(
    gguf: str,
) -> None:
    """Counted from the step in which it asks: no clock."""
    model = Model.load(gguf, n_ctx=1152, n_threads=1, max_queue=0)
    assert model.n_together(N_RUNNING + 1) == N_RUNNING + 1, "it is measured now"
    steps, ended = Steps(model), threading.Event()

    def run(number: int) -> None:
        with model.queue.place() as place, place.used():
            sequence, logits = begun(model, number)
            while not ended.is_set():
                logits = sequence.extend([int(logits.argmax())])
                if sequence.length > model.n_ctx - 2:
                    sequence.truncate(40)

    with ThreadPoolExecutor(N_RUNNING) as pool:
        running = [pool.submit(run, number) for number in (1, 3, 5)]
        try:
            assert steps.all_run.wait(WAIT)
            with model.queue.place() as place, place.used():  # there is room
                steps.asks.set()
                begun(model, 7)
        finally:
            ended.set()
        for each in running:
            each.result()
    assert 0 in steps.sizes
    assert steps.sizes.index(0) <= 2
