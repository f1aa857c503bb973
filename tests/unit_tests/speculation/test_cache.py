from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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


def fill(
    cache: SessionCache, vectors: Mapping[str, Any], ids: Iterable[str] | None = None
) -> list[str]:
    """Add some documents, the best first; all of them when no ids are given."""
    chosen = list(vectors if ids is None else ids)
    return cache.add(chosen, np.array([vectors[i] for i in chosen], np.float32))


@given(metrics, st.permutations(["c", "a", "b"]))
def test_equal_scores_fall_to_the_smaller_id(metric: Metric, order: list[str]) -> None:
    same = np.array([1.0, 2.0], np.float32)
    cache = SessionCache(metric, 1024)
    fill(cache, dict.fromkeys(order, same))
    assert cache.top(same, 3) == ("a", "b", "c")
    assert cache.top(same, 1) == ("a",)


@settings(max_examples=200)
@given(metrics, st.integers(1, 20), st.integers(0, 10_000))
def test_a_whole_result_enters_as_its_documents_do_one_by_one(
    metric: Metric, capacity: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = {f"{i:02}": rng.normal(size=5).astype(np.float32) for i in range(20)}
    cache, one_by_one = SessionCache(metric, capacity), SessionCache(metric, capacity)
    recent: dict[str, None] = {}  # a model of what was used when
    for _ in range(6):
        found = list(rng.permutation(list(vectors)))[: rng.integers(1, 15)]
        before = set(cache._rows)
        evicted = fill(cache, vectors, found)
        for document_id in reversed(found):  # the best is used last
            fill(one_by_one, vectors, [document_id])
            recent.pop(document_id, None)
            recent[document_id] = None
        recent = dict.fromkeys(list(recent)[-capacity:])
        assert list(cache._rows) == list(recent) == list(one_by_one._rows)
        assert len(cache) == len(recent)
        assert set(evicted) == before - set(recent)
        assert not any(document_id in cache for document_id in evicted)
        query, n = rng.normal(size=5).astype(np.float32), int(rng.integers(1, 6))
        expected = {i: vectors[i] for i in recent}
        assert list(cache.top(query, n)) == reference(metric, expected, query, n)
        for document_id in recent:
            rows = cache._rows[document_id], one_by_one._rows[document_id]
            for kept in ("_matrix", "_squares"):
                one, other = getattr(cache, kept), getattr(one_by_one, kept)
                np.testing.assert_array_equal(one[rows[0]], other[rows[1]])


def test_nothing_documents_found_twice_and_zero_vectors() -> None:
    vectors = dict(zip("ab", np.eye(2, dtype=np.float32), strict=True))
    cache = SessionCache("inner_product", 1024)
    fill(cache, vectors, "aba")
    assert len(cache) == 2
    assert cache.top(vectors["b"], 3) == ("b", "a")
    cache = SessionCache("cosine", 1024)
    assert cache.top(np.ones(2, np.float32)) == ()
    fill(cache, {"z": (0, 0), "a": (1, 1)})
    assert cache.top(np.ones(2, np.float32)) == ("a",)


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
        (best,) = cache.top(query)
        found = cache.margin(query, best)
        assert found is not None
        return found

    margins = []
    for k in (1, 20, 100):
        cache = SessionCache(metric, 1024)
        known = reference(metric, table, start, k)
        fill(cache, table, known)
        cache.add_ball(start, known[-1])
        margins.append(margin(cache, start))
    assert margins[0] == pytest.approx(0, abs=1e-6), "the last is the best one"
    assert margins == sorted(margins)
    assert margins[1] > 0.1
    near, far = (margin(cache, start + x * (away - start)) for x in (0.1, 0.9))
    assert far < near < margins[2]


def test_a_margin_is_that_of_the_best_ball() -> None:
    vectors = {"a": np.array([0, 0], np.float32), "b": np.array([9, 0], np.float32)}
    cache = SessionCache("squared_l2", 1024)
    fill(cache, vectors)
    assert cache.margin(vectors["a"], "a") is None, "there is no ball"
    cache.add_ball(vectors["a"], "b")
    assert cache.margin(np.array([1, 0], np.float32), "a") == pytest.approx(9 - 1 - 1)
    cache.add_ball(np.array([1, 0], np.float32), "a")  # a small ball changes nothing
    assert cache.margin(np.array([1, 0], np.float32), "a") == pytest.approx(9 - 1 - 1)


@settings(max_examples=500)
@given(
    metrics,
    st.sampled_from(["unit", "any", "long", "grid"]),
    st.tuples(st.integers(1, 25), st.integers(1, 3), st.integers(5, 70)),
    st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    st.integers(0, 10_000),
)
def test_what_is_proven_is_what_the_store_would_say(
    metric: Metric, shape: str, sizes: tuple[int, int, int], step: float, seed: int
) -> None:
    (k, depth, capacity), rng = sizes, np.random.default_rng(seed)
    table = rng.normal(size=(60, 4))
    if shape == "unit":
        table /= np.linalg.norm(table, axis=1, keepdims=True)
    elif shape == "long":  # some are much longer than the others
        table[rng.random(60) < 0.2] *= 50
    elif shape == "grid":  # ties, and copies of one vector
        table = table.round()
    vectors = {f"{i:02}": v.astype(np.float32) for i, v in enumerate(table)}
    if metric == "cosine":
        vectors = {i: v for i, v in vectors.items() if v.any()}
    lengths = [float(np.linalg.norm(v.astype(np.float64))) for v in vectors.values()]
    longest = 1.0 if metric == "cosine" else max(lengths)
    cache = SessionCache(metric, capacity)
    query = rng.choice(list(vectors.values()))
    for _ in range(8):
        known = reference(metric, vectors, query, k)
        fill(cache, vectors, known)
        if known[-1] in cache:
            cache.add_ball(query, known[-1])
        query = (query + step * rng.normal(size=4)).astype(np.float32)
        if metric == "cosine" and not query.any():
            return
        guess = cache.top(query, depth)
        if cache.proves(query, guess, longest):
            assert list(guess) == reference(metric, vectors, query, len(guess))


def cache_around(
    metric: Metric,
    documents: Mapping[str, Sequence[float]],
    query: Sequence[float],
    n: int,
) -> SessionCache:
    """A cache that has seen the ``n`` best documents of a query."""
    vectors = {i: np.array(v, np.float32) for i, v in documents.items()}
    centre = np.array(query, np.float32)
    best = reference(metric, vectors, centre, n)
    cache = SessionCache(metric, n)
    fill(cache, vectors, best)
    cache.add_ball(centre, best[-1])
    return cache


@pytest.mark.parametrize("metric", ["inner_product", "squared_l2", "cosine"])
def test_near_what_is_cached_answers_are_proven_and_far_from_it_not(
    metric: Metric,
) -> None:
    documents = {"a": (1, 0), "b": (0.8, 0.6), "c": (0, 1), "d": (-1, 0)}
    cache = cache_around(metric, documents, [1, 0], 3)
    near, far = (np.array(q, np.float32) for q in ([0.98, 0.199], [0, 1]))
    assert cache.proves(near, ["a"], 1.0)
    assert cache.proves(near, ["a", "b"], 1.0)
    assert not cache.proves(near, ["a", "b", "c"], 1.0), "d might be as near as c"
    assert not cache.proves(far, ["c"], 1.0)
    between = np.array([0.9, 0.3], np.float32) / np.float32(0.9**2 + 0.3**2) ** 0.5
    assert cache.proves(near, cache.top(near), 1.0)
    assert not cache.proves(between, ["a"], 1.0), "a and b are as near"


def test_under_the_inner_product_a_proof_takes_the_longest_vector() -> None:
    documents = {"a": (1, 0), "b": (0.9, 0), "far and long": (0.5, 10)}
    cache = cache_around("inner_product", documents, [1, 0], 2)
    query = np.array([1, 0.1], np.float32)
    assert cache.top(query) == ("a",)
    assert cache.proves(query, ["a"], 1.0)
    assert not cache.proves(query, ["a"], 10.02), "that one has a score of 1.5"


@pytest.mark.parametrize("metric", ["inner_product", "squared_l2", "cosine"])
def test_no_ball_reaches_beyond_what_was_evicted(metric: Metric) -> None:
    documents = {"a": (1, 0), "b": (0.8, 0.6), "c": (0, 1), "d": (-1, 0)}
    cache = cache_around(metric, documents, [1, 0], 3)
    near_b = np.array([0.85, 0.53], np.float32)
    assert cache.proves(near_b, ["b"], 1.0)
    # a, then c, are used again: b is the one to go.
    fill(cache, documents, "ca")
    assert fill(cache, documents, "d") == ["b"]
    assert cache.top(near_b) == ("a",)
    assert not cache.proves(near_b, ["a"], 1.0)
    assert cache.proves(np.array([0.999, -0.04], np.float32), ["a"], 1.0)


def test_no_root_of_a_rounding_error_proves_anything() -> None:
    """Copies of one vector fill a ball of no size; one of them is not cached."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        vector = (100 * rng.normal(size=64)).astype(np.float32)
        cache = SessionCache("inner_product", 1024)
        fill(cache, {"b": vector, "x": -vector})
        cache.add_ball(vector, "b")  # of the copies a, b and c the store gave one
        longest = float(np.linalg.norm(vector.astype(np.float64)))
        assert not cache.proves(vector, ["b"], longest)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_no_number_proves_nothing(number: float) -> None:
    for documents in ({"a": (1, 0)}, {"a": (1, 0), "b": (0, 1)}):
        cache = cache_around("squared_l2", documents, (1, 0), len(documents))
        nowhere = np.array([number, 0], np.float32)
        with np.errstate(invalid="ignore"):
            assert not cache.proves(nowhere, ["a"], 1.0)
        query = np.array([1, 0.1], np.float32)
        before = cache.margin(query, "a")
        cache.add_ball(nowhere, "a")
        assert cache.margin(query, "a") == before


def test_the_oldest_of_many_balls_is_forgotten() -> None:
    documents = {"a": [0.0], "b": [3.0]}
    cache = cache_around("squared_l2", documents, [0], 2)
    query = np.array([0.1], np.float32)
    for _ in range(31):
        cache.add_ball(np.array([9], np.float32), "b")
        assert cache.proves(query, ["a"], 3.0)
    cache.add_ball(np.array([9], np.float32), "b")
    assert not cache.proves(query, ["a"], 3.0)
