from dataclasses import replace
from typing import Any

import pytest

from langchain_ralmspec.bench.rapid.answers import quoted_share
from langchain_ralmspec.bench.rapid.contest import (
    Asked,
    Estimate,
    LongAnswer,
    Opening,
)
from langchain_ralmspec.bench.rapid.documents import Sample
from langchain_ralmspec.bench.rapid.figures import Row, _batch_costs
from langchain_ralmspec.bench.rapid.policies import PassCosts
from langchain_ralmspec.rapid import DraftStats

PROMPT = (*range(10, 40), 1, 2)
QUOTED = tuple(range(10, 17))


def answer(
    tokens: tuple[int, ...] = QUOTED,
    *,
    seconds: float = 6.0,
    ended: bool = False,
    drafters: dict[str, Estimate] | None = None,
    rounds: list[tuple[str | None, int, int]] | None = None,
) -> LongAnswer:
    stats = DraftStats(seconds=seconds + 1.0, first_token=1.0, rounds=rounds or [])
    texts = tuple(map(str, tokens))
    return LongAnswer("", tokens, texts, ended, stats, drafters or {})


def asked(**answers: LongAnswer) -> Asked:
    opening = Opening(10.0, None, {"rag": 2.0, "SD": 0.5})
    quoted = quoted_share(answers["plain"].tokens, PROMPT)
    free = costs(1.0, 0.0)
    return Asked(Sample("c", "q"), opening, True, PROMPT, answers, free, quoted)


def costs(single: float, slope: float) -> PassCosts:
    return PassCosts({1: single, 32: single + 31 * slope})


def row(name: str, *all_asked: Asked, slope: float = 0.0) -> Row:
    return Row(name, [replace(one, costs=costs(1.0, slope)) for one in all_asked])


def speedup(of: dict[str, Any] | None) -> tuple[float, ...] | None:
    return None if of is None else tuple(of["quartiles"])


def decode(one: Row) -> tuple[float, ...] | None:
    return speedup(one.as_dict()["decode"])


def test_answers_compare_by_the_token_and_only_totals_weigh_by_time() -> None:
    one = row("SD", asked(plain=answer(seconds=6.0), SD=answer((1, 2, 3), seconds=1)))
    assert decode(one) == (2.0, 2.0, 2.0)
    assert one.decode_of_totals == 2.0
    assert one.n_identical == 0
    one = row(
        "SD",
        asked(plain=answer(seconds=6), SD=answer(seconds=3)),
        asked(plain=answer(seconds=60), SD=answer(seconds=60)),
        asked(plain=answer(seconds=6), SD=answer(seconds=3)),
    )
    assert decode(one) == (1.5, 2.0, 2.0)
    assert one.decode_of_totals == pytest.approx(72 / 66)


def test_an_answer_of_one_token_has_no_speed() -> None:
    short = asked(plain=answer((1,)), SD=answer((1,)))
    one = row("SD", short)
    assert decode(one) is None
    assert one.summary()["speedup_median"] is None
    assert one.summary()["identical"] is True
    both = row("SD", short, asked(plain=answer(seconds=6), SD=answer(seconds=3)))
    assert decode(both) == (2.0, 2.0, 2.0)


def test_first_questions_have_the_context_read() -> None:
    one = asked(plain=answer(seconds=6), SD=answer(seconds=2), rag=answer(seconds=5))
    figures = row("SD", one).as_dict()
    assert row("SD", one).summary()["second_ttft_speedup"] == pytest.approx(10.5)
    assert speedup(figures["second_question"]) == (7 / 3,) * 3
    # It makes ready for half a second what it retrieves from.
    assert speedup(figures["first_question"]) == (16 / 12.5,) * 3
    # Plain RAG does not read the context, only what it retrieves.
    figures = row("rag", one).as_dict()
    assert speedup(figures["first_question"]) == (16 / (2 + 1 + 5),) * 3
    assert figures["first_token_seconds"] == {"first": 3.0, "second": 1.0, "disk": None}
    assert figures["attainable"] is None


LOOKUP = {"lookup": Estimate(0.5, None)}


