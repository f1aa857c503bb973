"""Lines through measured costs, and what calls of other sizes are taken to cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.speculation import Line
from langchain_ralmspec.speculation.costs import CallCosts


@given(
    st.floats(0.002, 1.0), st.floats(0.0, 0.2), st.lists(st.integers(1, 16), min_size=2)
)
def test_a_line_is_found_again(base: float, slope: float, sizes: list[int]) -> None:
    line = Line.fit((n, base + slope * n) for n in sizes)
    if len(set(sizes)) == 1:
        assert line(sizes[0]) == pytest.approx(base + slope * sizes[0])
    else:
        assert line.base == pytest.approx(base, abs=1e-6)
        assert line.per_query == pytest.approx(slope, abs=1e-6)


def test_a_line_never_promises_time_back() -> None:
    falling = Line.fit([(1, 3.0), (2, 2.0), (3, 1.0)])
    assert falling.per_query == 0
    steep = Line.fit([(1, 0.1), (10, 10.0)])
    assert steep.base == 0
    with pytest.raises(ValueError, match="at least one point"):
        Line.fit([])


def test_costs_of_calls() -> None:
    costs = CallCosts()
    assert costs(1, 0.2) == costs(9, 0.2) == 0.2, "as cheap as one until it was tried"
    costs.add(4, 0.5)
    assert costs.largest == 4
    assert costs(1, 0.2) == 0.2
    assert costs(2, 0.2) == pytest.approx(0.3), "between one and four"
    assert costs(8, 0.2) == pytest.approx(0.5), "nothing says that they cost more"
    costs.add(8, 0.7)
    assert costs(16, 0.2) == pytest.approx(1.1)
    assert costs(2, 0.2) == pytest.approx(0.4)
    assert costs(1.5, 0.2) == pytest.approx(0.3), "on average, of one and two"
    costs.add(1, 0.1)
    assert costs(1, 0.2) == pytest.approx(0.1)
    assert costs(16, 0.2) == pytest.approx(1.1), "one says nothing of many"
    assert costs.fade(0) == pytest.approx(1 + 1 + 0.96)
    assert costs.fade(1000) < 0.001
