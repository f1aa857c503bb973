"""What the formulas say of a call's guesses, against enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import Estimates, Scheduler
from langchain_ralmspec.speculation.costs import Spent
from langchain_ralmspec.speculation.plan import (
    GuessChances,
    Plan,
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


# Stacks, by the seconds of a call and of a look-up: a hosted encoder, which a look-up
# waits for as well, and a store near and far.
HOSTED, NEAR, FAR = (0.2, 0.2), (0.2, 0.03), (0.6, 0.03)
STEP = (0.07, 0.35)  # under the documents of the step before, and under others
ACCURACY, STAYS = 0.93, 0.79


def loop_of(plan: Plan, verification: float, guess: float) -> SimulatedLoop:
    return SimulatedLoop(
        plan.stride,
        plan.in_flight,
        *STEP,
        verification,
        accuracy=ACCURACY,
        guess=guess,
        stays=STAYS,
        policy=plan.policy or "",
    )


@pytest.mark.parametrize("in_flight", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("policy", ["lookup", "same"])
@pytest.mark.parametrize(("verification", "guess"), [HOSTED, NEAR, FAR])
def test_predicted_rates_are_those_of_a_loop_whose_documents_change(
    verification: float, guess: float, policy: str, stride: int, in_flight: int
) -> None:
    loop = loop_of(Plan(policy, stride, in_flight), verification, guess)
    repeats = policy == "same"
    step = StepSeconds.of(
        *STEP, STAYS, guess=0.0 if repeats else guess, repeats=repeats
    )
    chances = GuessChances(STAYS if repeats else ACCURACY)
    seconds = call_seconds(
        chances, stride, in_flight, step=step, verification=verification
    )
    predicted = chances.kept(stride) / seconds
    assert predicted == pytest.approx(loop.rate(10_000), rel=0.07)


def knowing(verification: float, guess: float) -> Estimates:
    """What many requests have measured, over calls that only wait."""
    estimates = Estimates()
    for n in range(2000):
        estimates.judged("same", right=round(100 * STAYS) * n % 100 < 100 * STAYS)
        estimates.judged(
            "lookup", right=round(100 * ACCURACY) * n % 100 < 100 * ACCURACY
        )
    estimates.guessed("lookup", guess)
    call = Spent(verification, verification)
    for _ in range(2):  # the first one is not believed
        estimates.retrieved(Spent(), call)
    for overlapped, many in itertools.product((False, True), repeat=2):
        estimates.generated(STEP[many], changed=many, overlapped=overlapped)
        for policy in ("lookup", "same"):
            n_queries = 8 if many else 1
            estimates.verified(policy, n_queries, verification, overlapped=overlapped)
    return estimates


@pytest.mark.parametrize(("verification", "guess"), [HOSTED, NEAR, FAR])
def test_no_plan_is_better_than_the_one_that_is_taken(
    verification: float, guess: float
) -> None:
    def rate(plan: Plan) -> float:
        return loop_of(plan, verification, guess).rate(10_000)

    taken = Scheduler(knowing(verification, guess)).plan()
    assert taken.policy, "it speculates"
    others = itertools.product(("lookup", "same"), (1, 2, 3, 4, 8), (0, 1, 2, 3, 4, 8))
    best = max(rate(Plan(*other)) for other in others)
    assert rate(taken) > 0.97 * best


@given(st.floats(0.01, 1), st.floats(0, 1), st.floats(0.5, 16), st.floats(0, 4))
def test_the_longer_of_two_is_no_shorter_on_average_than_either(
    mean: float, deviation: float, n_steps: float, other: float
) -> None:
    step, longer = StepSeconds(mean, deviation), max(n_steps * mean, other)
    expected = step.expected_longer(n_steps, other)
    assert longer * (1 - 1e-9) <= expected
    most = deviation * (n_steps / (2 * np.pi)) ** 0.5  # where both are as long
    assert expected <= longer + most + 1e-9
    assert StepSeconds(mean).expected_longer(n_steps, other) == longer
