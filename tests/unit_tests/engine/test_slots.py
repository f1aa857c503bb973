"""What sequences ask of the context: as few loads as can be, no call for nobody."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from langchain_ralmspec.engine.joint import Call
from langchain_ralmspec.engine.kv import KV
from langchain_ralmspec.engine.model import Model
from langchain_ralmspec.engine.prefixes import PrefixCache
from langchain_ralmspec.engine.sequence import Sequence
from langchain_ralmspec.engine.slots import Slots, is_abandoned
from langchain_ralmspec.errors import DecodeError
from tests.unit_tests.engine.snapshots import a_folder


class FakeContext:
    """Has the tokens of its slots as their state, and notes what is called."""

    n_batch, n_ctx, n_slots = 4, 99, 2
    can_change_slots = True

    def __init__(self, n_cells: int = 99) -> None:
        self.n_cells, self.n_failures = n_cells, 0
        self.pid = os.getpid()
        self.weights = SimpleNamespace(n_vocab=1, kv_bytes_per_token=8, n_gpu_layers=0)
        self.kv_type = "f16"
        self.slots: list[list[int]] = [[], []]
        self.decoded: list[list[int]] = []
        self.n_loads = 0
        self.on_decode: Callable[[], None] = lambda: None

    def grow(self, n_tokens: int, n_slots: int) -> None:
        self.slots = [[] for _ in range(n_slots)]
        if self.n_failures:
            self.n_failures, self.n_cells = self.n_failures - 1, 0
            msg = "no memory"
            raise DecodeError(msg)
        self.n_cells = n_tokens

    def decode(self, slot: int, tokens: Any, position: int, *, n_logits: int) -> Any:
        assert len(self.slots[slot]) == position
        self.slots[slot] += tokens
        assert len(self.slots[slot]) <= self.n_cells
        self.decoded.append(list(tokens))
        self.on_decode()
        return np.zeros((n_logits, 1), np.float32)

    def decode_each(self, slots: Any, tokens: Any, positions: Any) -> Any:
        calls = zip(slots, tokens, positions, strict=True)
        rows = [self.decode(s, [t], p, n_logits=1) for s, t, p in calls]
        return np.concatenate(rows)

    def remove(self, slot: int, position: int) -> None:
        del self.slots[slot][position:]

    def save(self, slot: int) -> Any:
        return np.array(self.slots[slot], np.uint8)

    def load(self, slot: int, state: Any) -> None:
        self.n_loads += 1
        self.slots[slot] = state.tolist()
        assert len(self.slots[slot]) <= self.n_cells

    def length(self, slot: int) -> int:
        return len(self.slots[slot])


def model_of(context: FakeContext, folder: Path) -> Model:
    """A model over a fake context, whose memory holds no prefix."""
    model = Model.__new__(Model)
    model._slots = Slots(context)  # type: ignore[arg-type]  # as good as
    model.n_batch = context.n_batch
    model._opening = threading.Lock()
    model._prefixes = PrefixCache(0, a_folder(folder), model._slots.can_restore)
    return model


PREFIX = [1, 2, 3, 4, 5]


def test_a_prefix_from_disk_is_loaded_once(tmp_path: Path) -> None:
    context = FakeContext()
    model = model_of(context, tmp_path)
    model.open(PREFIX)
    for n_loads in (1, 2):
        sequence, n_kept = model.find_or_open(PREFIX)
        sequence.extend([6])
        assert (n_kept, context.n_loads) == (len(PREFIX), n_loads)
        assert [*PREFIX, 6] in context.slots


def test_a_slot_that_was_taken_meanwhile_is_loaded_again(tmp_path: Path) -> None:
    context = FakeContext()
    model = model_of(context, tmp_path)
    model.open(PREFIX)
    sequence = model.open(PREFIX)
    others = [model.new_sequence() for _ in range(2)]
    for number, other in enumerate(others):
        other.extend([7 + number])
    sequence.extend([6])
    assert sorted(context.slots) == [[*PREFIX, 6], [8]]
    assert context.n_loads == 2


def test_a_context_grows_once_for_a_text_and_loses_nothing() -> None:
    context = FakeContext(n_cells=8)
    slots = Slots(context)  # type: ignore[arg-type]  # as good as
    short, long = Sequence(slots), Sequence(slots)
    short.extend([1, 2])
    long.prefill(range(10, 31))
    assert (context.n_cells, context.n_loads) == (21, 0), "for all of it, at its start"
    short.extend([3])
    assert sorted(context.slots) == [[1, 2, 3], [*range(10, 31)]]
    assert context.n_loads == 1
    snapshot = long.save()
    later = FakeContext(n_cells=8)
    again = Sequence(Slots(later), snapshot)  # type: ignore[arg-type]  # as good as
    again.truncate(20)
    assert later.slots[0] == [*range(10, 30)]


def test_a_context_that_cannot_grow_is_tried_again_and_nothing_is_lost() -> None:
    context = FakeContext(n_cells=8)
    slots = Slots(context)  # type: ignore[arg-type]  # as good as
    short, long = Sequence(slots), Sequence(slots)
    short.extend([1, 2])
    context.n_failures = 2
    with pytest.raises(DecodeError, match="no memory"):
        long.prefill(range(10, 31))
    with pytest.raises(DecodeError, match="no memory"):
        short.truncate(1)
    short.truncate(1)
    short.extend([3])
    assert [1, 3] in context.slots
    assert (short.length, long.length) == (2, 0)


def test_an_abandoned_text_is_read_no_further() -> None:
    context = FakeContext()
    slots = Slots(context)  # type: ignore[arg-type]  # as good as
    sequence = Sequence(slots)
    sequence.extend([9])
    left = False

    def leave() -> None:
        nonlocal left
        left = len(context.decoded) == 3

    context.on_decode = leave
    token = is_abandoned.set(lambda: left)
    try:
        with pytest.raises(GeneratorExit):
            sequence.prefill(range(20))
    finally:
        is_abandoned.reset(token)
    assert [len(tokens) for tokens in context.decoded] == [1, 4, 4]
    assert sequence.length == 1
    assert [9] in context.slots
    sequence.extend([10])  # for somebody else
    assert [9, 10] in context.slots


@pytest.mark.timeout(30)  # else it waits for ever
def test_a_fork_while_others_decode_is_told() -> None:
    context = FakeContext()
    slots = Slots(context)  # type: ignore[arg-type]  # as good as
    sequence = Sequence(slots)
    sequence.extend([1, 2])
    slots._decode_one._running = [Call(KV(), 1)]  # by a thread that the child has not
    context.pid = -1
    with pytest.raises(DecodeError, match="forked"):
        sequence.extend([3])


class Interrupted(FakeContext):
    """Is interrupted when some tokens were decoded, before anybody has their logits."""

    def decode_each(self, slots: Any, tokens: Any, positions: Any) -> Any:
        rows = super().decode_each(slots, tokens, positions)
        return InterruptedRows(rows) if len(slots) > 1 else rows


class InterruptedRows(list[Any]):
    def __iter__(self) -> Any:
        yield super().__getitem__(0)
        raise KeyboardInterrupt


def test_an_interruption_leaves_what_others_have_as_it_was() -> None:
    context = Interrupted()
    slots = Slots(context, joint_decoding=True)  # type: ignore[arg-type]  # as good as
    kvs = [KV(), KV()]
    calls = [Call(kv, 7) for kv in kvs]
    with pytest.raises(KeyboardInterrupt):
        slots._decode_each(calls)
    given = [call.logits is not None for call in calls]
    assert given == [True, False]
    assert [kv.length for kv in kvs] == [1, 0]
    assert sorted(context.slots) == [[], [7]]


@pytest.mark.parametrize("is_long", [True, False])
def test_what_broke_off_is_told_where_nothing_can_be_taken_back(
    is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a recurrent memory."""

    class Recurrent(FakeContext):
        def remove(self, slot: int, position: int) -> None:
            if position < len(self.slots[slot]):
                msg = f"slot {slot} cannot be rolled back to {position}"
                raise DecodeError(msg)

    def broken_off() -> None:
        if len(context.decoded) > 1:
            raise KeyboardInterrupt

    context = Recurrent()
    slots = Slots(context)  # type: ignore[arg-type]  # as good as
    decode_one = slots._decode_one

    def interrupted(kv: Any, token: int) -> Any:  # others were faster than Ctrl-C
        decode_one(kv, token)
        raise KeyboardInterrupt

    monkeypatch.setattr(slots, "_decode_one", interrupted)
    if is_long:
        context.on_decode = broken_off
    with pytest.raises(KeyboardInterrupt):
        Sequence(slots).extend(range(6 if is_long else 1))
