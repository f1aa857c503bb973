from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from langchain_ralmspec.engine import Sampler

logit_rows = arrays(np.float32, 12, elements=st.sampled_from([-3.0, 0.0, 1.0, 2.5]))


@given(logit_rows)
def test_greedy_takes_the_smallest_of_the_largest(logits: np.ndarray) -> None:
    largest = [t for t in range(12) if logits[t] == max(logits)]
    assert Sampler().sample(logits, []) == largest[0]


@given(logit_rows, st.integers(0, 99), st.integers(0, 50))
def test_a_token_depends_on_seed_and_position_only(
    logits: np.ndarray, seed: int, position: int
) -> None:
    one, other = Sampler(temperature=1, seed=seed), Sampler(temperature=1, seed=seed)
    for length in range(5):  # draws before must not matter
        one.sample(logits, [0] * length)
    answer = [0] * position
    assert one.sample(logits, answer) == other.sample(logits, answer)


def test_frequencies_follow_the_softmax() -> None:
    logits = np.array([0.0, 1.0, 2.0], np.float32)
    sampler = Sampler(temperature=0.5, top_k=0, top_p=1.0, seed=7)
    n = 20_000
    drawn = [sampler.sample(logits, range(i)) for i in range(n)]
    expected = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    seen = np.bincount(drawn, minlength=3) / n
    assert np.abs(seen - expected).max() < 4 * np.sqrt(0.25 / n)


@settings(max_examples=200)
@given(logit_rows, st.integers(1, 5), st.floats(0.05, 1.0), st.integers(0, 50))
def test_only_tokens_inside_top_k_and_top_p_are_drawn(
    logits: np.ndarray, top_k: int, top_p: float, seed: int
) -> None:
    sampler = Sampler(temperature=1.0, top_k=top_k, top_p=top_p, seed=seed)
    ranked = sorted(range(12), key=lambda t: (-logits[t], t))[:top_k]
    weights = np.exp(logits[ranked].astype(float))
    before = np.cumsum(weights / weights.sum()) - weights / weights.sum()
    allowed = {t for t, b in zip(ranked, before, strict=True) if b <= top_p + 1e-9}
    assert sampler.sample(logits, [1, 2]) in allowed


def test_repeat_penalty_turns_greedy_away_from_what_was_said() -> None:
    logits = np.array([1.0, 0.9, -1.0], np.float32)
    assert Sampler(repeat_penalty=1.5).sample(logits, [0]) == 1
    assert Sampler(repeat_penalty=1.5).sample(logits, []) == 0
    assert logits[0] == pytest.approx(1.0), "the caller's logits are left alone"


def test_without_a_seed_two_samplers_differ() -> None:
    logits = np.zeros(5000, np.float32)
    draws = [
        [Sampler(temperature=1, top_k=0, top_p=1).sample(logits, [])] for _ in range(5)
    ]
    assert len(set(map(tuple, draws))) > 1
