"""A prompt is read in few calls, to the bits that its parts have."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_ralmspec.assets.models import model_path
from langchain_ralmspec.engine import Model, reader
from langchain_ralmspec.engine.context import Context
from langchain_ralmspec.engine.heads import LEAST_PART, aligned
from langchain_ralmspec.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 256
N_CTX = 1800
BYTES = 2**29 + 10  # of a model that no other test holds

lengths = st.lists(st.integers(1, 300), max_size=3)  # of documents


@pytest.fixture(params=["Q4_0", "Q8_0", "F16"])
def own(request: Any) -> Model:
    file = str(model_path("smollm2-135m", request.param))
    model = Model.load(file, n_ctx=N_CTX, kv_cache_bytes=BYTES)
    model.forget_prefixes()
    model._cuts_freely = None
    return model


def prompt_of(n_head: int, documents: list[int], seed: int = 0) -> dict[str, Any]:
    """The prefix of a prompt, and where what stands in it ends."""
    rng = np.random.default_rng(seed)
    ends = [*accumulate(documents, initial=n_head)]
    prefix = rng.integers(3, 40_000, ends[-1]).tolist()
    return {"prefix": prefix[: aligned(len(prefix))], "ends": ends, "part": BLOCK}


def tail_of(n: int) -> list[int]:
    return np.random.default_rng(n).integers(3, 40_000, n).tolist()  # type: ignore[no-any-return]


def told(read: reader.Read) -> NDArray[np.float32]:
    """What it says next, on which all of its KV has an effect."""
    return np.stack([read.logits, read.sequence.extend([7]), read.sequence.extend([8])])


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_head=st.sampled_from([0, 3, 16, 24, 63, 64, 90]),
    documents=lengths,
    others=lengths,
    n_tail=st.sampled_from([1, 3, 20, 63, 64, 200]),
)
def test_no_bit_hangs_on_what_was_read_before(
    own: Model, n_head: int, documents: list[int], others: list[int], n_tail: int
) -> None:
    prompt, tail = prompt_of(n_head, documents), tail_of(n_tail)
    own.forget_prefixes()
    fresh = own.read(rest=tail, **prompt)
    expected = told(fresh)
    fresh.keep()
    again = own.read(rest=tail, **prompt)
    assert np.array_equal(told(again), expected)
    # Another question, of which more or fewer documents are the same.
    own.forget_prefixes()
    own.read(rest=tail_of(30), **prompt_of(n_head, [*documents[:2], *others])).keep()
    assert np.array_equal(told(own.read(rest=tail, **prompt)), expected)
    # And what other loops have kept, in parts.
    own.forget_prefixes()
    if prompt["prefix"]:
        own.find_or_open(**prompt)
    assert np.array_equal(told(own.read(rest=tail, **prompt)), expected)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n_head=st.sampled_from([16, 63, 90]), documents=lengths)
def test_what_is_kept_of_it_is_what_parts_have(
    own: Model, n_head: int, documents: list[int]
) -> None:
    prompt, tail = prompt_of(n_head, documents), tail_of(150)
    own.forget_prefixes()
    expected = own.find_or_open(**prompt)[0].extend(tail[:9])
    own.forget_prefixes()
    own.read(rest=tail, **prompt).keep()
    sequence, _ = own.find_or_open(**prompt)
    assert np.array_equal(sequence.extend(tail[:9]), expected)


def calls_of(own: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every call to come."""
    calls: list[int] = []
    decode = Context.decode

    def watched(self: Context, slot: int, tokens: Any, *rest: Any, **more: Any) -> Any:
        if self is own._slots._context:
            calls.append(len(tokens))
        return decode(self, slot, tokens, *rest, **more)

    monkeypatch.setattr(Context, "decode", watched)
    return calls


def test_it_is_read_in_as_few_calls_as_there_can_be(
    own: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, tail = prompt_of(24, [130, 120, 140, 70]), tail_of(30)
    own.read(rest=tail_of(200), **prompt_of(24, [90], seed=1))  # which tests it
    assert own._cuts_freely
    calls = calls_of(own, monkeypatch)
    read = own.read(rest=tail, **prompt)
    assert calls == [24, 490]
    assert read.n_known == 0
    read.keep()
    calls.clear()
    again = own.read(rest=tail, **prompt)
    assert calls == [66], "long enough for the same kernels"
    assert again.n_known == 448
    own.forget_prefixes()
    calls.clear()
    own.read(rest=tail_of(60), **prompt)
    assert calls == [24, 456, 64]
    own.read(rest=tail, **prompt).keep()
    calls.clear()
    own.read(rest=tail, **prompt_of(24, [130, 120, 90]))  # two of them are the same
    assert calls == [122]


def test_where_a_cut_shows_it_is_read_in_parts(
    own: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, tail = prompt_of(24, [130, 120]), tail_of(30)
    expected = own.find_or_open(**prompt)[0].extend(tail)
    monkeypatch.setattr(Model, "_is_as_in_parts", lambda *_: False)
    for _ in range(2):
        own.forget_prefixes()
        read = own.read(rest=tail, **prompt)
        assert np.array_equal(read.logits, expected)
    calls = calls_of(own, monkeypatch)
    own.read(rest=tail, **prompt)
    assert calls == [30], "it is not tried again"


def test_a_difference_is_seen(own: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Context.decode

    def tired(*args: Any, **more: Any) -> Any:
        logits = decode(*args, **more)
        return logits + np.float32(len(args[2]) < LEAST_PART + 4)

    monkeypatch.setattr(Context, "decode", tired)
    own.read(rest=tail_of(30), **prompt_of(24, [129, 120]))
    assert own._cuts_freely is False


@pytest.mark.parametrize("others", [{"n_batch": 64}, {"flash_attention": False}])
def test_other_settings_are_as_exact(gguf: str, others: dict[str, Any]) -> None:
    own = Model.load(gguf, n_ctx=N_CTX, kv_cache_bytes=BYTES, **others)
    prompt, tail = prompt_of(24, [130, 120, 300]), tail_of(30)
    fresh = own.read(rest=tail, **prompt)
    expected = told(fresh)
    fresh.keep()
    assert np.array_equal(told(own.read(rest=tail, **prompt)), expected)


def test_what_failed_is_not_kept(own: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, tail = prompt_of(24, [130, 120, 300]), tail_of(30)
    own.read(rest=tail_of(200), **prompt_of(24, [90], seed=1))
    expected = told(own.read(rest=tail, **prompt))
    decode, n_calls = Context.decode, 0

    def failing(*args: Any, **more: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:  # of its head, and the rest
            raise DecodeError("out of luck")
        return decode(*args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Context, "decode", failing)
        with pytest.raises(DecodeError, match="out of luck"):
            own.read(rest=tail, **prompt)
    read = own.read(rest=tail, **prompt)
    assert read.n_known <= 24
    assert np.array_equal(told(read), expected)
    read.sequence.truncate(100)  # shorter than its prefix: as after a failure
    read.keep()
    assert own.read(rest=tail, **prompt).n_known <= 24
