from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.speculation import SessionCache
from langchain_ralmspec.speculation.cache import Metric

metrics = st.sampled_from(["inner_product", "squared_l2", "cosine"])


def reference(
    metric: Metric, vectors: dict[str, np.ndarray], query: np.ndarray, n: int
) -> list[str]:
    """Every score from its definition, in float64."""

    def score(v: np.ndarray) -> float:
        v, q = v.astype(np.float64), query.astype(np.float64)
        if metric == "squared_l2":
            return -float(((v - q) ** 2).sum())
        product = float(v @ q)
        if metric == "cosine":
            product /= float(np.linalg.norm(v) * np.linalg.norm(q))
        return product

    return sorted(vectors, key=lambda i: (-score(vectors[i]), i))[:n]


@settings(max_examples=300)
@given(metrics, st.integers(1, 30), st.integers(1, 5), st.integers(0, 10_000))
def test_top_equals_brute_force(metric: Metric, size: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = {f"{i:02}": rng.normal(size=8).astype(np.float32) for i in range(size)}
    query = rng.normal(size=8).astype(np.float32)
    cache = SessionCache(metric)
    cache.add(vectors.items())

    assert list(cache.top(query, n)) == reference(metric, vectors, query, n)


@given(metrics, st.permutations(["c", "a", "b"]))
def test_equal_scores_fall_to_the_smaller_id(metric: Metric, order: list[str]) -> None:
    same = np.array([1.0, 2.0], np.float32)
    cache = SessionCache(metric)
    cache.add((i, same) for i in order)
    assert cache.top(same, 3) == ("a", "b", "c")
    assert cache.top(same, 1) == ("a",)


def test_the_least_recently_used_is_evicted() -> None:
    vectors = np.eye(3, dtype=np.float32)
    cache = SessionCache("inner_product", capacity=2)
    cache.add([("a", vectors[0]), ("b", vectors[1])])
    cache.add([("a", vectors[0])])  # used again: b is the oldest now

    assert cache.add([("c", vectors[2])]) == ["b"]

    assert "b" not in cache
    assert len(cache) == 2
    assert cache.top(vectors[2]) == ("c",)
    assert cache.top(vectors[0]) == ("a",)


def test_an_empty_cache_has_nothing() -> None:
    assert SessionCache("cosine").top(np.ones(2, np.float32)) == ()


def test_a_zero_vector_is_no_division_by_zero() -> None:
    cache = SessionCache("cosine")
    cache.add([("z", np.zeros(2, np.float32)), ("a", np.ones(2, np.float32))])
    assert cache.top(np.ones(2, np.float32)) == ("a",)


def test_capacity_under_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        SessionCache("cosine", capacity=0)
