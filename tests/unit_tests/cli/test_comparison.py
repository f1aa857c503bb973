from __future__ import annotations

import json

import pytest

from langchain_ralmspec.cli.comparison import Answer, Comparison, Row
from langchain_ralmspec.speculation import SpeculationStats

STEPS = [{"tokens": [1, 2], "documents": ["a"]}]
SLOW = SpeculationStats(
    steps=10,
    store_calls=10,
    queries=10,
    seconds_generating=1.0,
    seconds_embedding=0.5,
    seconds_searching=1.5,
    seconds_waiting=2.0,
    seconds=3.0,
)
FAST = SpeculationStats(
    steps=12,
    guesses=8,
    right_guesses=6,
    store_calls=4,
    queries=12,
    seconds_generating=1.2,
    seconds_embedding=0.2,
    seconds_searching=0.8,
    seconds_waiting=1.0,
    seconds=2.0,
)


def row(answer: Answer | None = None) -> Row:
    return Row("q", Answer("x", STEPS, SLOW), answer or Answer("x", STEPS, FAST))


def test_the_summary_is_what_was_measured() -> None:
    summary = Comparison([row(), row()]).summary()
    assert summary["speedup_median"] == pytest.approx(1.5)
    assert summary["ceiling"] == pytest.approx(1 + 0.2 / 0.1)
    assert summary["identical"] is True
    assert summary["questions"] == 2
    assert summary["guess_accuracy"] == pytest.approx(0.75)


def test_the_cost_of_a_batch_is_a_line_through_what_was_measured() -> None:
    bounds = Comparison([row()]).bounds
    # One query costs 0.2 s, a call of three 0.25 s.
    assert bounds.verification_per_query == pytest.approx(0.025)
    assert bounds.verification_base == pytest.approx(0.175)
    assert bounds.guess == pytest.approx(0)


@pytest.mark.parametrize(
    "other",
    [
        Answer("y", STEPS, FAST),
        Answer("x", [{"tokens": [1, 3], "documents": ["a"]}], FAST),
        Answer("x", [{"tokens": [1, 2], "documents": ["b"]}], FAST),
    ],
)
def test_one_difference_anywhere_is_not_identical(other: Answer) -> None:
    assert Comparison([row(), row(other)]).summary()["identical"] is False


def test_everything_goes_into_json() -> None:
    assert json.loads(json.dumps(Comparison([row()]).as_dict()))["rows"][0]["identical"]
