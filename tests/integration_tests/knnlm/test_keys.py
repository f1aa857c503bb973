"""Hidden states of a real model, and the keys that are made of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec import ContextOverflowError, InvalidValueError
from langchain_ralmspec.engine import Model, Sequence
from langchain_ralmspec.engine.model import N_SLOTS
from langchain_ralmspec.errors import DecodeError
from langchain_ralmspec.knnlm.keys import entries_of


def passage_tokens(model: Model, texts: list[str], n: int) -> list[int]:
    return model.weights.tokenize("\n\n".join(texts))[:n]


def keys_of(model: Model, tokens: list[int]) -> NDArray[np.float32]:
    return np.concatenate([keys for keys, _ in entries_of(model, tokens)])


def similarity(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosine of the angle between keys at the same places, seen from their centre.

    From afar all hidden states of a model look alike.
    """
    centre = one.mean(axis=0)
    one, other = one - centre, other - centre
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine: NDArray[np.float32] = (one * other).sum(axis=1) / lengths
    return cosine


def test_observing_gives_the_logits_of_extending_to_the_bit(
    model: Model, texts: list[str]
) -> None:
    tokens = passage_tokens(model, texts, 90)
    seen, plain = model.open(tokens[:40]), model.open(tokens[:40])
    for token in tokens[40:60]:
        logits, hidden = seen.observe([token])
        assert logits.shape == (1, model.weights.n_vocab)
        assert hidden.shape == (1, model.weights.n_embd)
        assert (logits[0] == plain.extend([token])).all()
    many, hidden = seen.observe(tokens[60:80], n_logits=20)
    assert (many == plain.score(tokens[60:80])).all()
    assert hidden.shape == (20, model.weights.n_embd)
    # And it leaves the KV as it would have been.
    assert (seen.extend(tokens[80:81]) == plain.extend(tokens[80:81])).all()
    none, _ = seen.observe(tokens[81:90], n_logits=0)
    assert none.shape == (0, model.weights.n_vocab)


def test_hidden_states_come_again_to_the_bit(model: Model, texts: list[str]) -> None:
    tokens = passage_tokens(model, texts, 60)
    sequence = model.open(tokens[:40])
    first = [sequence.observe([token])[1] for token in tokens[40:50]]
    sequence.truncate(40)
    for token in tokens[50:60]:
        sequence.observe([token])
    sequence.truncate(40)
    again = [sequence.observe([token])[1] for token in tokens[40:50]]
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_what_forgot_some_tokens_can_be_parked(model: Model, texts: list[str]) -> None:
    tokens = passage_tokens(model, texts, 130)

    def begin() -> Sequence:
        sequence = model.new_sequence()
        sequence.prefill(tokens[:80])
        sequence.observe(tokens[80:100], forget=40, keep=1)
        assert sequence.length == 60
        return sequence

    stays, parked = begin(), begin()
    expected = stays.observe(tokens[100:120], n_logits=0)[1]
    crowd = [model.open(tokens[:9], keep=False) for _ in range(N_SLOTS)]
    for other in crowd:
        other.extend(tokens[9:11])
    assert parked._kv.slot is None
    found = parked.observe(tokens[100:120], n_logits=0)[1]
    assert similarity(found, expected).min() > 0.99
    whole = model.open(tokens[:100]).observe(tokens[100:120])[1]
    assert similarity(whole, found).mean() > 0.95
    assert not np.array_equal(whole, found)


def test_a_full_context_has_room_once_some_is_forgotten(
    gguf: str, texts: list[str]
) -> None:
    small = Model.load(gguf, n_ctx=64, n_slots=1)
    tokens = passage_tokens(small, texts, 80)
    sequence = small.new_sequence()
    sequence.prefill(tokens[:64])
    with pytest.raises(ContextOverflowError, match="65 tokens"):
        sequence.observe(tokens[64:72], forget=7)
    for forget, keep in ((65, 0), (60, 5), (-1, 0), (1, -1)):
        with pytest.raises(InvalidValueError, match=f"forget {forget} .* {keep} .*64"):
            sequence.observe(tokens[64:65], forget=forget, keep=keep)
    assert sequence.length == 64
    sequence.observe(tokens[64:72], forget=8)
    assert sequence.length == 64


