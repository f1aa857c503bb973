import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.bench.comparison import (
    Answer,
    Comparison,
    Pair,
    ask,
    first_text,
)

SUMMARY = {
    "speedup_median", "speedup_sums", "ceiling", "attainable", "identical",
    "questions", "guess_accuracy",
}  # fmt: skip
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
    verifications=[(2, 0.2), (4, 0.3)],
    plans={"lookup 2": 2, "lookup 4": 6},
    seconds_generating=1.2,
    seconds_guessing=0.08,
    seconds_embedding=0.2,
    seconds_searching=0.8,
    seconds_waiting=1.0,
    seconds=2.0,
)


def answer(
    stats: SpeculationStats, seconds: float | None = None, **changes: Any
) -> Answer:
    wall = stats.seconds if seconds is None else seconds
    return replace(Answer("x", STEPS, stats, wall, wall / 4), **changes)


def pair(speculative: Answer | None = None, reference: Answer | None = None) -> Pair:
    return Pair("q", answer(SLOW), speculative or answer(FAST), reference)


def test_the_summary_is_what_was_measured_and_costs_are_means() -> None:
    comparison = Comparison([pair(), pair()], max_in_flight=3)
    summary, bounds = comparison.summary(), comparison.bounds
    assert summary == pytest.approx(
        {
            "speedup_median": 1.5,
            "speedup_sums": 1.5,
            "ceiling": 1 + 0.2 / 0.1,
            "attainable": comparison.attainable,
            "identical": True,
            "questions": 2,
            "guess_accuracy": 0.75,
        }
    )
    assert bounds.generation == pytest.approx(0.1)
    assert bounds.retrieval == pytest.approx(0.2)
    assert bounds.guess == pytest.approx(0.01)
    assert bounds.verification(2) == pytest.approx(0.2)
    assert bounds.verification(6) == pytest.approx(0.4)
    assert bounds.max_in_flight == 3
    assert bounds.embedding == pytest.approx(0.05)
    assert (bounds.embedding_busy, bounds.searching_busy) == (1, 1)
    idle = replace(SLOW, seconds_embedding_idle=0.4, seconds_searching_idle=0.9)
    waits = Comparison([Pair("q", answer(idle), answer(FAST))]).bounds
    # Up to half of its time, a call waits for threads of this machine.
    assert waits.embedding_busy == pytest.approx(0.4)
    assert waits.searching_busy == pytest.approx(0.8)


def test_a_loop_that_never_speculated_could_attain_nothing() -> None:
    comparison = Comparison([pair(answer(SLOW))])
    assert comparison.guess_accuracy == 0
    assert comparison.attainable == pytest.approx(1)
    assert comparison.reached == pytest.approx(1)
    assert comparison.plans == {}


def test_the_median_is_of_questions_and_the_share_is_of_sums() -> None:
    pairs = [pair(answer(FAST, seconds)) for seconds in (1.0, 2.0, 6.0)]
    comparison = Comparison(pairs)
    assert comparison.quartiles == pytest.approx((1.0, 1.5, 2.25))
    assert comparison.speedup == pytest.approx(9 / 9)
    assert comparison.reached == pytest.approx(1 / comparison.attainable)
    assert comparison.retrieval_share == pytest.approx(2 / 3)


def test_plans_come_most_frequent_first() -> None:
    other = replace(FAST, plans={"lookup 2": 1, "sequential": 11})
    plans = Comparison([pair(), pair(answer(other))]).plans
    assert list(plans) == ["sequential", "lookup 4", "lookup 2"]
    assert plans["sequential"] == pytest.approx(11 / 20)
    assert sum(plans.values()) == pytest.approx(1)


DIFFERENT = [
    answer(FAST, text="y"),
    answer(FAST, steps=[{"tokens": [1, 3], "documents": ["a"]}]),
    answer(FAST, steps=[{"tokens": [1, 2], "documents": ["b"]}]),
]


