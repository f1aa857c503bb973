import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from langchain_ralmspec.answer.sampling import Sampler

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


@pytest.mark.parametrize("seed", [None, -1, 2**32 - 1])
def test_without_a_seed_every_sampler_draws_anew(seed: int | None) -> None:
    samplers = [Sampler(temperature=1, seed=seed) for _ in range(2)]
    one, other = (sampler.uniforms(0, 4).tolist() for sampler in samplers)
    assert one != other
    assert samplers[0].uniforms(0, 4).tolist() == one, "and repeats itself"


def test_frequencies_and_probabilities_follow_the_softmax() -> None:
    logits = np.array([0.0, 1.0, 2.0], np.float32)
    sampler = Sampler(temperature=0.5, top_k=0, top_p=1.0, seed=7)
    n = 20_000
    drawn = [sampler.sample(logits, range(i)) for i in range(n)]
    expected = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    seen = np.bincount(drawn, minlength=3) / n
    assert np.abs(seen - expected).max() < 4 * np.sqrt(0.25 / n)
    assert sampler.probabilities(logits, []) == pytest.approx(expected, rel=1e-6)
    greedy = Sampler().probabilities(np.array([1.0, 3.0, 3.0], np.float32), [])
    assert greedy.tolist() == [0, 1, 0]


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


@settings(max_examples=200)
@given(
    logit_rows,
    st.builds(
        Sampler,
        temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        top_k=st.integers(0, 14),
        top_p=st.floats(0.05, 1.0),
        repeat_penalty=st.just(1.3),
        seed=st.integers(0, 20),
    ),
    st.lists(st.integers(0, 11), max_size=4),
)
def test_tokens_are_drawn_from_the_probabilities(
    logits: np.ndarray, sampler: Sampler, generated: list[int]
) -> None:
    row = sampler.probabilities(logits, generated)

    assert row.shape == logits.shape
    assert row.sum() == pytest.approx(1)
    assert (row >= 0).all()
    if sampler.top_k:
        assert np.count_nonzero(row) <= max(1, sampler.top_k)
    assert row[sampler.sample(logits, generated)] > 0
    # In the order of the logits, the random number falls where the token is.
    penalized = sampler.penalized(logits, generated)
    order = np.argsort(-penalized, kind="stable")
    ends = row[order].cumsum()
    uniform = sampler.uniforms(len(generated), 1)[0]
    drawn = order[min(np.searchsorted(ends, uniform, side="right"), 11)]
    near_an_end = np.abs(ends - uniform).min() < 1e-9
    assert near_an_end or sampler.sample(logits, generated) == drawn


@given(st.integers(0, 99), st.integers(0, 10_000))
def test_a_position_has_random_numbers_of_its_own(seed: int, position: int) -> None:
    sampler = Sampler(seed=seed)
    numbers = sampler.uniforms(position, 3)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert sampler.uniforms(position, 2).tolist() == numbers[:2].tolist()
    others = {*sampler.uniforms(position + 1, 3), *Sampler(seed=-1).uniforms(0, 3)}
    assert len({*numbers, *others}) == 9, "none is used twice"


def test_random_numbers_are_spread_evenly() -> None:
    sampler = Sampler(seed=5)
    numbers = np.array([sampler.uniforms(position, 3) for position in range(4000)])
    assert numbers.mean(axis=0) == pytest.approx([0.5] * 3, abs=0.02)
    correlations = np.corrcoef(numbers, rowvar=False) - np.eye(3)
    assert np.abs(correlations).max() < 0.06


@given(logit_rows, st.lists(st.integers(0, 11), max_size=80))
def test_the_penalty_is_on_the_last_64_tokens(
    logits: np.ndarray, generated: list[int]
) -> None:
    before = logits.copy()
    changed = Sampler(repeat_penalty=2.0).penalized(logits, generated)
    for token in range(12):
        factor = 1.0
        if token in generated[-64:]:
            factor = 0.5 if logits[token] > 0 else 2.0
        assert changed[token] == logits[token] * factor
    assert (logits == before).all()
    assert Sampler().penalized(logits, generated) is logits


@pytest.mark.parametrize(
    ("min_p", "kept"), [(0.0, [0, 1, 2, 3]), (0.25, [0, 1, 2]), (0.3, [0, 1]), (1, [0])]
)
def test_min_p_is_a_share_of_the_most_probable(min_p: float, kept: list[int]) -> None:
    logits = np.log(np.array([0.5, 0.25, 0.13, 0.12], np.float32))
    sampler = Sampler(temperature=1.0, top_k=0, top_p=1.0, min_p=min_p)
    row = sampler.probabilities(logits, ())
    assert np.flatnonzero(row).tolist() == kept
    assert row.sum() == pytest.approx(1)


@pytest.mark.parametrize(("size", "token"), [(64, 2), (1, 0), (0, 0)])
def test_the_penalty_looks_back_so_far(size: int, token: int) -> None:
    logits = np.array([3.0, 2.9, 2.0], np.float32)
    sampler = Sampler(repeat_penalty=2.0, last_n_tokens_size=size)
    assert sampler.sample(logits, [0, 1]) == token
