from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.bench.rapid.policies import (
    END,
    LENGTHS,
    POLICIES,
    Answered,
    Cost,
    PassCosts,
    Place,
    Policy,
    acceptance_by_position,
    best_policy,
    ceiling,
    lookup_places,
    model_attainable,
    oracle,
)
from tests.unit_tests.rapid.matches import agreement, place_of

PLACES = st.lists(
    st.builds(
        lambda own, drafted, right: Place(own, drafted, min(drafted, right)),
        st.sampled_from([0, 1, 3, 4, 5, 9, 20]),
        st.integers(1, 31),
        st.integers(0, 31),
    ),
    max_size=30,
).map(tuple)


def line(base: float, slope: float) -> Cost:
    return lambda n: base + slope * n


COSTS = st.builds(line, st.floats(0.1, 5), st.floats(0, 2))
ANSWERS = st.lists(st.builds(Answered, PLACES, COSTS), min_size=1, max_size=4)


@given(ANSWERS)
def test_the_best_policy_loses_only_to_foresight(answers: list[Answered]) -> None:
    for answer in answers:
        assert answer.seconds(Policy()) == pytest.approx(answer.plain)
    policy, gain = best_policy(answers)
    assert policy in POLICIES
    assert gain >= 1 - 1e-9
    spent = sum(answer.seconds(policy) for answer in answers)
    assert gain * spent == pytest.approx(sum(answer.plain for answer in answers))
    assert oracle(answers) >= gain - 1e-9


def test_not_even_where_longer_passes_are_cheaper() -> None:
    # As noisy timings may say: then wrong tokens are worth verifying.
    answer = Answered((Place(3, 31, 0),) * 4, lambda n: 9.0 if n < 3 else 1.0)
    assert oracle([answer]) == pytest.approx(36 / (1 + 1 + 9 + 9))
    assert best_policy([answer])[1] == pytest.approx(36 / 20)


@given(PLACES, COSTS)
def test_nothing_beats_the_ceiling(places: tuple[Place, ...], cost: Cost) -> None:
    answers = [Answered(places, cost)]
    assert best_policy(answers)[1] <= ceiling(cost) + 1e-9
    # Foresight may choose any length, so the best of all lengths is what bounds it.
    best = max(n * cost(1) / cost(n) for n in range(1, LENGTHS[-1] + 2))
    assert oracle(answers) <= best + 1e-9


def tried(places: tuple[Place, ...], cost: Cost, position: int = 0) -> float:
    """Least seconds, by trying all lengths of right tokens in all ways."""
    if position >= len(places):
        return 0.0
    longest = min(places[position].right, len(places) - position - 1)
    return min(
        cost(n + 1) + tried(places, cost, position + n + 1) for n in range(longest + 1)
    )


@given(
    st.lists(
        st.builds(
            lambda right, more: Place(1, right + more, right),
            st.integers(0, 6),
            st.integers(0, 3),
        ),
        max_size=8,
    ).map(tuple),
    COSTS,
)
def test_foresight_is_the_best_of_all_ways(
    places: tuple[Place, ...], cost: Cost
) -> None:
    assert Answered(places, cost).least_seconds == pytest.approx(tried(places, cost))


def test_foresight_drafts_what_is_right_and_worth_it() -> None:
    places = (Place(1, 31, 0), Place(1, 31, 2), Place(), Place())
    # A pass for the first token, and one for the three others.
    assert oracle([Answered(places, line(1.0, 0.0))]) == 2.0
    # A policy verifies wrong tokens at the first place too.
    answers = [Answered(places, line(1.0, 0.1))]
    assert best_policy(answers)[1] < oracle(answers)
    assert oracle([Answered(places, line(0.0, 1.0))]) == 1.0
    assert oracle([Answered((), line(1.0, 0.0))]) == 1.0


def walked(tokens: list[int], n_prompt: int, policy: Policy, cost: Cost) -> float:
    """Seconds of a policy, by searching the tokens anew before every round."""
    at, seconds = n_prompt + 1, 0.0
    while at < len(tokens):
        evidence, draft = looked_up(tokens[:at], n_prompt)
        n = 0
        if policy.least_evidence is not None and evidence >= policy.least_evidence:
            n = min(policy.length, len(draft), len(tokens) - at - 1)
        right = 0
        while right < n and draft[right] == tokens[at + right]:
            right += 1
        seconds += cost(n + 1)
        at += right + 1
    return seconds


