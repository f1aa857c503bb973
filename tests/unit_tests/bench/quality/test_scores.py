import math
from typing import Any

import pytest

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.assets.corpus import Passage
from langchain_ralmspec.bench.comparison import Answer
from langchain_ralmspec.bench.quality.questions import Question
from langchain_ralmspec.bench.quality.scores import (
    Judged,
    difference,
    faithful,
    interval,
    judged,
)

GOLD = Passage("g", "", "Herman Melville wrote Moby Dick in 1851, at Arrowhead.")
ASKED = Question("Who wrote Moby Dick?", ("Melville", "Herman Melville"), (GOLD,))


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("Herman Melville wrote it in 1851.", 1.0),
        ("Herman Melville, at Pittsfield, in 1850", 0.5),
        ("It was Hawthorne", 0.0),
        # Nothing of its own: the question's words and function words.
        ("Moby Dick was what they wrote", None),
        ("", None),
    ],
)
def test_faithful_is_what_content_words_have_in_the_passage(
    said: str, share: float | None
) -> None:
    assert faithful(said, ASKED) == share


def answered(text: str, *documents: list[str]) -> Answer:
    steps: list[dict[str, Any]] = [
        {"tokens": [1, 2], "documents": ids} for ids in documents
    ] or [{"tokens": [1]}]
    return Answer(text, steps, SpeculationStats(), 1.5, 0.5)


@pytest.mark.parametrize(
    ("answer", "is_once", "expected"),
    [
        (
            answered("The Melville.", ["a"], ["g"], ["a"]),
            False,
            Judged(1, 1, 1, 1, 1, 3, 2, 6, 1.5),
        ),
        # A step a token, all under what one query found.
        (
            answered("It was Hawthorne", ["a", "b"], ["a", "b"]),
            True,
            Judged(0, 0, 0, 0, 0, 1, 2, 4, 1.5),
        ),
        (
            answered("Melville, in 1851"),
            True,
            Judged(0, 0.5, 1, 1, 0, 0, 0, 1, 1.5),
        ),
    ],
)
def test_an_answer_is_judged_by_its_text_and_its_documents(
    answer: Answer, expected: Judged, *, is_once: bool
) -> None:
    assert judged(answer, ASKED, is_once=is_once) == expected


def test_an_interval_is_the_same_at_every_call_and_knows_no_unknowns() -> None:
    one = interval([0.0, 1.0] * 50)
    assert one == interval([0.0, 1.0, None] * 50)
    assert one is not None
    # As the normal distribution has it: 1.96 standard errors of 0.05 on both sides.
    assert one["mean"] == 0.5
    assert one["low"] == pytest.approx(0.5 - 1.96 * 0.05, abs=0.011)
    assert one["high"] == pytest.approx(0.5 + 1.96 * 0.05, abs=0.011)
    assert interval([2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0}
    assert interval([None]) is None
    assert interval([]) is None


def test_a_difference_is_that_of_the_same_question() -> None:
    ours, others = [0.0, 1.0, None, 0.5] * 9, [0.25, 1.25, 1.0, 0.75] * 9
    assert difference(ours, others) == {"mean": -0.25, "low": -0.25, "high": -0.25}
    assert math.isclose((interval(ours) or {})["mean"], 0.5)
