"""What calls of every size are taken to cost, from those that were measured."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import Cost, Estimates
from langchain_ralmspec.speculation.costs import FORGET, Spent, fitted
from tests.unit_tests.speculation.passes import learnt, near
from tests.unit_tests.speculation.threads import at_once

sizes = st.integers(1, 40)
measured = st.lists(st.tuples(sizes, st.floats(0.001, 100)), min_size=1, max_size=30)


@given(measured, st.none() | st.floats(0.001, 100))
def test_no_larger_call_is_taken_to_cost_less(
    points: list[tuple[int, float]], once: float | None
) -> None:
    cost = learnt(points)
    seconds = [cost(n / 2, once) for n in range(2, 120)]
    known = [each for each in seconds if each is not None]
    assert len(known) == len(seconds)
    assert np.diff(known).min() >= -1e-9 * max(known)
    assert min(known) > 0


@given(st.dictionaries(sizes, st.floats(0.001, 100), min_size=1, max_size=12))
def test_it_is_exact_on_what_was_measured(points: dict[int, float]) -> None:
    rising = dict(zip(sorted(points), sorted(points.values()), strict=True))
    cost = learnt(rising.items())
    for n, seconds in rising.items():
        assert cost(n) == pytest.approx(seconds)
    assert cost.largest == max(points)


@given(st.dictionaries(sizes, st.floats(0.001, 100), min_size=2, max_size=12))
def test_between_two_sizes_it_lies_on_their_line(points: dict[int, float]) -> None:
    rising = sorted(points), sorted(points.values())
    cost = learnt(zip(*rising, strict=True))
    for n in range(rising[0][0], rising[0][-1] + 1):
        assert cost(n) == pytest.approx(float(np.interp(n, *rising)))


def test_costs_of_sizes_that_were_not_tried() -> None:
    costs = Cost()
    assert costs(1) is None
    assert costs(1, 0.2) == costs(9, 0.2) == 0.2, "as cheap as one until it was tried"
    costs.add(4, 0.5)
    assert costs(1, 0.2) == 0.2
    assert costs(2, 0.2) == pytest.approx(0.3), "between one and four"
    assert costs(8, 0.2) == pytest.approx(0.5), "nothing says that they cost more"
    costs.add(8, 0.7)
    assert costs(16, 0.2) == pytest.approx(1.1)
    assert costs(1.5, 0.2) == pytest.approx(0.25), "on average, of one and two"
    costs.add(1, 0.1)
    assert costs(1, 0.2) == pytest.approx(0.1)
    assert costs(16, 0.2) == pytest.approx(1.1), "one says nothing of many"


def test_a_lone_call_that_was_slow_is_not_the_last_of_its_kind() -> None:
    assert learnt([(1, 60.0), (4, 0.5)])(1) == pytest.approx(0.5)
    assert learnt([(4, 0.5), (1, 60.0)])(2, 0.4) == pytest.approx(30.25, rel=0.01)


def test_of_calls_of_the_curve_s_shape_long_ones_are_foreseen() -> None:
    costs = learnt((n, near(n)) for n in (1, 4, 8))
    assert costs(16) == pytest.approx(near(16), rel=0.1)
    assert costs(32) == pytest.approx(near(32), rel=0.1)


def test_a_cost_is_the_mean_of_what_was_measured_lately() -> None:
    costs = learnt([(1, 1.0), (4, 2.3)])
    for seconds in (5.0, 2.3):
        for _ in range(500):
            costs.add(4, seconds)
        assert costs(4) == pytest.approx(seconds, rel=0.05)


def test_what_is_not_measured_any_more_is_forgotten() -> None:
    costs = learnt([(1, 1.0), (8, 40 * near(8))])
    n_events = 0
    while costs.knows(8):
        costs.add(1, 1.0)
        n_events += 1
    assert costs(8) == pytest.approx(1.0), "so that it is tried again"
    assert (1 - FORGET) ** n_events == pytest.approx(FORGET, rel=0.02)
    costs.fade(n_events + 500)
    assert costs(1) is None
    assert costs.largest == 0


@pytest.mark.parametrize("v", [near, lambda _: 1.0])
@pytest.mark.parametrize("spiked", [1, 4, 8])
def test_one_slow_moment_is_forgotten(v: Callable[[int], float], spiked: int) -> None:
    costs = learnt([(spiked, 40 * v(spiked))])
    for _ in range(150):
        for n in (1, 4, 8):
            costs.add(n, v(n))
    reference = learnt((n, v(n)) for _ in range(150) for n in (1, 4, 8))
    for n in range(1, 33):
        assert costs(n) == pytest.approx(reference(n), rel=0.15)


def test_a_slow_lone_call_does_not_make_larger_ones_seem_free() -> None:
    costs = learnt([(1, 40.0), (4, near(4))])
    assert not costs.knows(1), "it is to be timed again"
    assert learnt([(1, 1.2), (4, 1.0)]).knows(1), "that is noise"


@pytest.mark.parametrize(
    ("low", "high", "seconds"),
    # A fifth token may need another tile of the kernel.
    [(4, 5, (1.5, 3.0)), (8, 9, (1.3, 2.3)), (16, 17, (1.3, 2.3))],
)
def test_where_kernels_change_a_size_is_told_from_its_neighbour(
    low: int, high: int, seconds: tuple[float, float]
) -> None:
    passes = list(zip((low, high), seconds, strict=True))
    costs = learnt([(1, 1.0), *passes])
    for size, expected in passes:
        assert costs(size) == pytest.approx(expected)


def test_waiting_is_told_from_computing() -> None:
    cost = Cost()
    assert cost.waiting == 0
    for _ in range(50):
        cost.add(1, Spent(0.4, 0.3))
        cost.add(2, Spent(0.6, 0.3))
    assert cost(2) == pytest.approx(0.6)
    assert cost.waiting == pytest.approx(0.6, abs=0.01)


@given(measured.filter(lambda points: len({n for n, _ in points}) > 1))
def test_a_line_with_weights_counts_a_point_as_often(
    points: list[tuple[int, float]],
) -> None:
    weights = [1.0 + n % 3 for n, _ in points]
    often = [
        point
        for point, weight in zip(points, weights, strict=True)
        for _ in range(int(weight))
    ]
    line, expected = fitted(points, weights), fitted(often)
    assert line(0) == pytest.approx(expected(0), abs=1e-6)
    assert line(30) == pytest.approx(expected(30), rel=1e-6, abs=1e-6)


def test_threads_may_share_what_passes_cost() -> None:
    estimates = Estimates()

    def use(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            # At times a larger pass is sooner, which makes it forget a smaller one.
            size, value = rng.choice((1, 1, 2, 3, 5, 9, 17, 32)), rng.choice((0.3, 2.0))
            with estimates.lock:
                estimates.passes.add(int(size), float(value))
                seconds = [estimates.passes(n) for n in range(1, 33, 5)]
            assert all(each and each > 0 for each in seconds)

    at_once(use)
