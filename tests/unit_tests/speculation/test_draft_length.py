from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import BatchCosts, DraftEstimates, DraftScheduler
from langchain_ralmspec.speculation.draft_length import (
    MAX_LENGTH,
    PROBES,
    Chances,
    Trust,
    chances_of_confidence,
    chances_of_match,
)

NAME = "drafter"
TABLE = ((0.0, 0.1), (0.3, 0.5), (0.6, 0.9))

seconds = st.floats(0.01, 10)
measured = st.dictionaries(st.integers(1, 20), seconds, min_size=2, max_size=6)
evidences = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 1.0]), max_size=12)


def costs_of(points: dict[int, float]) -> BatchCosts:
    costs = BatchCosts()
    for size, value in points.items():
        costs.add(size, value)
    return costs


def scheduler_of(
    points: dict[int, float], step: float | None = 0.0, *, length: int | None = None
) -> DraftScheduler:
    """One drafter whose chances are those of the table, and 0.7 otherwise."""
    estimates = DraftEstimates(chances=Chances(TABLE))
    if step is not None:
        estimates.step.add(step)
    return DraftScheduler(costs_of(points), {NAME: estimates}, length)


def chances_in(evidence: Sequence[float]) -> list[float]:
    edges = [edge for edge, _ in TABLE]
    return [TABLE[bisect_right(edges, value) - 1][1] for value in evidence]


def gains_of(points: dict[int, float], evidence: Sequence[float]) -> list[float]:
    """The formula, for every number of tokens."""

    def v(n: int) -> float:
        sizes = sorted(points)
        if n <= sizes[-1] and n not in points:
            low = max((size for size in sizes if size <= n), default=sizes[0])
            inside = float(np.interp(n, sizes, [points[size] for size in sizes]))
            return max(points[low], inside)
        if n in points:
            return points[n]
        low, high = sizes[-2:]
        slope = (points[high] - points[low]) / (high - low)
        return max(points[low], points[low] + slope * (n - low))

    together = np.cumprod(chances_in(evidence))
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

    length = scheduler.cut(NAME, evidence, in_order=True)

    longer = scheduler.cut(NAME, [*evidence[: length + 1], *other], in_order=True)
    if length < len(evidence):
        assert longer == length
    else:
        assert longer >= length


def test_in_order_a_promising_token_is_still_verified() -> None:
    flat = scheduler_of({1: 1.0, 16: 1.2})
    assert flat.cut(NAME, (0.7, 0.7, 0.1, 0.7), in_order=True) == 4
    steep = scheduler_of({1: 1.0, 2: 1.9, 16: 16.0})
    assert steep.cut(NAME, (0.5, 0.5), in_order=True) == 0


def test_nothing_is_verified_where_batches_are_dear() -> None:
    for per_token in (1.0, 2.0):
        points = {n: 1 + per_token * (n - 1) for n in PROBES}
        assert scheduler_of(points).cut(NAME, (1.0,) * 31) == 0


def test_all_is_verified_where_batches_are_free() -> None:
    points = dict.fromkeys(PROBES, 1.0)
    assert scheduler_of(points).cut(NAME, (0.7,) * 31) == 31


@given(st.lists(st.sampled_from([0.3, 0.7]), min_size=3, max_size=3))
def test_sweet_spots_are_used(evidence: list[float]) -> None:
    # As on CPUs whose kernels take four tokens at once: a fourth one is free.
    points = {1: 1.0, 2: 1.4, 4: 1.4, 5: 2.2, 8: 2.2}
    assert scheduler_of(points).cut(NAME, evidence) == 3


def test_a_sweet_spot_too_far_is_left_alone() -> None:
    points = {1: 1.0, 2: 1.6, 3: 2.2, 4: 2.2}
    assert scheduler_of(points).cut(NAME, (0.1, 0.1, 0.1)) == 0
    assert scheduler_of(points).cut(NAME, (0.7, 0.7, 0.7)) == 3
    assert scheduler_of(points).cut(NAME, (0.7, 0.1, 0.1)) == 1


