from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.speculation import session_cache
from langchain_ralmspec.speculation.cache import Metric, SparseVector

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
    cache = session_cache(metric)
    cache.add(vectors.items())

    assert list(cache.top(query, n)) == reference(metric, vectors, query, n)


@given(metrics, st.permutations(["c", "a", "b"]))
def test_equal_scores_fall_to_the_smaller_id(metric: Metric, order: list[str]) -> None:
    same = np.array([1.0, 2.0], np.float32)
    cache = session_cache(metric)
    cache.add((i, same) for i in order)
    assert cache.top(same, 3) == ("a", "b", "c")
    assert cache.top(same, 1) == ("a",)


def test_the_least_recently_used_is_evicted() -> None:
    vectors = np.eye(3, dtype=np.float32)
    cache = session_cache("inner_product", capacity=2)
    cache.add([("a", vectors[0]), ("b", vectors[1])])
    cache.add([("a", vectors[0])])  # used again: b is the oldest now

    assert cache.add([("c", vectors[2])]) == ["b"]

    assert "b" not in cache
    assert len(cache) == 2
    assert cache.top(vectors[2]) == ("c",)
    assert cache.top(vectors[0]) == ("a",)


def test_an_empty_cache_has_nothing() -> None:
    assert session_cache("cosine").top(np.ones(2, np.float32)) == ()


def test_a_zero_vector_is_no_division_by_zero() -> None:
    cache = session_cache("cosine")
    cache.add([("z", np.zeros(2, np.float32)), ("a", np.ones(2, np.float32))])
    assert cache.top(np.ones(2, np.float32)) == ("a",)


def test_capacity_under_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        session_cache("cosine", capacity=0)


def sparse(dense: np.ndarray) -> SparseVector:
    tokens = np.flatnonzero(dense).astype(np.int32)
    return SparseVector(tokens, dense[tokens].astype(np.float32))


def sparse_reference(
    vectors: dict[str, np.ndarray], query: np.ndarray, n: int
) -> tuple[str, ...]:
    """One float32 addition after the other, in the order of the tokens."""
    scores = {}
    for document_id, vector in vectors.items():
        score = np.float32(0)
        for token in np.flatnonzero(query):
            for _ in range(int(query[token])):
                score += vector[token]
        scores[document_id] = score
    return tuple(sorted(scores, key=lambda i: (-scores[i], i))[:n])


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 10_000))
def test_sparse_top_equals_brute_force_between_additions(
    capacity: int, n: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Tenths are inexact, so that another order of addition would break ties.
    vectors = {
        f"{i:02}": (rng.integers(0, 4, 9) * np.float32(0.1)).astype(np.float32)
        for i in rng.permutation(20)
    }
    cache, cached = session_cache("sparse", capacity), dict[str, np.ndarray]()
    for document_id, vector in vectors.items():
        cached[document_id] = vector
        for evicted in cache.add([(document_id, sparse(vector))]):
            del cached[evicted]
        if rng.random() < 0.5:  # sometimes several are added between two look-ups
            query = rng.integers(0, 4, rng.integers(1, 15)).astype(np.float32)
            expected = sparse_reference(cached, np.resize(query, 9), n)
            query = np.concatenate([np.resize(query, 9), np.ones(3, np.float32)])
            assert cache.top(sparse(query), n) == expected


def test_a_query_without_cached_tokens_falls_to_the_smallest_id() -> None:
    cache = session_cache("sparse")
    cache.add([("b", sparse(np.eye(3)[1])), ("a", sparse(np.zeros(3)))])
    assert cache.top(sparse(np.eye(3)[2]), 2) == ("a", "b")
    assert cache.top(sparse(np.zeros(3))) == ("a",)
    assert session_cache("sparse").top(sparse(np.ones(3))) == ()


def test_sparse_capacity_under_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        session_cache("sparse", capacity=0)