def test_a_failure_after_forgetting_leaves_nothing(
    model: Model, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = passage_tokens(model, texts, 60)
    sequence = model.new_sequence()
    sequence.prefill(tokens[:40])
    with monkeypatch.context() as patch:
        patch.setattr(model._slots._context, "_computed", lambda: 1)
        for forget, left in ((0, 40), (10, 0)):
            with pytest.raises(DecodeError, match="returned 1"):
                sequence.observe(tokens[40:44], forget=forget)
            assert sequence.length == left
    sequence.prefill(tokens[:40])
    again = model.open(tokens[:40], keep=False)
    assert (sequence.extend(tokens[40:44]) == again.extend(tokens[40:44])).all()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """It is heard, although a shell's background jobs are started deaf to it."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("n_interrupts", [1, 3])
def test_ctrl_c_while_keys_are_computed_is_raised_and_leaves_all_as_it_was(
    n_interrupts: int, reader: Model, texts: list[str]
) -> None:
    tokens = passage_tokens(reader, texts, 540)
    sequence = reader.new_sequence()
    expected = sequence.observe(tokens[:20], n_logits=0)[1]
    sequence.truncate(10)

    def interrupt() -> None:
        for _ in range(n_interrupts):
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sequence.observe(tokens[10:510], n_logits=0)
    thread.join()
    assert sequence.length == 10
    # Another width of the call gives other bits, so this is not compared by them.
    found = sequence.observe(tokens[10:20], n_logits=0)[1]
    assert similarity(found, expected[10:]).min() > 0.99
    sequence.truncate(0)
    assert (sequence.observe(tokens[:20], n_logits=0)[1] == expected).all()


def test_a_model_without_hidden_states_of_tokens_says_so(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(**vars(model._slots._context._lib))
    monkeypatch.setattr(model._slots._context, "_lib", library)
    sequence = model.new_sequence()
    for name, what in (
        ("llama_get_logits_ith", "no logits"),
        ("llama_get_embeddings_ith", "no hidden states of single tokens"),
    ):
        monkeypatch.setattr(library, name, lambda *_: None)
        with pytest.raises(DecodeError, match=rf"{model.path}.*{what}"):
            sequence.observe([1, 2, 3])
        assert sequence.length == 0


def test_keys_are_the_hidden_states_of_the_generating_model(
    reader: Model, model: Model, texts: list[str]
) -> None:
    tokens = passage_tokens(model, texts, 300)
    _, hidden = model.new_sequence().observe(tokens[:-1])
    assert similarity(keys_of(reader, tokens), hidden).min() > 0.9999
    sequence = model.new_sequence()
    single = np.concatenate([sequence.observe([token])[1] for token in tokens[:99]])
    assert similarity(keys_of(reader, tokens)[:99], single).min() > 0.99


def test_a_long_text_is_read_on_with_half_of_the_context(
    reader: Model, gguf: str, texts: list[str]
) -> None:
    tokens = passage_tokens(reader, texts, 1300)
    keys = keys_of(reader, tokens)
    assert keys.shape == (1299, reader.weights.n_embd)
    short = keys_of(reader, tokens[:400])
    assert similarity(keys[:399], short).min() > 0.99

    whole = Model.load(gguf, n_ctx=2048, n_batch=512, n_slots=1, hidden_only=True)
    full = keys_of(whole, tokens)
    assert similarity(full, keys)[:1024].min() > 0.99
    # What is long ago hardly shows in the later ones.
    assert np.median(similarity(full, keys)[1024:]) > 0.98