@given(measured, evidences.filter(bool), st.integers(1, 8))
def test_a_fixed_length_is_obeyed_whatever_it_costs(
    points: dict[int, float], evidence: list[float], length: int
) -> None:
    for known in (points, {}):
        scheduler = scheduler_of(known, 9.0, length=length)
        for in_order in (False, True):
            cut = scheduler.cut(NAME, evidence, in_order=in_order)
            assert cut == min(length, len(evidence))
        assert scheduler.limit() == length
        assert scheduler.worth_drafting(NAME)
        assert not scheduler.is_worth_probing(NAME, evidence)
        assert scheduler.is_enough(NAME, evidence) == (len(evidence) >= length)


@pytest.mark.parametrize("points", [{}, {1: 1.0}])
def test_before_batches_were_measured_nothing_is_verified(
    points: dict[int, float],
) -> None:
    scheduler = scheduler_of(points)
    assert scheduler.limit() == MAX_LENGTH
    assert scheduler.cut(NAME, (1.0,) * 9) == 0
    assert scheduler.worth_drafting(NAME)
    assert not scheduler.is_enough(NAME, ())
    assert scheduler.is_enough(NAME, (1.0,))
    assert scheduler.is_worth_probing(NAME, (0.3, 0.1))
    assert not scheduler.is_worth_probing(NAME, (0.1, 1.0))


def test_batches_are_measured_once() -> None:
    assert not scheduler_of({1: 1.0, 2: 1.5}).is_worth_probing(NAME, (1.0,))


def test_a_drafter_of_known_speed_may_begin_a_context_of_unknown_costs() -> None:
    for step in (1e-6, 5.0):
        scheduler = scheduler_of({}, step)
        assert scheduler.worth_drafting(NAME)


# --- costs


@given(measured, st.integers(1, 30))
def test_costs_lie_on_lines_between_what_was_measured(
    points: dict[int, float], n: int
) -> None:
    rising = dict(
        zip(sorted(points), np.cumsum([points[k] for k in sorted(points)]), strict=True)
    )
    sizes, values = list(rising), [float(value) for value in rising.values()]
    costs = costs_of(dict(zip(sizes, values, strict=True)))
    if n <= sizes[-1]:
        assert costs(n) == pytest.approx(np.interp(n, sizes, values))
    else:
        slope = (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])
        assert costs(n) == pytest.approx(values[-1] + slope * (n - sizes[-1]))


def test_a_cost_is_the_mean_of_what_was_measured_lately() -> None:
    costs = costs_of({4: 1.0})
    costs.add(4, 3.0)
    assert costs(4) == pytest.approx(2.0)
    for _ in range(200):
        costs.add(4, 7.0)
    assert costs(4) == pytest.approx(7.0, abs=0.01)


def test_one_size_says_nothing_about_others() -> None:
    assert [costs_of({4: 2.0})(n) for n in (1, 4, 9)] == [2.0] * 3


def test_without_measurements_there_are_no_costs() -> None:
    with pytest.raises(ValueError, match="no batch"):
        BatchCosts()(1)


def test_larger_batches_are_never_cheaper_between_measurements() -> None:
    costs = costs_of({1: 2.0, 5: 1.0})
    assert costs(3) == pytest.approx(2.0)
    assert costs(9) == pytest.approx(2.0)


# --- chances


def test_chances_start_at_what_is_usual() -> None:
    assert [chances_of_match()(n) for n in (1, 3, 5, 12)] == [0.2, 0.35, 0.65, 0.9]
    assert chances_of_confidence()(0.3) == pytest.approx(0.63)
    assert chances_of_confidence()(-1.0) == pytest.approx(0.47)


def test_chances_are_learnt_each_for_its_evidence() -> None:
    chances = Chances(TABLE)
    for _ in range(1000):
        chances.add(0.4, right=True)
        chances.add(0.1, right=False)
    assert 0.97 < chances(0.5) <= 0.995, "never certain"
    assert chances(0.2) < 0.01
    assert chances(0.7) == pytest.approx(0.9)


def test_chances_are_forgotten() -> None:
    chances = Chances(TABLE)
    for _ in range(5000):
        chances.add(0.4, right=True)
    for _ in range(1000):
        chances.add(0.4, right=False)
    assert chances(0.4) < 0.03
    for _ in range(300):
        chances.fade(0.1)
    assert chances(0.4) == pytest.approx(0.5)


