"""How likely guesses are taken to be, from the prior and from what was counted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import (
    Calibration,
    chance_of_match,
    chance_of_probability,
)
from langchain_ralmspec.speculation.calibration import (
    MAX_CHANCE,
    PRIOR_CHANCE,
    PRIOR_WEIGHT,
)
from langchain_ralmspec.speculation.costs import FORGET

judged = st.lists(st.booleans(), max_size=300)
guesses = st.lists(st.tuples(st.floats(-5, 5), st.booleans()), max_size=60)


@given(judged, st.floats(0, 1))
def test_a_chance_lies_between_the_prior_and_what_was_counted(
    outcomes: list[bool], prior: float
) -> None:
    for calibration in (Calibration(lambda _: prior), Calibration(start=prior)):
        evidence = 1.0 if calibration._prior else None
        assert calibration(evidence) == pytest.approx(min(prior, MAX_CHANCE))
        for right in outcomes:
            calibration.add(right=right, evidence=evidence)
        weights = (1 - FORGET) ** np.arange(len(outcomes))[::-1]
        counted = float(weights @ outcomes), float(weights.sum())
        share = counted[0] / counted[1] if outcomes else prior
        chance = calibration(evidence)
        assert (
            min(share, prior, MAX_CHANCE) - 1e-9 <= chance <= max(share, prior) + 1e-9
        )
        total = PRIOR_WEIGHT + counted[1]
        expected = (PRIOR_WEIGHT * prior + counted[0]) / total
        assert chance == pytest.approx(min(expected, MAX_CHANCE))


def test_chances_start_at_what_is_usual() -> None:
    lengths, seen = (2, 3, 4, 5, 7, 10, 16), (0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    for length, share in zip(lengths, seen, strict=True):
        assert chance_of_match(length) == pytest.approx(share, abs=0.1)
    sure, right = (0.1, 0.3, 0.5, 0.7, 0.9), (0.47, 0.63, 0.82, 0.94, 0.99)
    for probability, share in zip(sure, right, strict=True):
        assert share < chance_of_probability(probability) < share + 0.13
    assert Calibration()() == PRIOR_CHANCE
    assert Calibration()(0.3) == PRIOR_CHANCE, "of evidence of no known scale"


@given(st.floats())
def test_whatever_a_drafter_calls_evidence_a_chance_comes_of_it(
    evidence: float,
) -> None:
    for prior in (chance_of_match, chance_of_probability):
        calibration = Calibration(prior)
        calibration.add(right=True, evidence=evidence)
        assert 0 <= calibration(evidence) <= MAX_CHANCE


def test_chances_are_learnt_each_for_its_evidence() -> None:
    chances = Calibration(chance_of_probability)
    for _ in range(1000):
        chances.add(right=True, evidence=0.4)
        chances.add(right=False, evidence=0.1)
    assert 0.97 < chances(0.4) <= MAX_CHANCE, "never certain"
    assert chances(0.1) < 0.05
    assert chances(0.9) == pytest.approx(chance_of_probability(0.9))
    assert chances() == pytest.approx(0.5, abs=0.05), "whatever the evidence"
    for _ in range(600):
        chances.add(right=False, evidence=0.4)
    assert chances(0.4) < 0.05


def test_bad_luck_is_forgotten() -> None:
    chances = Calibration()
    for _ in range(20):
        chances.add(right=False)
    assert chances() < 0.3
    for _ in range(600):
        chances.fade()
    assert chances() > 0.9


def told(pairs: list[tuple[float, bool]]) -> Calibration:
    calibration = Calibration()
    for margin, right in pairs:
        calibration.add(right=right, evidence=margin)
    return calibration


def test_the_border_is_found() -> None:
    rng = np.random.default_rng(0)
    margins = rng.uniform(-1, 1, 200)
    border = told([(m, bool(m > -0.75 or rng.random() < 0.4)) for m in margins]).border
    assert border is not None
    assert border.trusted == pytest.approx(-0.75, abs=0.08)
    assert border.unsure == pytest.approx(0.125, abs=0.05)
    assert border.accuracy > 0.98
    assert 0.2 < border.accuracy_unsure < 0.7


@given(guesses)
def test_what_lies_above_the_border_is_better_than_what_lies_under_it(
    pairs: list[tuple[float, bool]],
) -> None:
    border = told(pairs).border
    if border is None:
        return
    under = [right for margin, right in pairs if margin < border.trusted]
    above = [right for margin, right in pairs if margin >= border.trusted]
    assert under
    assert above
    assert border.unsure == pytest.approx(len(under) / len(pairs))
    assert border.accuracy_unsure == pytest.approx(np.mean(under))
    assert np.mean(above) > np.mean(under)
    expected = (sum(above) + PRIOR_WEIGHT * PRIOR_CHANCE) / (len(above) + PRIOR_WEIGHT)
    assert border.accuracy == pytest.approx(min(expected, MAX_CHANCE))


def test_nothing_is_unsure_where_margins_tell_nothing() -> None:
    assert Calibration().border is None
    assert told([(0.1 * i, True) for i in range(50)]).border is None, "never wrong"
    assert told([(0.1 * i, False) for i in range(50)]).border is None, "never right"
    assert told([(0.5, i % 5 > 0) for i in range(50)]).border is None, "all alike"
    for broken in (math.nan, -math.inf):
        assert told([(broken, False), (1.0, True)] * 9).border is None, "no numbers"
    upside_down = [(0.1 * i, i < 40) for i in range(50)]
    assert told(upside_down).border is None, "wide margins are no reason for doubt"


@pytest.mark.parametrize("accuracy", [0.8, 0.9, 0.97])
def test_noise_seldom_draws_a_border(accuracy: float) -> None:
    rng = np.random.default_rng(1)
    drawn = 0
    for _ in range(200):
        noise, right = rng.normal(size=200), rng.random(200) < accuracy
        pairs = zip(noise.tolist(), right.tolist(), strict=True)
        drawn += told(list(pairs)).border is not None
    assert drawn < 0.1 * 200


def test_a_border_of_long_ago_is_forgotten() -> None:
    calibration = told([(-1.0, False)] * 20 + [(1.0, True)] * 20)
    assert calibration.border is not None
    for _ in range(100):
        calibration.fade()
    assert calibration.border is not None, "not at once"
    for _ in range(80):
        calibration.fade()
    assert calibration.border is None
    for _ in range(400):
        calibration.fade()  # there is nothing left to forget
    for _ in range(300):
        calibration.add(right=True, evidence=-1.0)
    assert calibration.border is None
