import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation.confidence import Confidence

guesses = st.lists(st.tuples(st.floats(-5, 5), st.booleans()), max_size=60)


def told(pairs: list[tuple[float, bool]]) -> Confidence:
    confidence = Confidence()
    for margin, right in pairs:
        confidence.add(margin, right=right)
    return confidence


def test_the_border_is_found() -> None:
    rng = np.random.default_rng(0)
    margins = rng.uniform(-1, 1, 200)
    split = told([(m, bool(m > -0.8 or rng.random() < 0.4)) for m in margins]).split
    assert split is not None
    assert split.trusted == pytest.approx(-0.8, abs=0.05)
    assert split.unsure == pytest.approx(0.1, abs=0.05)
    assert split.accuracy > 0.98
    assert 0.2 < split.accuracy_unsure < 0.6


@given(guesses)
def test_what_lies_above_the_border_is_better_than_what_lies_under_it(
    pairs: list[tuple[float, bool]],
) -> None:
    split = told(pairs).split
    if split is None:
        return
    under = [right for margin, right in pairs if margin < split.trusted]
    above = [right for margin, right in pairs if margin >= split.trusted]
    assert under
    assert above
    assert split.unsure == pytest.approx(len(under) / len(pairs))
    assert split.accuracy_unsure == pytest.approx(np.mean(under))
    assert np.mean(above) > np.mean(under)


def test_nothing_is_unsure_where_margins_tell_nothing() -> None:
    assert Confidence().split is None
    assert told([(0.1 * i, True) for i in range(50)]).split is None, "never wrong"
    assert told([(0.5, i % 5 > 0) for i in range(50)]).split is None, "all alike"
    for broken in (float("nan"), float("-inf")):
        assert told([(broken, False), (1.0, True)] * 9).split is None, "no numbers"
    upside_down = [(0.1 * i, i < 40) for i in range(50)]
    assert told(upside_down).split is None, "wide margins are no reason for doubt"


@pytest.mark.parametrize("accuracy", [0.8, 0.9, 0.97])
def test_noise_seldom_draws_a_border(accuracy: float) -> None:
    rng = np.random.default_rng(1)
    drawn = 0
    for _ in range(200):
        noise, right = rng.normal(size=256), rng.random(256) < accuracy
        pairs = zip(noise.tolist(), right.tolist(), strict=True)
        drawn += told(list(pairs)).split is not None
    assert drawn < 0.1 * 200


def test_what_was_long_ago_is_forgotten() -> None:
    confidence = told([(-1.0, False)] * 20 + [(1.0, True)] * 20)
    assert confidence.split is not None
    for _ in range(40):
        confidence.fade()
    assert confidence.split is not None, "not at once"
    for _ in range(120):
        confidence.fade()
    assert confidence.split is None
    for _ in range(400):
        confidence.fade()  # there is nothing left to forget
    for _ in range(300):
        confidence.add(-1.0, right=True)
    assert confidence.split is None
