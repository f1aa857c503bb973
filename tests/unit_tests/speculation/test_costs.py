"""What calls of sizes that were not measured are taken to cost."""

import pytest

from langchain_ralmspec.speculation.costs import CallCosts


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
