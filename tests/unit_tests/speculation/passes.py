"""Passes of a target over some tokens, as a CPU makes them."""

from collections.abc import Iterable

import numpy as np

from langchain_ralmspec.speculation import Cost


def near(n: int) -> float:
    """What a pass takes on a CPU, in units of a pass over one token."""
    return float(np.interp(n, (1, 2, 4, 8, 16, 32), (1.0, 1.8, 2.3, 3.2, 5.3, 8.8)))


def learnt(points: Iterable[tuple[int, float]]) -> Cost:
    costs = Cost()
    for size, value in points:
        costs.add(size, value)
    return costs
