import itertools
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import BatchCosts, DraftEstimates, DraftScheduler
from langchain_ralmspec.speculation.draft_length import (
    MAX_LENGTH,
    TokenChances,
    Trust,
    chances_of_confidence,
    chances_of_match,
)
from tests.unit_tests.rapid.fakes import GivenCosts
from tests.unit_tests.speculation.test_batch_costs import learnt, near

NAME = "drafter"
SIZES = (1, 2, 4, 8, 16, 32)
TABLE = ((0.0, 0.1), (0.3, 0.5), (0.6, 0.9))

measured = st.dictionaries(
    st.integers(1, 20), st.floats(0.01, 10), min_size=2, max_size=6
)
evidences = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 1.0]), max_size=12)


def scheduler_of(
    points: dict[int, float], step: float | None = 0.0, *, length: int | None = None
) -> DraftScheduler:
    """One drafter whose chances are those of the table, and 0.7 otherwise."""
    estimates = DraftEstimates(chances=TokenChances(TABLE))
    if step is not None:
        estimates.step.add(step)
    return DraftScheduler(GivenCosts(points), {NAME: estimates}, length)


def gains_of(points: dict[int, float], evidence: Sequence[float]) -> list[float]:
    """The formula, for every number of tokens."""
    v, edges = GivenCosts(points), [edge for edge, _ in TABLE]
    chances = [TABLE[bisect_right(edges, value) - 1][1] for value in evidence]
    together = np.cumprod(chances)
    return [
        v(1) * sum(together[:n]) - (v(n + 1) - v(1)) for n in range(len(evidence) + 1)
    ]


@given(measured, evidences)
def test_the_cut_is_where_the_gain_is_greatest(
    points: dict[int, float], evidence: list[float]
) -> None:
    gains = gains_of(points, evidence)
    assume(max(points) > 1)

    length = scheduler_of(points).cut(NAME, evidence)

    assert gains[length] == pytest.approx(max(gains), abs=1e-9)
    assert all(gain < gains[length] + 1e-9 for gain in gains[:length])
    if length:
        assert gains[length] > -1e-9


@given(measured, evidences, evidences)
def test_in_order_what_is_behind_a_token_does_not_decide_on_it(
    points: dict[int, float], evidence: list[float], other: list[float]
) -> None:
    assume(max(points) > 1)
    scheduler = scheduler_of(points)

    length = scheduler.cut(NAME, evidence, causal=True)

    longer = scheduler.cut(NAME, [*evidence[: length + 1], *other], causal=True)
    if length < len(evidence):
        assert longer == length
    else:
        assert longer >= length


def test_in_order_a_promising_token_is_still_verified() -> None:
    flat = scheduler_of({1: 1.0, 16: 1.2})
    assert flat.cut(NAME, (0.7, 0.7, 0.1, 0.7), causal=True) == 4
    steep = scheduler_of({1: 1.0, 2: 1.9, 16: 16.0})
    assert steep.cut(NAME, (0.5, 0.5), causal=True) == 0


DEAR = [{n: 1 + per_token * (n - 1) for n in SIZES} for per_token in (1.0, 2.0)]
FREE = dict.fromkeys(SIZES, 1.0)
# As on CPUs whose kernels take four tokens at once: a fourth one is free.
FOURTH_FREE = {1: 1.0, 2: 1.4, 4: 1.4, 5: 2.2, 8: 2.2}
FAR_SPOT = {1: 1.0, 2: 1.6, 3: 2.2, 4: 2.2}


@pytest.mark.parametrize(
    ("points", "evidence", "length"),
    [
        *((points, (1.0,) * 31, 0) for points in DEAR),
        (FREE, (0.7,) * 31, 31),
        *((FOURTH_FREE, each, 3) for each in itertools.product((0.3, 0.7), repeat=3)),
        (FAR_SPOT, (0.1, 0.1, 0.1), 0),
        (FAR_SPOT, (0.7, 0.7, 0.7), 3),
        (FAR_SPOT, (0.7, 0.1, 0.1), 1),
    ],
)
def test_sweet_spots_are_used_where_tokens_are_worth_them(
    points: dict[int, float], evidence: tuple[float, ...], length: int
) -> None:
    assert scheduler_of(points).cut(NAME, evidence) == length


@given(measured, evidences.filter(bool), st.integers(1, 8))
def test_a_fixed_length_is_obeyed_whatever_it_costs(
    points: dict[int, float], evidence: list[float], length: int
) -> None:
    for costs in (GivenCosts(points), BatchCosts()):
        scheduler = scheduler_of(points, 9.0, length=length)
        scheduler.costs = costs
        scheduler.drafters[NAME].call.add(99.0)
        for causal in (False, True):
            cut = scheduler.cut(NAME, evidence, causal=causal)
            assert cut == min(length, len(evidence))
        assert scheduler.limit() == length
        assert scheduler.worth_drafting(NAME)
        assert scheduler.is_enough(NAME, evidence) == (len(evidence) >= length)


@pytest.mark.parametrize("points", [{}, {4: 1.0}, {2: 1.0, 32: 0.1}])
def test_before_a_single_token_was_timed_nothing_is_drafted(
    points: dict[int, float],
) -> None:
    scheduler = scheduler_of({}, None)
    scheduler.costs = learnt(points.items())
    assert not scheduler.costs.is_known
    assert not scheduler.worth_drafting(NAME)
    assert scheduler.limit() == MAX_LENGTH
    for causal in (False, True):
        assert scheduler.cut(NAME, (1.0,) * 9, causal=causal) == 0
    assert scheduler.is_enough(NAME, (1.0,))

    scheduler.costs.add(1, 1.0)
    assert scheduler.costs.is_known
    assert scheduler.worth_drafting(NAME)
    assert scheduler.cut(NAME, (1.0,) * 9) > 0


