import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from langchain_ralmspec.bench.knnlm import perplexity as knnlm_perplexity
from langchain_ralmspec.bench.knnlm.perplexity import (
    INTERPOLATIONS,
    SeenText,
    perplexities,
)
from langchain_ralmspec.knnlm import Mixture, Neighbours
from tests.unit_tests.bench.knnlm.fakes import FakeSequence, fake_model, write_datastore
from tests.unit_tests.knnlm.fakes import first_of

INFINITE = math.inf


def seen(
    p_lm: list[float], distances: list[list[float]], right: list[list[bool]]
) -> SeenText:
    return SeenText(np.array(p_lm), np.array(distances), np.array(right))


def test_perplexity_by_hand() -> None:
    # Votes 2/3 and 1/3 where the second is ln 2 away at T = 1; half and half at λ.
    text = seen([0.5, 0.2], [[1, 1 + math.log(2)]] * 2, [[True, False], [False, True]])
    first, second = 0.5 * 2 / 3 + 0.5 * 0.5, 0.5 / 3 + 0.5 * 0.2
    expected = math.exp(-(math.log(first) + math.log(second)) / 2)
    assert text.perplexity(2, 0.5, 1.0) == pytest.approx(expected)
    # Of one neighbour the first is all there is, whatever T.
    expected = 1 / math.sqrt((0.5 + 0.25) * 0.1)
    assert text.perplexity(1, 0.5, 9.0) == pytest.approx(expected)
    assert text.perplexity(2, 0.0, 1.0) == pytest.approx(1 / math.sqrt(0.1))
    # Places without neighbours are the model's.
    text = seen([0.5, 0.5], [[INFINITE] * 2, [3, INFINITE]], [[False] * 2, [True] * 2])
    expected = 1 / math.sqrt(0.5 * (0.25 + 0.75 * 0.5))
    assert text.perplexity(2, 0.25, 1.0) == pytest.approx(expected)
    # A true token without a chance is infinitely surprising.
    text = seen([0.5], [[1.0]], [[False]])
    assert text.perplexity(1, 1.0, 1.0) == INFINITE


@pytest.fixture
def store_and_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[SeenText, list[int]]:
    monkeypatch.setattr(knnlm_perplexity, "_QUERIES_A_SEARCH", 3)
    tokens = [3, 4, 5, 9, 2, 3, 1, 2, 2, 3, 4, 4, 5, 6]
    store = write_datastore(tmp_path / "store")
    return SeenText.of(tokens, fake_model(), store, 32), tokens


def test_every_token_but_the_first_is_predicted(
    store_and_text: tuple[SeenText, list[int]],
) -> None:
    text, tokens = store_and_text
    assert text.p_lm.shape == (len(tokens) - 1,)
    assert text.distances.shape == text.right.shape == (len(tokens) - 1, 32)
    sure = math.exp(5) / (math.exp(5) + 499)
    unsure = 1 / (math.exp(5) + 499)
    expected = [
        sure if after == token + 1 else unsure
        for token, after in itertools.pairwise(tokens)
    ]
    assert text.p_lm == pytest.approx(expected)


def test_it_is_the_mixture_of_the_generator(
    tmp_path: Path, store_and_text: tuple[SeenText, list[int]]
) -> None:
    text, tokens = store_and_text
    store = write_datastore(tmp_path / "again")
    logits, hidden = FakeSequence(n_ctx=99).observe(
        tokens[:-1], n_logits=len(tokens) - 1
    )
    found = store.search(hidden, 32)
    for k, share, temperature in ((1, 0.25, 1.0), (8, 0.1, 20.0), (32, 0.4, 5.0)):
        mixture = Mixture(share, temperature)
        log_p = [
            mixture.log_probabilities(line, first_of(near, k))[token]
            for line, near, token in zip(logits, found, tokens[1:], strict=True)
        ]
        expected = math.exp(-np.mean(log_p))
        assert text.perplexity(k, share, temperature) == pytest.approx(expected, 1e-4)


def test_fewer_neighbours_than_wanted_are_padded() -> None:
    near = Neighbours(
        np.arange(2), np.array([1, 2], np.float32), np.array([7, 8], np.int32)
    )
    padded, infinite = knnlm_perplexity._padded, [INFINITE, INFINITE]
    assert padded(near.distances, 4, INFINITE).tolist() == [1, 2, *infinite]
    assert padded(near.tokens == 8, 4, 0).tolist() == [False, True, False, False]


def test_the_best_share_of_each_line_is_marked() -> None:
    # A neighbour that is always right is believed; one that never is, is not.
    text = seen([0.1], [[1.0, 2.0]], [[True, True]])
    rows = perplexities(text, [1, 2], 4.0)
    assert len(rows) == 2 * 3 * len(INTERPOLATIONS)
    best = [row for row in rows if row["is_best"]]
    assert {row["interpolation"] for row in best} == {0.4}
    assert [row["temperature"] for row in best] == [2.0, 4.0, 8.0] * 2
    assert best[0]["perplexity"] == pytest.approx(1 / (0.4 + 0.6 * 0.1))
    wrong = seen([0.1], [[1.0, 2.0]], [[False, False]])
    best = [row for row in perplexities(wrong, [1], 4.0) if row["is_best"]]
    assert {row["interpolation"] for row in best} == {0.0}
