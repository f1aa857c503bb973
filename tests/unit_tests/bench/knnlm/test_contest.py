from typing import Any

import pytest

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.bench.comparison import Pair, ask
from langchain_ralmspec.bench.contest import SEQUENTIAL
from langchain_ralmspec.bench.knnlm.contest import (
    TokenComparison,
    TokenContest,
    figures,
    sums,
)
from tests.unit_tests.bench.knnlm.fakes import AUTO, SLOW, SPEC, FakeLLM

pytestmark = pytest.mark.usefixtures("fake_time")


def said(stats: SpeculationStats = SLOW, tokens: tuple[int, ...] = (1, 2, 3)) -> Any:
    llm: Any = FakeLLM("", stats, tokens=tokens)
    return ask(llm, "prompt")


def a_contest(*prompts: str, tokens: tuple[int, ...] = (1, 2, 3)) -> TokenContest:
    """What was asked; ``tokens`` are what Spec says."""
    models: Any = {
        SEQUENTIAL: FakeLLM(SEQUENTIAL, SLOW),
        "Spec": FakeLLM("Spec", SPEC, tokens=tokens),
        "+S": FakeLLM("+S", AUTO),
    }
    contest = TokenContest(models)
    for prompt in prompts:
        contest.ask(prompt)
    return contest


def test_an_answer_takes_what_the_clock_on_the_wall_says() -> None:
    one = said()
    assert one.seconds == 5.0
    assert one.text == "some text"
    assert one.steps == [{"tokens": [1, 2, 3]}]


def test_costs_are_those_of_the_run() -> None:
    contest = a_contest("one", "two")
    assert contest.last_speedups() == "Spec 1.25×  +S 2.00×"
    rows = contest.comparisons()
    assert list(rows) == ["Spec", "+S"]
    for row in rows.values():
        bounds = row.bounds
        assert bounds.generation == pytest.approx(0.1)
        assert bounds.retrieval == pytest.approx(0.4)
        assert bounds.ceiling == pytest.approx(5.0)
        # A stride of 3 alone would not tell what one of 5 costs.
        assert bounds.verification.base == pytest.approx(0.4)
        assert bounds.verification.per_query == pytest.approx(0.1)
        assert bounds.max_in_flight == 0
        assert row.retrieval_share == pytest.approx(0.8)
    # Nine guesses in three verifications, ten in two.
    assert rows["Spec"].bounds.guess == pytest.approx(0.09 / 9)
    assert rows["+S"].bounds.guess == pytest.approx(0.09 / 10)
    assert rows["Spec"].guess_accuracy == pytest.approx(8 / 9)
    assert rows["+S"].guess_accuracy == pytest.approx(0.8)


def test_attainable_is_the_best_that_a_row_could_have_been() -> None:
    rows = a_contest("one").comparisons()
    # By hand: E(s)·(a + b(1)) / (s·(a + guess) + b(s)), with γ = 8/9, for any s.
    right = 8 / 9

    def gain(stride: int) -> float:
        kept = (1 - right**stride) / (1 - right)
        return kept * 0.5 / (stride * 0.11 + 0.4 + 0.1 * stride)

    best = max(gain(stride) for stride in range(1, 65))
    assert rows["Spec"].bounds.attainable == pytest.approx(best)
    assert rows["+S"].bounds.attainable < best
    assert rows["+S"].attainable == pytest.approx(best)
    assert rows["+S"].reached == pytest.approx(2.0 / best)
    # A row that never guessed could attain nothing.
    row = TokenComparison([Pair("prompt", said(), said())])
    assert row.bounds.guess == 0
    assert row.attainable == 1


def test_sums_are_of_all_and_seconds_of_one() -> None:
    told = sums([said(), said(SPEC)])
    assert told["seconds"] == {
        "all": 4.5,
        "generating": 1.0,
        "guessing": 0.045,
        "waiting": 3.25,
        "embedding": 0.0,
        "searching": 2.75,
    }
    assert told["counts"] == {
        "store_calls": 14,
        "queries": 20,
        "rounds": 3,
        "tokens_kept": 20,
        "tokens_rolled_back": 2,
    }


def test_the_row_that_chooses_its_stride_is_quoted_at_the_first_k() -> None:
    told = figures({k: a_contest("one") for k in (16, 1)})
    assert told["summary"] == {
        "speedup_median": 2.0,
        "speedup_sums": 2.0,
        "ceiling": pytest.approx(5.0),
        "attainable": told["by_k"]["16"]["attainable"],
        "identical": True,
        "questions": 1,
        "guess_accuracy": 0.8,
    }
    assert list(told["by_k"]) == ["16", "1"]
    of_k = told["by_k"]["1"]
    assert list(of_k["rows"]) == ["Spec", "+S"]
    assert of_k["retrieval_share"] == pytest.approx(0.8)
    assert of_k["search_share"] == pytest.approx(3.5 / 5)
    assert of_k[SEQUENTIAL]["seconds"]["all"] == 5.0
    assert of_k["rows"]["Spec"]["plans"] == {"lookup 3": 0.75, "sequential": 0.25}


def test_without_it_the_last_row_is_quoted() -> None:
    contest = a_contest("one")
    del contest.models["+S"]
    assert figures({1: contest})["summary"]["speedup_median"] == 1.25
