from __future__ import annotations

import pytest

from langchain_ralmspec.stores import Metric
from langchain_ralmspec.stores.ties import is_near_tie


@pytest.mark.parametrize(
    ("scores", "depth", "metric", "expected"),
    [
        ([], 1, "cosine", False),
        ([0.9], 1, "cosine", False),
        ([0.9, 0.8], 1, "cosine", False),
        ([0.9, 0.9], 1, "cosine", True),
        ([0.9, 0.9 - 9e-6], 1, "cosine", True),
        ([0.9, 0.9 - 1.1e-5], 1, "cosine", False),
        ([0.9, 0.9 - 1.1e-5], 1, "squared_l2", True),
        ([-0.9, -0.9 - 2.1e-5], 1, "squared_l2", False),
        # the pair at the cut counts, the next one does not
        ([0.9, 0.8, 0.8], 1, "cosine", False),
        ([0.9, 0.8, 0.8], 2, "cosine", True),
        # the bound grows with the scores
        ([500.0, 499.997], 1, "inner_product", True),
        ([-500.0, -500.003], 1, "squared_l2", True),
        ([500.0, 499.9], 1, "inner_product", False),
    ],
)
def test_near_ties(
    scores: list[float], depth: int, metric: Metric, expected: bool
) -> None:
    assert is_near_tie(scores, depth, metric) is expected
