from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.bench.bounds import Bounds
from langchain_ralmspec.speculation import Line
from langchain_ralmspec.speculation.costs import fitted
from tests.unit_tests.speculation.simulated_loop import SimulatedLoop

seconds = st.floats(0.001, 1.0)


@given(
    st.builds(
        Bounds,
        generation=seconds,
        retrieval=seconds,
        guess=st.just(0.0),
        verification=st.builds(Line, seconds, st.floats(0, 0.1)),
        guess_accuracy=st.floats(0, 1),
        max_in_flight=st.integers(0, 8),
    )
)
def test_attainable_lies_between_one_and_the_ceiling(bounds: Bounds) -> None:
    assert bounds.attainable >= 1
    if bounds.verification(1) >= bounds.retrieval:  # it costs a retrieval at least
        assert bounds.attainable <= bounds.ceiling + 1e-9


def test_free_verification_and_perfect_guesses_reach_the_ceiling() -> None:
    bounds = Bounds(0.1, 0.3, 0.0, Line(0.0, 0.0), 1.0)
    assert bounds.ceiling == pytest.approx(4)
    assert bounds.attainable == pytest.approx(4)


def test_calls_in_flight_hide_what_does_not_fit_under_writing() -> None:
    def attainable(in_flight: int) -> float:
        return Bounds(0.1, 0.3, 0.0, Line(0.3, 0.0), 1.0, in_flight).attainable

    assert attainable(0) < attainable(1)
    assert attainable(3) == pytest.approx(4), "three calls of 0.3 s under 0.1 s each"


@pytest.mark.parametrize(
    ("stride", "in_flight"), [(7, 0), (1, 1), (4, 1), (1, 8), (3, 2)]
)
def test_attainable_agrees_with_a_simulated_run(stride: int, in_flight: int) -> None:
    a, line, accuracy = 0.05, Line(0.3, 0.02), 0.9
    loop = SimulatedLoop(
        stride=stride,
        in_flight=in_flight,
        unchanged=a,
        changed=a,
        verification=line(stride),
        accuracy=accuracy,
    )
    simulated = loop.rate(100_000) * (a + 0.3)
    bounds = Bounds(a, 0.3, 0.0, line, accuracy, in_flight)
    rel = 0.03 if in_flight else 0.01
    seconds, _ = bounds._seconds(stride, in_flight)
    assert (a + 0.3) / seconds == pytest.approx(simulated, rel=rel)


def hosted(**changes: Any) -> Bounds:
    """A service waits 0.28 s for a vector and computes 0.02; a search takes 0.01."""
    costs = Bounds(
        generation=0.1,
        retrieval=0.31,
        guess=0.0,
        verification=Line(0.31, 0.0),
        guess_accuracy=1.0,
        max_in_flight=8,
        embedding=0.3,
        embedding_busy=0.2 / 3,
        searching_busy=1.0,
    )
    return replace(costs, **changes)


def test_waiting_for_an_encoder_overlaps_and_computing_does_not() -> None:
    assert hosted().attainable == pytest.approx(4.1)
    # A guess that needs the vector computes before the step, and waits beside it.
    looked_up = hosted(guess=0.3, verification=Line(0.01, 0.0))
    assert looked_up.attainable == pytest.approx(0.41 / 0.12)
    # Where nothing may overlap, every guess waits, and calls share a search.
    alone = replace(looked_up, max_in_flight=0)
    assert alone.attainable == pytest.approx(0.41 / (0.4 + 0.01 / 64))
    # Of calls that compute, no more are done in a second than take a second.
    computing = hosted(embedding_busy=1.0, longest=1)
    assert computing.attainable == pytest.approx(0.41 / 0.31)


@pytest.mark.parametrize(
    ("lengths", "seconds"),
    [
        ([1], 0.41),  # nothing is guessed
        ([2], 0.41 + 0.31),  # one step, and its verification beside it
        ([10], 0.41 + 9 * 0.1 + 0.21),  # the last verification ends after the text
        ([1, 10], 0.41 + 0.41 + 9 * 0.1 + 0.21),
    ],
)
def test_answers_have_a_first_retrieval_and_an_end(
    lengths: list[int], seconds: float
) -> None:
    attainable = hosted(longest=1).attainable_at(lengths)
    assert attainable == pytest.approx(sum(lengths) * 0.41 / seconds)


@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 8))
def test_an_answer_of_any_length_is_bounded_by_an_endless_one(
    length: int, accuracy: float, in_flight: int
) -> None:
    bounds = hosted(guess_accuracy=accuracy, max_in_flight=in_flight)
    assert 1 <= bounds.attainable_at([length]) <= bounds.attainable + 1e-9


def test_guesses_that_cost_more_than_they_save_are_not_made() -> None:
    assert Bounds(0.1, 0.01, 0.05, Line(0.01, 0.0), 0.9).attainable == 1


@given(
    st.floats(0.002, 1.0), st.floats(0.0, 0.2), st.lists(st.integers(1, 16), min_size=2)
)
def test_a_line_is_found_again(base: float, slope: float, sizes: list[int]) -> None:
    line = fitted((n, base + slope * n) for n in sizes)
    if len(set(sizes)) == 1:
        assert line(sizes[0]) == pytest.approx(base + slope * sizes[0])
    else:
        assert line.base == pytest.approx(base, abs=1e-6)
        assert line.per_query == pytest.approx(slope, abs=1e-6)


def test_a_line_never_promises_time_back() -> None:
    falling = fitted([(1, 3.0), (2, 2.0), (3, 1.0)])
    assert falling.per_query == 0
    steep = fitted([(1, 0.1), (10, 10.0)])
    assert steep.base == 0
    with pytest.raises(ValueError, match="at least one point"):
        fitted([])
