"""What a key has seen: enough of the text before it, and no token twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.knnlm.keys import entries_of
from tests.unit_tests.knnlm.fakes import FakeReader


def read(
    reader: Any, tokens: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """All keys and next tokens of a text."""
    parts = list(entries_of(reader, tokens))
    keys = [keys for keys, _ in parts] or [np.empty((0, 3), np.float32)]
    following = [tokens for _, tokens in parts] or [np.empty(0, np.int32)]
    return np.concatenate(keys), np.concatenate(following)


texts = st.lists(st.integers(1, 99), max_size=60)


@given(texts, st.integers(2, 20), st.integers(1, 20))
def test_every_token_but_the_last_has_a_key(
    tokens: list[int], n_ctx: int, n_batch: int
) -> None:
    reader = FakeReader(n_ctx=n_ctx, n_batch=min(n_batch, n_ctx))

    keys, following = read(reader, tokens)

    assert following.tolist() == tokens[1:]
    assert following.dtype == np.int32
    assert keys[:, 0].tolist() == tokens[:-1]
    assert keys[:, 1].tolist() == [*range(len(tokens) - 1)], "none is computed twice"
    assert sum(reader.calls) == max(0, len(tokens) - 1)


@given(texts, st.integers(2, 20), st.sampled_from([0, 0.5, 1]))
def test_a_key_has_seen_all_of_its_text_or_half_a_context(
    tokens: list[int], n_ctx: int, part: float
) -> None:
    reader = FakeReader(n_ctx=n_ctx, n_batch=max(1, int(part * n_ctx)))

    _, before, seen = read(reader, tokens)[0].T

    assert ((seen == before) | (seen >= n_ctx // 2)).all()
    assert (seen == before)[: n_ctx - 1].all()


@given(texts, st.integers(2, 20), st.integers(1, 20))
def test_the_first_token_stays_since_attention_rests_there(
    tokens: list[int], n_ctx: int, n_batch: int
) -> None:
    reader = FakeReader(n_ctx=n_ctx, n_batch=min(n_batch, n_ctx))
    keys, _ = read(reader, [0, *tokens])
    assert set(reader.firsts) <= {0}
    assert keys[:, 1].tolist() == [*range(len(tokens))], "none is computed twice"


@given(texts, st.integers(2, 20))
def test_a_memory_that_cannot_be_cut_begins_again(
    tokens: list[int], n_ctx: int
) -> None:
    reader = FakeReader(n_ctx=n_ctx, n_batch=n_ctx)
    reader.can_forget = False

    keys, following = read(reader, tokens)

    assert following.tolist() == tokens[1:]
    assert keys[:, 0].tolist() == tokens[:-1]
    assert sum(reader.calls) == max(0, len(tokens) - 1)
