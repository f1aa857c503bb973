"""What the formulas say of a call's guesses, against enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import Estimates
from langchain_ralmspec.speculation.plan import (
    GuessChances,
    StepSeconds,
    call_seconds,
)
from tests.unit_tests.speculation.simulated_loop import SimulatedLoop


@given(st.floats(0, 0.9), st.floats(0, 1), st.integers(1, 12))
def test_proven_guesses_add_steps_and_nothing_else(
    proven: float, accuracy: float, stride: int
) -> None:
    some, none = GuessChances(accuracy, proven=proven), GuessChances(accuracy)
    each = min(4, 1 / (1 - proven))  # steps to each guess that is verified
    assert some.sent(stride) == none.sent(stride)
    assert some.all_right(stride) == none.all_right(stride)
    assert some.kept(stride) == pytest.approx(each * none.kept(stride))
    assert some.written(stride) == pytest.approx(each * none.written(stride))


@given(
    st.floats(0, 1),
    st.just(0.0) | st.floats(0.01, 1),
    st.floats(0, 1),
    st.integers(1, 6),
)
def test_chances_are_those_of_all_that_may_happen(
    accuracy: float, unsure: float, accuracy_unsure: float, stride: int
) -> None:
    kept = written = all_right = 0.0
    ways = itertools.product(
        (
            ((1 - unsure) * accuracy, False, True),
            ((1 - unsure) * (1 - accuracy), False, False),
            (unsure * accuracy_unsure, True, True),
            (unsure * (1 - accuracy_unsure), True, False),
        ),
        repeat=stride,
    )
    for way in ways:
        chance = float(np.prod([share for share, _, _ in way]))
        n = [*(is_unsure for _, is_unsure, _ in way[:-1]), True].index(True) + 1
        right = [*(is_right for _, _, is_right in way[:n]), False].index(False)
        written += chance * n
        kept += chance * min(right + 1, n)
        all_right += chance * (right == n)
    chances = GuessChances(accuracy, unsure, accuracy_unsure, 0.0)
    assert chances.written(stride) == pytest.approx(written)
    assert chances.kept(stride) == pytest.approx(kept)
    assert chances.all_right(stride) == pytest.approx(all_right)
    if not unsure:  # the paper's
        assert chances.kept(stride) == pytest.approx(
            sum(accuracy**i for i in range(stride)), rel=1e-6
        )
        assert chances.written(stride) == stride


@pytest.mark.parametrize("in_flight", [0, 1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("policy", ["lookup", "same"])
@pytest.mark.parametrize(
    ("verification", "guess"), [(0.2, 0.2), (0.2, 0.03), (0.4, 0.03)]
)
def test_predicted_rates_are_those_of_a_loop_whose_documents_change(
    verification: float, guess: float, policy: str, stride: int, in_flight: int
) -> None:
    loop = SimulatedLoop(
        policy, stride, in_flight, 0.07, 0.35, verification, guess, 0.93, 0.79
    )
    estimates = Estimates()
    for n in range(2000):
        estimates.judged("same", right=(79 * n) % 100 < 79)
        estimates.judged("lookup", right=(93 * n) % 100 < 93)
    for overlapped, changed in itertools.product((False, True), repeat=2):
        seconds = loop.changed if changed else loop.unchanged
        estimates.generated(seconds, changed=changed, overlapped=overlapped)
    estimates.guessed("lookup", guess)
    step = estimates.step(policy, overlapped=in_flight > 0)
    assert step is not None
    chances = GuessChances(0.79 if policy == "same" else 0.93)
    seconds = call_seconds(
        chances, stride, in_flight, step=step, verification=verification
    )
    predicted = chances.kept(stride) / seconds
    assert predicted == pytest.approx(loop.rate(10_000), rel=0.07)


@given(st.floats(0.01, 1), st.floats(0, 1), st.integers(1, 16), st.floats(0, 4))
def test_the_longer_of_two_is_no_shorter_on_average_than_either(
    mean: float, deviation: float, n_steps: int, least: float
) -> None:
    step = StepSeconds(mean, deviation)
    longer = step.or_longer(n_steps, least)
    assert longer >= max(n_steps * mean, least) * (1 - 1e-9)
    assert longer <= max(n_steps * mean, least) + deviation * n_steps**0.5
    assert StepSeconds(mean).or_longer(n_steps, least) == max(n_steps * mean, least)
