from types import SimpleNamespace
from typing import Any

import pytest

from langchain_ralmspec.bench import demo
from tests.unit_tests.cli.shell import printed


def explained(plans: dict[str, float], speedup: float, attainable: float) -> str:
    summary: dict[str, Any] = {
        "speedup_median": speedup,
        "attainable": attainable,
        "ceiling": 3.0,
        "questions": 1,
    }
    comparison: Any = SimpleNamespace(
        summary=lambda: summary,
        bounds=SimpleNamespace(generation=0.1, retrieval=0.2),
        total=lambda *_: 4.0,
        plans=plans,
    )
    return " ".join(printed(demo._explain, comparison, width=200).split())


@pytest.mark.parametrize(
    ("plans", "speedup", "attainable", "said"),
    [
        ({"sequential": 1.0}, 1.3, 1.0, "Nothing was guessed"),
        ({"sequential": 1.0}, 0.9, 1.05, "little to win"),
        ({"lookup 4": 1.0}, 0.9, 1.4, "it was not won"),
    ],
)
def test_one_reason_is_given_for_a_small_gain(
    plans: dict[str, float], speedup: float, attainable: float, said: str
) -> None:
    reasons = ("Nothing was guessed", "little to win", "it was not won")
    text = explained(plans, speedup, attainable)
    assert [reason for reason in reasons if reason in text] == [said]


def test_our_questions_can_be_answered_from_the_passages_that_are_taken() -> None:
    taken = demo.Demo()._read_corpus().passages
    assert 300 < len(taken) < 700  # 40 s of embedding on two cores
    titles = {passage.title for passage in taken}
    assert {"subprocess.Popen", "collections.Counter"} <= titles
