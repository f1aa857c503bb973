from __future__ import annotations

import pytest

from langchain_ralmspec.bench.rapid.pass_costs import PassCosts


@pytest.mark.parametrize(
    ("n", "cost"), [(1, 1.0), (2, 2.0), (3, 2.5), (4, 3.0), (6, 2.5), (8, 2.0)]
)
def test_costs_lie_on_lines(n: int, cost: float) -> None:
    assert PassCosts({8: 2.0, 1: 1.0, 4: 3.0, 2: 2.0})(n) == cost


def test_beyond_the_largest_they_rise_or_stay() -> None:
    assert PassCosts({1: 1.0, 2: 2.0, 4: 6.0})(7) == 12.0
    assert PassCosts({1: 1.0, 2: 2.0, 4: 1.5})(7) == 1.5
    assert PassCosts({2: 2.0})(7) == PassCosts({2: 2.0})(1) == 2.0
    assert PassCosts({2: 2.0, 4: 3.0})(1) == 2.0