def looked_up(tokens: list[int], n_prompt: int) -> tuple[int, list[int]]:
    """The evidence for the best match, and what follows it."""
    place = place_of(tokens, 31)
    if place is None:
        return 0, []
    own = agreement(tokens, place, min(32, len(tokens) - n_prompt))
    return max(own, agreement(tokens, place) - 8), tokens[place : place + 31]


@given(
    st.lists(st.integers(0, 2), min_size=4, max_size=25),
    st.lists(st.integers(0, 2), min_size=1, max_size=12),
    st.booleans(),
)
def test_the_replay_is_what_a_walk_over_the_tokens_gives(
    prompt: list[int], answer: list[int], ended: bool
) -> None:
    answer = [*answer, END] if ended else answer
    cost = line(2.0, 0.5)
    played = Answered(lookup_places(prompt, answer), cost)
    for least, length in product((None, 0, 1, 2, 3, 4, 7), (1, 3, 31)):
        policy = Policy(least, length)
        expected = walked([*prompt, *answer], len(prompt), policy, cost)
        assert played.seconds(policy) == pytest.approx(expected)


def test_a_quotation_is_found() -> None:
    prompt = [*range(10, 40), 1, 2]
    places = lookup_places(prompt, [10, 11, 12, 13, 14, 15, 16, END])
    assert places[0] == Place()
    assert places[1] == Place()
    # Three tokens match, and four more were right. The draft runs on into the answer.
    assert places[2] == Place(evidence=3, drafted=31, right=4)
    # Were two of the three the question's, they would be no evidence.
    assert lookup_places([*prompt, 10, 11], [12, 13])[0] == Place(1, 31, 1)
    cost = line(1.0, 0.0)
    assert Answered(places, cost).seconds(Policy(3, 31)) == 3.0
    assert best_policy([Answered(places, cost)])[1] == pytest.approx(7 / 3)


def test_all_answers_have_one_policy() -> None:
    good = Answered((Place(3, 1, 1),) * 2, line(1.0, 0.0))
    bad = Answered((Place(3, 1, 0),) * 40, lambda n: 1.0 if n == 1 else 9.0)
    assert best_policy([good])[1] == 2.0
    assert best_policy([good, bad]) == (Policy(), 1.0)
    # An answer of one token has nothing to gain.
    assert best_policy([Answered((), line(1.0, 0.0))]) == (Policy(), 1.0)


def test_the_ceiling_is_that_of_the_best_length() -> None:
    assert ceiling(line(1.0, 0.0)) == 32.0
    assert ceiling(lambda n: 1.0 if n <= 4 else 100.0) == 4.0
    assert ceiling(float) == 1.0


def test_only_tokens_behind_right_ones_are_judged() -> None:
    rounds = [("self", 3, 1), ("self", 2, 2), (None, 0, 0), ("self", 1, 0)]
    assert acceptance_by_position(rounds) == [(3, 2), (2, 1)]


def test_what_drafts_of_a_model_allow() -> None:
    # Always right and for nothing: 32 tokens a pass.
    flat = line(1.0, 0.0)
    assert model_attainable([], 1.0, 0.0, flat) == 32.0
    # E(1) = 1.5 in 1 + 0.25; E(2) = 1.5 + 0.5·0 is no better.
    assert model_attainable([(4, 2), (2, 0)], 0.0, 0.25, flat) == pytest.approx(1.2)
    assert model_attainable([(4, 2)], 0.5, 5.0, flat) == 1.0
    # Verifying n drafted tokens is a pass of n + 1.
    assert model_attainable([], 1.0, 0.0, line(0.0, 1.0)) == pytest.approx(1.0)
    # Positions without any draft are taken to be typical.
    known = model_attainable([(9, 9)] * LENGTHS[-1], 0.0, 0.0, flat)
    assert model_attainable([(9, 9)], 1.0, 0.0, flat) == known == 32.0
    assert model_attainable([(9, 9)], 0.0, 0.0, flat) == 2.0


def test_costs_lie_on_lines_and_beyond_the_largest_they_rise_or_stay() -> None:
    costs = PassCosts({8: 2.0, 1: 1.0, 4: 3.0, 2: 2.0})
    assert [costs(n) for n in (1, 2, 3, 4, 6, 8)] == [1.0, 2.0, 2.5, 3.0, 2.5, 2.0]
    assert PassCosts({1: 1.0, 2: 2.0, 4: 6.0})(7) == 12.0
    assert PassCosts({1: 1.0, 2: 2.0, 4: 1.5})(7) == 1.5
    assert PassCosts({2: 2.0})(7) == PassCosts({2: 2.0})(1) == 2.0
    assert PassCosts({2: 2.0, 4: 3.0})(1) == 2.0
