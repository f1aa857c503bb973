import itertools
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import Cost, Scheduler, Source
from langchain_ralmspec.speculation.calibration import PRIOR_WEIGHT
from langchain_ralmspec.speculation.costs import FORGET
from langchain_ralmspec.speculation.plan import EXPLORING, LONGEST_DRAFT, gain
from tests.unit_tests.rapid.fakes import GivenCosts, draft_scheduler, drafter
from tests.unit_tests.speculation.passes import learnt, near

NAME = "drafter"
SIZES = (1, 2, 4, 8, 16, 32)
TABLE = ((0.0, 0.1), (0.3, 0.5), (0.6, 0.9))


def chance_of(evidence: float) -> float:
    return TABLE[bisect_right([edge for edge, _ in TABLE], evidence) - 1][1]


measured = st.dictionaries(
    st.integers(1, 20), st.floats(0.01, 10), min_size=2, max_size=6
)
evidences = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 1.0]), max_size=12)


def scheduler_of(
    points: dict[int, float] | Cost,
    step: float | None = 0.0,
    *,
    length: int | None = None,
) -> Scheduler:
    """One drafter whose chances are those of the table, and 0.7 otherwise."""
    source = drafter(chance_of)
    source.right._start = 0.7
    if step is not None:
        source.token.add(1, step)
    passes = points if isinstance(points, Cost) else GivenCosts(points)
    return draft_scheduler({NAME: source}, passes, length)


def gains_of(points: dict[int, float], evidence: Sequence[float]) -> list[float]:
    """The formula, for every number of tokens."""
    v = GivenCosts(points)
    together = np.cumprod([chance_of(value) for value in evidence])
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
    for costs in (GivenCosts(points), Cost()):
        scheduler = scheduler_of(costs, 9.0, length=length)
        scheduler.drafted(NAME, 0, 99.0)
        for causal in (False, True):
            cut = scheduler.cut(NAME, evidence, causal=causal)
            assert cut == min(length, len(evidence))
        assert scheduler.limit(NAME) == length
        assert scheduler.worth_drafting(NAME)
        assert scheduler.is_enough(NAME, evidence) == (len(evidence) >= length)


@pytest.mark.parametrize("points", [{}, {4: 1.0}, {2: 1.0, 32: 0.5}])
def test_before_a_single_token_was_timed_nothing_is_drafted(
    points: dict[int, float],
) -> None:
    scheduler = scheduler_of(learnt(points.items()), None)
    assert not scheduler.worth_drafting(NAME)
    for causal in (False, True):
        assert scheduler.cut(NAME, (1.0,) * 9, causal=causal) == 0
    assert scheduler.is_enough(NAME, (1.0,))

    scheduler.passed(1, 0.5)
    assert scheduler.worth_drafting(NAME)
    assert scheduler.cut(NAME, (1.0,) * 9) > 0


def test_a_slow_first_pass_does_not_make_all_drafts_seem_free() -> None:
    # Were it believed, drafts of no use would be verified for ever, and nothing
    # would time a single token again.
    scheduler = draft_scheduler({NAME: drafter()}, learnt([(1, 40.0)]))
    drafts = 0
    for _ in range(1000):
        n = scheduler.cut(NAME, (0.3,) * 3)
        scheduler.passed(n + 1, near(n + 1))
        if n:
            drafts += 1
            scheduler.judged(NAME, (0.3,) * n, 0)
    assert drafts < 30
    assert scheduler.estimates.passes(1) == pytest.approx(1, rel=0.1)


def test_a_single_token_is_timed_again_where_all_passes_are_drafts() -> None:
    # All becomes three times as fast, but what is right is drafted every round.
    scheduler = draft_scheduler({NAME: drafter(lambda _: 0.99)}, learnt([(1, 3.0)] * 5))
    plain = 0
    for _ in range(3000):
        n = scheduler.cut(NAME, (0.3,) * 7)
        scheduler.passed(n + 1, near(n + 1))
        plain += not n
    assert 1 <= plain < 30
    assert scheduler.estimates.passes(1) == pytest.approx(1, rel=0.2)


def test_a_sweet_spot_that_was_measured_is_preferred() -> None:
    # As on CPUs whose kernels take eight tokens at once.
    def v(n: int) -> float:
        return 1.5 if n == 8 else near(n)

    costs = learnt((n, near(n)) for _ in range(9) for n in (1, 6, 8, 10))
    assert scheduler_of(costs).cut(NAME, (0.7,) * 12) != 7
    costs = learnt((n, v(n)) for _ in range(9) for n in (1, 8, 10))
    assert scheduler_of(costs).cut(NAME, (0.7,) * 12) == 7
    assert scheduler_of(costs).cut(NAME, (0.7,) * 6) < 7


def test_only_tokens_behind_right_ones_are_counted() -> None:
    scheduler = scheduler_of({})
    scheduler.judged(NAME, (0.1, 0.3, 0.6, 0.6), 1)
    chances, n = scheduler.estimates.source(NAME).right, PRIOR_WEIGHT
    assert chances(0.1) == pytest.approx((1 + n * 0.1) / (n + 1))
    assert chances(0.3) == pytest.approx((0 + n * 0.5) / (n + 1))
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


def test_longer_drafts_are_earned_by_doubling_and_lost_at_once() -> None:
    source = Source()
    assert source.longest == 3
    source.earn(1, 1)
    assert source.longest == 3, "a short draft proves no more than itself"
    source.earn(3, 3)
    assert source.longest == 7
    source.earn(7, 4)
    assert source.longest == 7, "mostly right"
    for length in (7, 15, 31):
        source.earn(length, length)
    assert source.longest == LONGEST_DRAFT
    source.earn(31, 15)
    assert source.longest == 3


@given(measured, st.lists(st.floats(0, 1), max_size=12), st.floats(0, 1))
def test_gain_is_the_formula_s(
    points: dict[int, float], chances: list[float], drafting: float
) -> None:
    v = GivenCosts(points)
    expected = v(1) * float(np.cumprod(chances).sum()) - (v(len(chances) + 1) - v(1))
    assert gain(chances, v, drafting) == pytest.approx(expected - drafting, abs=1e-9)


@given(
    st.floats(0.001, 2.0),
    st.lists(st.floats(-1.0, -0.001), min_size=1, max_size=20),
    st.floats(-0.5, 0.0),
)
def test_what_was_lost_by_trying_is_saved_before_the_next_try(
    single: float, losses: list[float], expected: float
) -> None:
    source, owed = Source(), 0.0
    for loss in losses:
        waited = 0
        while not source.pays(expected * single, single):
            waited += 1
        assert owed <= EXPLORING * waited * single + 1e-9
        source.settle(loss * single)
        owed = (1 - FORGET) * owed - loss * single


def test_realised_gains_outweigh_what_the_formula_fears_and_losses_what_it_hopes() -> (
    None
):
    source = Source()
    assert source.pays(0.1, 1.0)
    source.settle(-1.0)
    assert not source.pays(0.1, 1.0)
    source.settle(2.0)
    assert source.pays(-0.1, 1.0)


def test_a_slow_moment_of_a_pass_is_not_charged_to_the_drafter() -> None:
    scheduler = scheduler_of({1: 0.03, 4: 0.05})
    source = scheduler.estimates.source(NAME)
    scheduler.followed(NAME, 0.0, (3, 0, 5.0))
    waited = 0
    while not source.pays(0.0, 0.03):
        waited += 1
    # Of a pass over 4 tokens at most 3 may be lost.
    assert waited <= 3 / EXPLORING + 1