def test_a_slow_first_pass_does_not_make_all_drafts_seem_free() -> None:
    # Were it believed, drafts of no use would be verified for ever, and nothing
    # would time a single token again.
    scheduler = DraftScheduler(learnt([(1, 40.0)]), {NAME: DraftEstimates()})
    drafts = 0
    for _ in range(1000):
        n = scheduler.cut(NAME, (0.3,) * 3)
        scheduler.costs.add(n + 1, near(n + 1))
        if n:
            drafts += 1
            scheduler.judged(NAME, (0.3,) * n, 0)
    assert drafts < 30
    assert scheduler.costs(1) == pytest.approx(1, rel=0.1)


def test_a_single_token_is_timed_again_where_all_passes_are_drafts() -> None:
    # All becomes three times as fast, but what is right is drafted every round.
    scheduler = DraftScheduler(
        learnt([(1, 3.0)] * 5),
        {NAME: DraftEstimates(chances=TokenChances(((0, 0.99),)))},
    )
    plain = 0
    for _ in range(3000):
        n = scheduler.cut(NAME, (0.3,) * 7)
        scheduler.costs.add(n + 1, near(n + 1))
        plain += not n
    assert 1 <= plain < 30
    assert scheduler.costs(1) == pytest.approx(1, rel=0.2)


def test_a_sweet_spot_that_was_measured_is_preferred() -> None:
    # As on CPUs whose kernels take eight tokens at once.
    def v(n: int) -> float:
        return 1.5 if n == 8 else near(n)

    scheduler = scheduler_of({}, 0.0)
    scheduler.costs = learnt((n, near(n)) for _ in range(9) for n in (1, 6, 8, 10))
    assert scheduler.cut(NAME, (0.7,) * 12) != 7
    scheduler.costs = learnt((n, v(n)) for _ in range(9) for n in (1, 6, 8, 10))
    assert scheduler.cut(NAME, (0.7,) * 12) == 7
    assert scheduler.cut(NAME, (0.7,) * 6) < 7


def test_chances_start_at_what_is_usual() -> None:
    assert [chances_of_match()(n) for n in (1, 3, 5, 12, 40)] == [
        *(0.1, 0.2, 0.4, 0.7, 0.9)
    ]
    assert chances_of_confidence()(0.3) == pytest.approx(0.63)
    assert chances_of_confidence()(-1.0) == pytest.approx(0.47)


def test_chances_are_learnt_each_for_its_evidence_and_forgotten() -> None:
    chances = TokenChances(TABLE)
    for _ in range(5000):
        chances.add(0.4, right=True)
        chances.add(0.1, right=False)
    assert 0.97 < chances(0.5) <= 0.995, "never certain"
    assert chances(0.2) < 0.01
    assert chances(0.7) == pytest.approx(0.9)
    for _ in range(1000):
        chances.add(0.4, right=False)
    assert chances(0.4) < 0.04
    for _ in range(300):
        chances.fade(0.1)
    assert chances(0.4) == pytest.approx(0.5)


def test_only_tokens_behind_right_ones_are_counted() -> None:
    scheduler = scheduler_of({})
    scheduler.judged(NAME, (0.1, 0.3, 0.6, 0.6), 1)
    chances = scheduler.drafters[NAME].chances
    assert chances(0.1) == pytest.approx((1 + 8 * 0.1) / 9)
    assert chances(0.3) == pytest.approx((0 + 8 * 0.5) / 9)
    assert chances(0.6) == pytest.approx(0.9), "it was not reached"


@pytest.mark.parametrize(
    ("step", "evidence", "is_enough"),
    [
        (0.3, (), False),
        (0.3, (0.7, 0.7, 0.7), False),
        (0.3, (0.1,), True),
        (0.3, (0.7, 0.7, 0.3), True),
        # While the seconds of a step are unknown, one token is drafted.
        (None, (), False),
        (None, (0.9,), True),
    ],
)
def test_drafting_stops_where_the_drafter_is_unsure(
    step: float | None, evidence: tuple[float, ...], is_enough: bool
) -> None:
    points = FREE if step is None else {n: 1 + 0.1 * (n - 1) for n in SIZES}
    assert scheduler_of(points, step).is_enough(NAME, evidence) == is_enough


def test_dear_steps_end_drafts_sooner() -> None:
    points = {n: 1 + 0.1 * (n - 1) for n in SIZES}

    def length(step: float) -> int:
        scheduler = scheduler_of(points, step)
        sizes = range(1, 40)
        return next(n for n in sizes if scheduler.is_enough(NAME, (0.7,) * n))

    lengths = [length(step) for step in (0.01, 0.1, 0.3, 0.6)]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 4


def test_trust_is_earned_by_doubling_and_lost_at_once() -> None:
    trust = Trust()
    assert trust.length == 3
    trust.earned(1, 1)
    assert trust.length == 3, "a short draft proves no more than itself"
    trust.earned(3, 3)
    assert trust.length == 7
    trust.earned(7, 4)
    assert trust.length == 7, "mostly right"
    for length in (7, 15, 31):
        trust.earned(length, length)
    assert trust.length == MAX_LENGTH
    trust.earned(31, 15)
    assert trust.length == 3
