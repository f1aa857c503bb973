"""p = λ·p_kNN + (1 - λ)·p_LM, against the formula in plain float64."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from langchain_ralmspec.knnlm import Mixture, Neighbours

N_VOCAB = 7

logit_rows = arrays(np.float32, N_VOCAB, elements=st.floats(-30, 30, width=32))
pairs = st.lists(
    st.tuples(st.floats(0, 1e4, width=32), st.integers(0, N_VOCAB - 1)), max_size=9
)
shares = st.one_of(st.sampled_from([0.0, 0.25, 1.0]), st.floats(0, 1))
temperatures = st.sampled_from([0.5, 10.0, 1e3, 1e9])


def neighbours(pairs: list[tuple[float, int]]) -> Neighbours:
    """Of distances and tokens, nearest first."""
    pairs = sorted(pairs)
    return Neighbours(
        np.arange(len(pairs)),
        np.array([distance for distance, _ in pairs], np.float32),
        np.array([token for _, token in pairs], np.int32),
    )


def formula(
    mixture: Mixture, logits: NDArray[np.float32], near: Neighbours
) -> list[float]:
    """As it is in the paper, with Python's floats."""
    powers = [math.exp(float(logit) - float(max(logits))) for logit in logits]
    p = [power / math.fsum(powers) for power in powers]
    if not len(near.tokens):
        return p
    share, first = mixture.interpolation, float(near.distances[0])
    votes = [
        math.exp(-(float(d) - first) / mixture.temperature) for d in near.distances
    ]
    mixed = [(1 - share) * x for x in p]
    for vote, token in zip(votes, near.tokens, strict=True):
        mixed[token] += share * vote / math.fsum(votes)
    return mixed


@settings(max_examples=500)
@given(logit_rows, pairs, shares, temperatures)
def test_it_is_the_formula(
    logits: NDArray[np.float32],
    given_pairs: list[tuple[float, int]],
    share: float,
    temperature: float,
) -> None:
    mixture, near = Mixture(share, temperature), neighbours(given_pairs)

    p = np.exp(mixture.log_probabilities(logits, near).astype(np.float64))

    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert p == pytest.approx(formula(mixture, logits, near), rel=1e-4, abs=1e-6)


@given(logit_rows, pairs, temperatures)
def test_without_a_share_the_model_is_on_its_own(
    logits: NDArray[np.float32],
    given_pairs: list[tuple[float, int]],
    temperature: float,
) -> None:
    near = neighbours(given_pairs)
    log_p = Mixture(0.0, temperature).log_probabilities(logits, near)
    alone = Mixture(0.7, temperature).log_probabilities(logits, neighbours([]))
    softmax = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    assert log_p == pytest.approx(softmax, rel=1e-5, abs=1e-5)
    assert (alone == log_p).all()


@given(logit_rows, pairs.filter(bool), temperatures)
def test_with_all_of_it_neighbours_alone_decide(
    logits: NDArray[np.float32],
    given_pairs: list[tuple[float, int]],
    temperature: float,
) -> None:
    log_p = Mixture(1.0, temperature).log_probabilities(logits, neighbours(given_pairs))
    unknown = set(range(N_VOCAB)) - {token for _, token in given_pairs}
    assert (log_p[list(unknown)] == -np.inf).all()
    assert not np.isnan(log_p).any()
    assert log_p[given_pairs[0][1]] > -np.inf or given_pairs[0] != min(given_pairs)


@pytest.mark.parametrize("temperature", [1e-30, 1e-60, 1e60])
def test_any_temperature_above_0_gives_probabilities(temperature: float) -> None:
    near = neighbours([(0.0, 1), (3.0, 2)])
    mixture = Mixture(0.5, temperature)
    p = np.exp(mixture.log_probabilities(np.zeros(4, np.float32), near))
    cold = temperature < 1
    assert p == pytest.approx(
        [0.125, 0.125 + (0.5 if cold else 0.25), 0.125 + (0 if cold else 0.25), 0.125]
    )