def test_only_tokens_behind_right_ones_are_counted() -> None:
    scheduler = scheduler_of({})
    scheduler.judged(NAME, (0.1, 0.3, 0.6, 0.6), 1)
    chances = scheduler.drafters[NAME].chances
    assert chances(0.1) == pytest.approx((1 + 4 * 0.1) / 5)
    assert chances(0.3) == pytest.approx((0 + 4 * 0.5) / 5)
    assert chances(0.6) == pytest.approx(0.9), "it was not reached"


# --- is it enough


def test_drafting_stops_where_the_drafter_is_unsure() -> None:
    points = {n: 1 + 0.1 * (n - 1) for n in PROBES}
    scheduler = scheduler_of(points, 0.3)
    assert not scheduler.is_enough(NAME, ())
    assert not scheduler.is_enough(NAME, (0.7, 0.7, 0.7))
    assert scheduler.is_enough(NAME, (0.1,))
    assert scheduler.is_enough(NAME, (0.7, 0.7, 0.3))


def test_dear_steps_end_drafts_sooner() -> None:
    points = {n: 1 + 0.1 * (n - 1) for n in PROBES}

    def length(step: float) -> int:
        scheduler = scheduler_of(points, step)
        sizes = range(1, 40)
        return next(n for n in sizes if scheduler.is_enough(NAME, (0.7,) * n))

    lengths = [length(step) for step in (0.01, 0.1, 0.3, 0.6)]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 4


def test_a_drafter_whose_step_is_unknown_drafts_one_token() -> None:
    scheduler = scheduler_of(dict.fromkeys(PROBES, 1.0), None)
    assert not scheduler.is_enough(NAME, ())
    assert scheduler.is_enough(NAME, (0.9,))


# --- worlds in which acceptance and costs are known


@dataclass
class World:
    """Rounds as the loop has them, with a drafter that takes time.

    ``token`` gives, from the number of tokens so far, the chance of a drafted token
    and the evidence that the drafter sees.
    """

    v: Callable[[int], float]
    step: float
    token: Callable[[random.Random, int], tuple[float, float]]
    n_tokens: int = 0
    seconds: float = 0.0
    asked: list[int] = field(default_factory=list)  # at which tokens

    def __post_init__(self) -> None:
        self.random = random.Random(0)  # noqa: S311  not a secret
        estimates = {NAME: DraftEstimates()}
        points = {n: self.v(n) for n in PROBES}
        self.scheduler = DraftScheduler(costs_of(points), estimates)

    def run(self, n_tokens: int) -> float:
        """Seconds over those of plain decoding, per second of the latter."""
        seconds, start = self.seconds, self.n_tokens
        while self.n_tokens < start + n_tokens:
            self.round()
        plain = self.v(1) * (self.n_tokens - start)
        return (self.seconds - seconds) / plain

    def round(self) -> None:
        scheduler, drafting, n = self.scheduler, 0.0, 0
        evidence: list[float] = []
        right: list[bool] = []
        is_asked = scheduler.worth_drafting(NAME)
        if is_asked:
            while not evidence or not scheduler.is_enough(NAME, evidence):
                chance, sure = self.token(self.random, self.n_tokens)
                evidence.append(sure)
                right.append(self.random.random() < chance)
                if len(evidence) == scheduler.limit():
                    break
            drafting = len(evidence) * self.step
            n = scheduler.cut(NAME, evidence)
            if self.asked:  # the first tells nothing of the speed
                scheduler.drafters[NAME].step.add(self.step)
        verifying = self.v(n + 1)
        scheduler.costs.add(n + 1, verifying)
        n_right = right[:n].index(False) if False in right[:n] else n
        if n:
            scheduler.judged(NAME, evidence[:n], n_right)
        elif is_asked:
            scheduler.judged(NAME, evidence[:1], int(right[0]))
        if is_asked and self.asked:
            scheduler.followed(NAME, drafting, (n_right, verifying) if n else None)
        if is_asked:
            self.asked.append(self.n_tokens)
        self.seconds += drafting + verifying
        self.n_tokens += n_right + 1


def flat(n: int) -> float:
    """A GPU."""
    return 1 + 0.02 * (n - 1)


def middling(n: int) -> float:
    return 1 + 0.15 * (n - 1)