@pytest.mark.parametrize("other", DIFFERENT)
def test_one_difference_anywhere_is_not_identical(other: Answer) -> None:
    comparison = Comparison([pair(), pair(other)])
    assert comparison.summary()["identical"] is False
    assert comparison.n_identical == 1


@pytest.mark.parametrize("other", DIFFERENT)
def test_a_reference_takes_the_place_of_the_sequential_answer(other: Answer) -> None:
    assert pair(other, reference=other).identical
    assert not pair(reference=other).identical


def test_everything_goes_into_json() -> None:
    figures = json.loads(json.dumps(Comparison([pair()]).as_dict()))
    assert figures["answers"][0]["identical"] is True
    assert figures["answers"][0]["speculative"]["seconds_on_the_wall"] == 2.0
    assert figures["plans"]["lookup 4"] == 0.75
    assert figures["speedup_quartiles"] == [1.5, 1.5, 1.5]


class FakeRun:
    """An answer of two pieces."""

    def __init__(self) -> None:
        self.steps = [
            SimpleNamespace(tokens=(1, 2), hits=(SimpleNamespace(id="a"),)),
            SimpleNamespace(tokens=(3,), hits=(SimpleNamespace(id="b"),)),
        ]
        self.stats = SpeculationStats(seconds_generating=1.0)

    def __iter__(self) -> Any:
        yield ""
        yield "one "
        yield "two"


def test_asking_starts_without_prefilled_documents_and_keeps_what_happened() -> None:
    calls: list[str] = []

    def start(question: str) -> FakeRun:
        calls.append(question)
        return FakeRun()

    engine = SimpleNamespace(forget_prefixes=lambda: calls.append("forget"))
    chat: Any = SimpleNamespace(engine=engine, start=start)
    shown: list[str] = []
    said = ask(chat, "why?", shown.append)
    assert calls == ["forget", "why?"]
    assert shown == ["", "one ", "two"]
    assert said.text == "one two"
    assert said.steps == [
        {"tokens": [1, 2], "documents": ["a"]},
        {"tokens": [3], "documents": ["b"]},
    ]
    assert 0 < said.first_text < said.seconds


def test_first_texts_are_compared_question_by_question() -> None:
    slow = [answer(SLOW, first_text=seconds) for seconds in (1.0, 2.0, 6.0)]
    fast = [answer(FAST, first_text=seconds) for seconds in (2.0, 1.0, 1.5)]
    # Not that of the medians, 2.0 and 1.5.
    assert first_text(fast, slow) == {"seconds": 1.5, "sooner": 2.0}


def test_a_row_that_guessed_nothing_does_not_set_its_own_bar() -> None:
    idle = replace(FAST, guesses=0, right_guesses=0, verifications=[], plans={})
    good = replace(FAST, right_guesses=8, seconds_guessing=0.0)
    alone = Comparison([pair(answer(idle))])
    rival = Comparison([pair(answer(good))])
    assert alone.attainable == pytest.approx(1)
    assert rival.attainable > 1
    assert replace(alone, rivals=(rival,)).attainable == rival.attainable
    # Its answers have a first retrieval, and an end.
    assert rival.attainable < rival.attainable_endless == rival.bounds.attainable
    deeper = replace(rival, max_in_flight=8)
    shallow = replace(alone, rivals=(deeper,))
    assert shallow.attainable == pytest.approx(1), "it may not overlap"


def test_repeating_documents_is_attainable_for_a_row_that_guesses_nothing() -> None:
    documents = ["a", "a", "a", "b", "b", "b", "b", "b", "b", "b"]
    steps = [{"tokens": [1], "documents": [each]} for each in documents]
    slow = answer(replace(SLOW, seconds_searching_idle=1.5), steps=steps)
    idle = replace(FAST, guesses=0, right_guesses=0, verifications=[], plans={})
    row = Comparison([Pair("q", slow, answer(idle, steps=steps))])
    assert row.repeating.guess_accuracy == pytest.approx(8 / 9)
    assert row.attainable == pytest.approx(1), "it may not overlap"
    assert replace(row, max_in_flight=8).attainable > 1.5
