"""What passes of every size are taken to cost, from those that were measured."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import BatchCosts
from tests.unit_tests.speculation.threads import at_once


def learnt(points: Iterable[tuple[int, float]]) -> BatchCosts:
    costs = BatchCosts()
    for size, value in points:
        costs.add(size, value)
    return costs


def near(n: int) -> float:
    """What a pass takes on the CPU where the curve was measured."""
    return float(np.interp(n, (1, 2, 4, 8, 16, 32), (1.0, 1.8, 2.3, 3.2, 5.3, 8.8)))


def test_one_draft_tells_all_by_the_curve() -> None:
    for size in (4, 16):
        costs = learnt([(1, 0.5), (size, 0.5 * near(size))])
        for n in range(1, 33):
            assert costs(n) == pytest.approx(0.5 * near(n))
        assert costs(48) == pytest.approx(0.5 * (8.8 + 3.5)), "the last line goes on"


def test_before_a_draft_was_verified_costs_are_hoped_to_be_low() -> None:
    costs = learnt([(1, 2.0)] * 9)
    assert costs(1) == pytest.approx(2.0)
    for n in range(2, 33):
        assert 2.0 < costs(n) == pytest.approx(2 + 0.3 * 2 * (near(n) - 1))
    costs.add(4, 2 * near(4))
    assert costs(8) == pytest.approx(2 * near(8)), "one is enough to know better"
    for _ in range(500):
        costs.add(1, 2.0)
    assert costs(8) < 0.6 * 2 * near(8), "but not for ever"


@given(st.lists(st.integers(2, 32), min_size=1, max_size=40))
def test_passes_like_those_believed_change_nothing(sizes: list[int]) -> None:
    costs = learnt((n, 3 * near(n)) for n in (1, *sizes))
    for n in range(1, 40):
        assert costs(n) == pytest.approx(3 * learnt([(1, 1.0), (4, near(4))])(n))


@pytest.mark.parametrize("sizes", [(4,), (2, 4, 8), (8, 16)])
def test_of_flat_passes_a_flat_curve_is_learnt(sizes: tuple[int, ...]) -> None:
    costs = learnt((n, 0.1) for _ in range(40) for n in (1, *sizes))
    assert costs(1) == pytest.approx(0.1)
    assert all(costs(n) == pytest.approx(0.1, rel=0.6) for n in (3, 5, 12, 32))
    assert costs(sizes[0]) == pytest.approx(0.1, rel=0.01)


def test_of_steep_passes_a_steep_curve_is_learnt() -> None:
    costs = learnt((n, float(n)) for _ in range(40) for n in (1, 4, 8))
    assert costs(4) == pytest.approx(4, rel=0.05)
    assert costs(6) > 1.5 * near(6)
    assert costs(32) > 1.5 * near(32)


def test_a_cost_is_the_mean_of_what_was_measured_lately() -> None:
    costs = learnt([(1, 1.0), (4, 2.3)])
    for _ in range(200):
        costs.add(4, 5.0)
    assert costs(4) == pytest.approx(5.0, rel=0.05)
    for _ in range(200):
        costs.add(4, 2.3)
    assert costs(4) == pytest.approx(2.3, rel=0.05)


@pytest.mark.parametrize("v", [near, lambda _: 1.0])
@pytest.mark.parametrize("spiked", [1, 4, 8])
def test_one_spike_is_forgotten(v: Callable[[int], float], spiked: int) -> None:
    costs = learnt([(spiked, 40 * v(spiked))])
    for _ in range(120):
        for n in (1, 4, 8):
            costs.add(n, v(n))
    reference = learnt((n, v(n)) for _ in range(120) for n in (1, 4, 8))
    for n in range(1, 33):
        assert costs(n) == pytest.approx(reference(n), rel=0.15)


def test_a_spike_fades_while_other_sizes_are_used() -> None:
    costs = learnt([(1, 1.0), (8, 40 * near(8))])
    before = [costs(n) for n in (4, 8)]
    for _ in range(400):
        costs.add(1, 1.0)
    assert before[0] > 1.5 * near(4)
    for n in (4, 8):
        assert costs(n) < near(n)


def test_one_spike_does_not_make_all_sizes_dear() -> None:
    costs = learnt([(1, 1.0), *[(4, near(4))] * 9, (16, 400.0)])
    assert costs(4) == pytest.approx(near(4), rel=0.1)
    assert costs(8) < 1.5 * near(8)


@given(st.lists(st.integers(20, 32), min_size=1, max_size=20), st.data())
def test_a_slow_pass_is_shared_with_its_neighbours(
    sizes: list[int], data: st.DataObject
) -> None:
    # A draft that would end the answer shall not be cut by a token because passes of
    # its very size met slow moments.
    noisy = [(n, near(n) * data.draw(st.floats(0.85, 1.25))) for n in sizes]
    costs = learnt([(1, 1.0), *noisy])
    for n in range(20, 32):
        assert costs(n + 1) - costs(n) < 0.9, "what a token is worth that is right"


@pytest.mark.parametrize(
    ("low", "high", "seconds", "tolerance"),
    # A fifth token may need another tile of the kernel.
    [(4, 5, (1.5, 3.0), 0.05), (8, 9, (1.3, 2.3), 0.15), (16, 17, (1.3, 2.3), 0.15)],
)
def test_where_kernels_change_a_size_is_soon_told_from_its_neighbour(
    low: int, high: int, seconds: tuple[float, float], tolerance: float
) -> None:
    passes = list(zip((low, high), seconds, strict=True))
    costs = learnt([(1, 1.0), *passes * 16])
    for size, expected in passes:
        assert costs(size) == pytest.approx(expected, rel=tolerance)


def test_threads_may_share_what_passes_cost() -> None:
    costs = BatchCosts()

    def use(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(1000):
            # At times a larger pass is sooner, which makes it forget v(1).
            size, value = rng.choice((1, 1, 2, 3, 5, 9, 17, 32)), rng.choice((0.3, 2.0))
            costs.add(int(size), float(value))
            for n in range(1, 33, 5):
                assert costs(n) > 0

    at_once(use)