def test_what_look_up_allows_is_played_through() -> None:
    one = asked(plain=answer(), SD=answer(drafters=LOOKUP))
    # Six places: two without a match, then a pass for the four others.
    assert row("SD", one).attainable == (2.0, "3 tokens of every match")
    ended = asked(plain=answer(), SD=answer(drafters=LOOKUP, ended=True))
    assert row("SD", ended).attainable[0] == pytest.approx(7 / 3)
    assert row("SD", one, slope=1.0).attainable == (1.0, "never draft")
    without = asked(plain=answer(), SD=answer())
    assert row("SD", without).attainable == (1.0, "never draft")


def test_what_is_allowed_weighs_every_question_by_its_own_costs() -> None:
    one = asked(plain=answer(), SD=answer(drafters=LOOKUP))
    # By the policy of three tokens: 6 seconds in 3, and 60 in 10 + 10 + 10 + 3.
    both = [replace(one, costs=costs(1.0, 0.0)), replace(one, costs=costs(10.0, 1.0))]
    gain, policy = Row("SD", both).attainable
    assert policy == "3 tokens of every match"
    assert gain == pytest.approx(66 / (3 + 33))


def test_the_table_of_costs_has_medians_by_length_of_prompt() -> None:
    one, longer = asked(plain=answer()), (*PROMPT * 50,)
    all_asked = [
        *(replace(one, costs=PassCosts({1: n, 4: 9.0})) for n in (1.0, 2.0, 6.0)),
        replace(one, prompt=longer, costs=PassCosts({1: 8.0, 2: 9.0})),
        # Less room was left.
        replace(one, prompt=(*longer, 1, 2), costs=PassCosts({1: 8.0})),
    ]
    assert _batch_costs(all_asked) == [
        {"prompt_tokens": 32, "seconds": {1: 2.0, 4: 9.0}},
        {"prompt_tokens": 1601, "seconds": {1: 8.0}},
    ]


def test_foresight_is_for_rows_that_look_up() -> None:
    one = asked(plain=answer(), SD=answer(drafters=LOOKUP))
    # Two places without a match, and four tokens in a pass that takes 1.5 as long.
    assert row("SD", one, slope=0.5 / 3).as_dict()["oracle"] == pytest.approx(6 / 3.5)
    assert row("plain", one).as_dict()["oracle"] is None
    assert row("SD", one).oracle == row("SD", one).attainable[0] == 2.0


def test_what_a_model_allows_is_computed() -> None:
    drafters = {"self": Estimate(1.0, 0.5)}
    rounds: list[tuple[str | None, int, int]] = [("self", 1, 1), ("other", 5, 0)]
    one = asked(plain=answer(), SD=answer(drafters=drafters, rounds=rounds))
    gain, by = row("SD", one).attainable
    assert gain == pytest.approx(32 / (31 * 0.5 + 1))
    assert by == "self at its best length"
    silent = asked(plain=answer(), SD=answer(drafters={"self": Estimate(1.0, None)}))
    assert row("SD", silent).attainable == (1.0, "never draft")
    # The better drafter sets the bar.
    drafters = LOOKUP | {"self": Estimate(0.0, 0.1)}
    one = asked(plain=answer(), SD=answer(drafters=drafters))
    assert row("SD", one).attainable[0] == 2.0


def test_answers_that_quote_are_told_apart_by_the_plain_ones() -> None:
    quote, other = tuple(range(10, 20)), tuple(range(50, 60))
    all_asked = [
        asked(plain=answer(quote, seconds=9), SD=answer(other, seconds=3)),
        asked(plain=answer(other, seconds=9), SD=answer(quote, seconds=9)),
        asked(plain=answer((*quote, *other), seconds=9), SD=answer(quote, seconds=9)),
    ]
    one = row("SD", *all_asked)
    assert one.where(quoting=True).asked == [all_asked[0], all_asked[2]]
    assert one.where(quoting=False).asked == [all_asked[1]]
    assert one.as_dict()["n_answers"] == 3
    figures = one.as_dict()["where_quoting"]
    assert figures["n_answers"] == 2
    slow = 9 / 19  # of a second a token, against one
    assert figures["decode"]["quartiles"][1] == pytest.approx((3 + slow) / 2)
    assert one.as_dict()["where_not_quoting"]["decode"]["quartiles"][1] == 1.0
    none = row("SD", all_asked[1]).as_dict()["where_quoting"]
    assert (none["n_answers"], none["decode"], none["reached"]) == (0, None, None)
