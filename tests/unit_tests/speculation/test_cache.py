from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.speculation import SessionCache, session_cache
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


@settings(max_examples=300)
@given(metrics, st.integers(1, 20), st.floats(0.001, 1.0), st.integers(0, 10_000))
def test_a_margin_above_zero_is_a_proof(
    metric: Metric, k: int, step: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = {f"{i:02}": rng.normal(size=4).astype(np.float32) for i in range(60)}
    if metric == "inner_product":  # a proof for documents of one length
        vectors = {i: v / np.linalg.norm(v) for i, v in vectors.items()}
    cache = session_cache(metric)
    query = rng.normal(size=4).astype(np.float32)
    for _ in range(3):
        known = reference(metric, vectors, query, k)
        cache.add((i, vectors[i]) for i in reversed(known))
        cache.cover(query, known[-1])
        query = query + step * rng.normal(size=4).astype(np.float32)
        (guess,) = cache.top(query)
        margin = cache.margin(query, guess)
        assert margin is not None
        if margin > 1e-4:  # rounding
            assert [guess] == reference(metric, vectors, query, 1)


@pytest.mark.parametrize("metric", ["inner_product", "squared_l2", "cosine"])
def test_margins_are_wide_where_much_is_known_and_shrink_on_the_way(
    metric: Metric,
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = {f"{i:03}": v for i, v in enumerate(vectors)}
    start, away = vectors[0], vectors[1]

    def margin(cache: SessionCache, query: NDArray[np.float32]) -> float:
        found = cache.margin(query, *cache.top(query))
        assert found is not None
        return found

    margins = []
    for k in (1, 20, 100):
        cache = session_cache(metric)
        known = reference(metric, table, start, k)
        cache.add((i, table[i]) for i in reversed(known))
        cache.cover(start, known[-1])
        margins.append(margin(cache, start))
    assert margins[0] == pytest.approx(0, abs=1e-6), "the last is the best one"
    assert margins == sorted(margins)
    assert margins[1] > 0.1
    near, far = (margin(cache, start + x * (away - start)) for x in (0.1, 0.9))
    assert far < near < margins[2]


def test_a_margin_takes_the_nearest_of_what_is_covered() -> None:
    vectors = {"a": np.array([0, 0], np.float32), "b": np.array([9, 0], np.float32)}
    cache = session_cache("squared_l2")
    cache.add(vectors.items())
    assert cache.margin(vectors["a"], "a") is None, "nothing was covered"
    cache.cover(vectors["a"], "b")
    assert cache.margin(np.array([1, 0], np.float32), "a") == pytest.approx(9 - 1 - 1)
    cache.cover(np.array([1, 0], np.float32), "a")  # a small ball changes nothing
    assert cache.margin(np.array([1, 0], np.float32), "a") == pytest.approx(9 - 1 - 1)


def test_sparse_vectors_have_no_distance_and_no_margin() -> None:
    tokens = np.array([1], np.int32)
    vector = SparseVector(tokens, np.array([1.0], np.float32))
    cache = session_cache("sparse")
    cache.add([("a", vector)])
    cache.cover(vector, "a")
    assert cache.margin(vector, "a") is None
