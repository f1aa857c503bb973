from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import Bounds

seconds = st.floats(0.001, 1.0)


@given(seconds, seconds, seconds, st.floats(0, 0.1), st.floats(0, 1))
def test_attainable_lies_between_one_and_the_ceiling(
    a: float, b: float, b0: float, b1: float, accuracy: float
) -> None:
    bounds = Bounds(a, b, 0.0, b0, b1, accuracy)
    assert bounds.attainable >= 1
    if b0 + b1 >= b:  # a verification costs a retrieval at least
        assert bounds.attainable <= bounds.ceiling + 1e-9


def test_free_verification_and_perfect_guesses_reach_the_ceiling() -> None:
    bounds = Bounds(0.1, 0.3, 0.0, 0.0, 0.0, 1.0)
    assert bounds.ceiling == pytest.approx(4)
    assert bounds.attainable == pytest.approx(4)


def test_attainable_agrees_with_a_simulated_run() -> None:
    a, b, b0, b1, accuracy, stride = 0.05, 0.4, 0.4, 0.01, 0.9, 7
    rng = np.random.default_rng(0)
    steps, clock = 0, 0.0
    while steps < 100_000:
        right = 0
        while right < stride and rng.random() < accuracy:
            right += 1
        steps += min(right + 1, stride)
        clock += stride * a + b0 + b1 * stride
    simulated = steps * (a + b) / clock
    assert Bounds(a, b, 0.0, b0, b1, accuracy)._speedup(stride) == pytest.approx(
        simulated, rel=0.01
    )


def test_guesses_that_cost_more_than_they_save_are_not_made() -> None:
    assert Bounds(0.1, 0.01, 0.05, 0.01, 0.0, 0.9).attainable == 1