def cpu(n: int) -> float:
    return 1 + 0.5 * (n - 1)


def steep(n: int) -> float:
    return 1 + 0.9 * (n - 1)


def always(chance: float) -> Callable[[random.Random, int], tuple[float, float]]:
    return lambda _, __: (chance, 0.5)


def calibrated(chance: random.Random, _: int) -> tuple[float, float]:
    """As a sketch measured it (rapid.md, section 7)."""
    sure = chance.choice([0.1, 0.3, 0.5, 0.7, 0.95])
    return {0.1: 0.47, 0.3: 0.63, 0.5: 0.82, 0.7: 0.94, 0.95: 0.99}[sure], sure


@pytest.mark.parametrize("v", [flat, middling, cpu, steep])
@pytest.mark.parametrize("step", [0.001, 0.03, 0.1, 0.3, 0.8, 2.0])
@pytest.mark.parametrize("chance", [0.0, 0.2, 0.5, 0.7, 0.9, None])
def test_drafting_never_loses_much(
    v: Callable[[int], float], step: float, chance: float | None
) -> None:
    world = World(v, step, calibrated if chance is None else always(chance))
    assert world.run(1500) < 1.01


@pytest.mark.parametrize(
    ("v", "step", "chance", "most"),
    [
        (flat, 0.03, 0.5, 0.65),
        (flat, 0.1, 0.9, 0.42),
        (flat, 0.3, 0.7, 0.82),
        (flat, 0.1, None, 0.5),
        (middling, 0.1, 0.7, 0.75),
        (middling, 0.03, None, 0.6),
        (cpu, 0.03, 0.9, 0.85),
        (cpu, 0.03, None, 0.85),
    ],
)
def test_a_drafter_that_wins_is_used(
    v: Callable[[int], float], step: float, chance: float | None, most: float
) -> None:
    world = World(v, step, calibrated if chance is None else always(chance))
    assert world.run(1500) < most


@pytest.mark.parametrize("v", [flat, middling])
def test_no_fixed_length_is_much_better(v: Callable[[int], float]) -> None:
    chance, step = 0.8, 0.05
    lengths = range(16)
    fixed = [
        (n * step + v(n + 1)) / sum(chance**i for i in range(n + 1)) for n in lengths
    ]
    # Greatest gain in a round is not quite the least time for a token.
    assert World(v, step, always(chance)).run(3000) < 1.13 * min(fixed)


def test_a_drafter_that_loses_is_left_out_and_tried_again() -> None:
    world = World(flat, 0.3, always(0.1))
    assert world.run(20_000) < 1.005
    early = [at for at in world.asked if at < 200]
    late = [at for at in world.asked if at > 10_000]
    assert 2 <= len(early) < 40
    assert 1 <= len(late) < 100


def test_a_drafter_that_gets_better_is_used_again() -> None:
    world = World(flat, 0.1, lambda _, at: (0.9 if at > 1000 else 0.0, 0.5))
    assert world.run(1000) < 1.01
    world.run(2000)  # it has to be noticed
    assert world.run(1000) < 0.5


def test_a_drafter_that_gets_worse_is_soon_left_out() -> None:
    world = World(flat, 0.1, lambda _, at: (0.9 if at < 3000 else 0.0, 0.5))
    assert world.run(3000) < 0.5
    assert world.run(500) < 1.4, "what it had earned is not all lost"
    assert world.run(500) < 1.02


def test_one_draft_too_long_is_not_held_against_a_good_drafter() -> None:
    # Before a step was timed a draft of thirty would seem free.
    world = World(flat, 0.3, always(0.7))
    world.run(400)
    assert len([at for at in world.asked if at < 400]) > 50


def test_trust_is_earned_by_doubling_and_lost_at_once() -> None:
    trust = Trust()
    assert trust.length == 7
    trust.earned(3, 3)
    assert trust.length == 7, "a short draft proves no more than itself"
    trust.earned(7, 7)
    assert trust.length == 15
    trust.earned(15, 8)
    assert trust.length == 15, "mostly right"
    trust.earned(15, 15)
    trust.earned(31, 31)
    assert trust.length == MAX_LENGTH
    trust.earned(31, 15)
    assert trust.length == 7
