"""Candidates leave none of the nearest out, whatever rounding does to their scores."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.knnlm import KNNDatastore, Neighbours, flat_index
from langchain_ralmspec.knnlm.flat_index import FlatIndex, _BFloat16Scan, _Float32Scan
from langchain_ralmspec.scans import candidates as rounded_scan
from tests.unit_tests.knnlm.fakes import write_entries

Keys = NDArray[Any]
Queries = NDArray[np.float32]

SCANS = ["float32", "bfloat16"]


def scan_by(name: str, keys: Keys, centre: Queries) -> Any:
    if name == "float32":
        return _Float32Scan(keys, centre)
    pytest.importorskip("torch")
    return _BFloat16Scan(keys, centre)


def indexed(
    keys: Keys,
    scan: str,
    error: float | None = None,
    scores_per_block: int = 1 << 22,
    groups: int = 2048,
) -> Callable[[Queries, int], list[set[int]]]:
    """Search by that scan; ``error`` is what it then says of its rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_index, "_fastest_scan", lambda *of: scan_by(scan, *of[:2]))
        index = FlatIndex(keys)
        index.prepare()

    def told(queries: Queries) -> NDArray[np.float64]:
        return np.full(len(queries), error)

    def search(queries: Queries, k: int) -> list[set[int]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flat_index, "_SCORES_PER_BLOCK", scores_per_block)
            patch.setattr(rounded_scan, "GROUPS", groups)
            if error is not None:
                for made in index._scans.values():
                    patch.setattr(made, "errors", told)
            found = index.candidates(queries, k)
        assert all(len(set(rows.tolist())) == len(rows) for rows in found)
        return [set(rows.tolist()) for rows in found]

    return search


def nearest(keys: Keys, query: Queries, k: int) -> set[int]:
    """The ``k`` nearest rows, and all as near as the last of them."""
    wide, query = keys.astype(np.float64), query.astype(np.float64)
    distances = ((wide - query) ** 2).sum(axis=1)
    limit = np.sort(distances)[k - 1]
    return set(np.flatnonzero(distances <= limit).tolist())


def missed(keys: Keys, queries: Queries, k: int, found: list[set[int]]) -> int:
    """How many of the nearest are no candidates."""
    rows = zip(queries, found, strict=True)
    return sum(len(nearest(keys, query, k) - one) for query, one in rows)


def drawn_keys(shape: str, n: int, dimension: int, seed: int) -> Keys:
    """Keys that are hard to tell apart, each in a way of its own."""
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((n, dimension))
    if shape == "offset":  # far from nothing, near to one another
        keys = 300 + 0.5 * keys
    elif shape == "outliers":
        keys[rng.random(n) < 0.1] *= 100
    elif shape == "poles":  # their centre is far from all of them
        keys[:, 0] += np.where(rng.random(n) < 0.5, 200, -200)
    elif shape == "equal":
        keys = keys[rng.integers(max(1, n // 8), size=n)]
    elif shape == "all equal":
        keys[:] = keys[0]
    elif shape == "grid":  # ties between different rows
        keys = keys.round()
    return keys


SHAPES = ["plain", "offset", "outliers", "poles", "equal", "all equal", "grid"]


@settings(max_examples=400)
@given(
    scan=st.sampled_from(SCANS),
    shape=st.sampled_from(SHAPES),
    key_type=st.sampled_from(["float16", "float32"]),
    n=st.integers(1, 300),
    dimension=st.sampled_from([1, 3, 16, 70]),
    n_queries=st.integers(1, 5),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    scores_per_block=st.sampled_from([1, 50, 700, 1 << 22]),
    groups=st.sampled_from([1, 3, 16, 2048]),
    seed=st.integers(0, 999),
)
def test_the_nearest_are_among_the_candidates(
    *,
    scan: str,
    shape: str,
    key_type: str,
    n: int,
    dimension: int,
    n_queries: int,
    places: list[float],
    scores_per_block: int,
    groups: int,
    seed: int,
) -> None:
    keys = drawn_keys(shape, n, dimension, seed).astype(key_type)
    rng = np.random.default_rng(seed)
    # Queries are like keys: some are keys, some lie near one.
    queries = keys[rng.integers(n, size=n_queries)].astype(np.float32)
    queries += rng.choice([0, 0, 0.1, 1], (n_queries, 1)) * rng.standard_normal(
        queries.shape
    )
    queries = queries.astype(np.float32)
    search = indexed(keys, scan, scores_per_block=scores_per_block, groups=groups)
    for place in places:
        k = 1 + int(place * (n - 1))
        assert missed(keys, queries, k, search(queries, k)) == 0


def poles(seed: int = 0, size: float = 200.0) -> tuple[Keys, Queries]:
    """Keys around two far points, where bfloat16 tells none of them apart."""
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((2000, 16)).astype(np.float32)
    keys[:, :8] += np.where(rng.random(2000) < 0.5, size, -size)[:, np.newaxis]
    noise = rng.standard_normal((5, 16)) / 10
    return keys, (keys[::400] + noise).astype(np.float32)


@pytest.mark.parametrize("k", [1, 16, 500])
@pytest.mark.parametrize("scan", SCANS)
def test_rounding_reorders_scores_but_hides_nobody(scan: str, k: int) -> None:
    keys, queries = poles()
    found = indexed(keys, scan)(queries, k)
    assert missed(keys, queries, k, found) == 0


def test_without_its_bound_rounding_would_hide_some() -> None:
    keys, queries = poles()
    found = indexed(keys, "bfloat16", error=0.0)(queries, 16)
    assert missed(keys, queries, 16, found) > 0


def test_without_any_bound_even_float32_would(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, queries = poles(size=20_000)
    assert missed(keys, queries, 16, indexed(keys, "float32")(queries, 16)) == 0
    monkeypatch.setattr(flat_index, "FLOAT32_ERROR", 0.0)
    found = indexed(keys, "float32", error=0.0)(queries, 16)
    assert missed(keys, queries, 16, found) > 0


@pytest.mark.parametrize(("scan", "most"), [("float32", 60), ("bfloat16", 600)])
def test_most_rows_are_no_candidates(scan: str, most: int) -> None:
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((5000, 32)).astype(np.float16)
    found = indexed(keys, scan)(keys[:4].astype(np.float32), 16)
    assert max(map(len, found)) <= most


@pytest.mark.parametrize("scan", SCANS)
def test_an_offset_of_all_keys_costs_no_candidates(scan: str) -> None:
    # Distances stay as they are, so the centre is taken off before rounding.
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((5000, 32)).astype(np.float32)
    near = indexed(keys, scan)(keys[:4], 16)
    far = indexed(keys + np.float32(100), scan)(keys[:4] + np.float32(100), 16)
    assert sum(map(len, far)) < 1.1 * sum(map(len, near))


@pytest.mark.parametrize("scan", SCANS)
def test_a_scan_s_rounding_is_within_its_bound(scan: str) -> None:
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((3000, 300)).astype(np.float32)
    queries = keys[:20] + rng.standard_normal((20, 300)).astype(np.float32)
    made = scan_by(scan, keys, np.zeros(300, np.float32))
    scores = made.scores(queries, 100, 2500).astype(np.float64)
    x, q = keys[100:2500].astype(np.float64), queries.astype(np.float64)
    exact = (x**2).sum(axis=1) - 2 * q @ x.T
    lengths = np.linalg.norm(q, axis=1)[:, np.newaxis] * np.linalg.norm(x, axis=1)
    errors = np.abs(scores - exact) / (2 * lengths)
    bounds = made.errors(queries)[:, np.newaxis]
    assert (errors < bounds).all()
    # A worse bound would let candidates in for nothing.
    assert (errors > bounds / 1000).any()


def test_roundings_that_add_up_hide_nobody() -> None:
    # Every number is all but half way between two of bfloat16's, and so is the product.
    near, far = (2 * (1 + 2.0**-8 + e * 2.0**-20) for e in (-1, 1))
    ones = np.ones(257)
    keys = np.outer([near, far, -near, -far], ones).astype(np.float32)
    query = (1 + 2.0**-8 - 2.0**-20) * ones[np.newaxis]
    (found,) = indexed(keys, "bfloat16")(query.astype(np.float32), 1)
    assert 0 in found


def test_without_torch_numpy_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    index = FlatIndex(np.eye(9, dtype=np.float16))
    index.prepare()
    alone, together = index._scans.values()
    assert isinstance(alone, _Float32Scan)
    assert together is alone


@pytest.mark.parametrize("narrow_from", [1, 2, 99])
def test_the_fastest_scan_is_taken_for_lone_queries_and_for_batches(
    narrow_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")

    def seconds(scan: Any, queries: Queries, n_rows: int) -> float:
        scan.scores(queries, 0, n_rows)
        return float(isinstance(scan, _BFloat16Scan) != (len(queries) >= narrow_from))

    monkeypatch.setattr(flat_index, "_least_seconds", seconds)
    keys = np.eye(9, dtype=np.float16)
    index = FlatIndex(keys)
    for n_queries in (1, 9, 2, 1):
        index.candidates(keys[:n_queries].astype(np.float32), 1)
    is_narrow = [
        isinstance(index._scans[many], _BFloat16Scan) for many in (False, True)
    ]
    assert is_narrow == [narrow_from <= 1, narrow_from <= 2]
    assert len(set(map(id, index._scans.values()))) == len(set(is_narrow))


@pytest.fixture(params=SCANS)
def each_scan(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(keys: Keys, centre: Queries, *_: Any) -> Any:
        return scan_by(request.param, keys, centre)

    monkeypatch.setattr(flat_index, "_fastest_scan", made)


def by_hand(keys: Keys, query: Queries, k: int) -> Neighbours:
    """Every distance in float32, summed as the datastore promises to."""
    apart = keys.astype(np.float32) - query
    distances = (apart * apart).sum(axis=1)
    rows = np.lexsort((np.arange(len(keys)), distances))[:k]
    return Neighbours(rows, distances[rows], rows.astype(np.int32) + 7)


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    """Bit for bit."""
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.distances.tobytes() == expected.distances.tobytes()
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.distances.dtype == np.float32


@pytest.mark.parametrize("key_type", ["float16", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_search_is_brute_force_whatever_comes_with_it(
    shape: str, key_type: str, each_scan: None, tmp_path: Any
) -> None:
    n, dimension = 600, 24
    keys = drawn_keys(shape, n, dimension, 0).astype(key_type)
    store = KNNDatastore(write_entries(tmp_path, keys, np.arange(n) + 7))
    rng = np.random.default_rng(1)
    queries = keys[rng.integers(n, size=40)].astype(np.float32)
    queries += rng.choice([0, 0.1], (40, 1)).astype(np.float32)
    expected = [by_hand(keys, query, n) for query in queries]

    for k in (1, 16, n):
        for query, line in zip(queries, expected, strict=True):
            (alone,) = store.search(query[np.newaxis], k)
            assert_same(alone, line.first(k))
        for size in (2, 3, 8, 17, 40):
            together = store.search(queries[:size], k)
            for found, line in zip(together, expected[:size], strict=True):
                assert_same(found, line.first(k))
    for found, line in zip(store.search(queries, 64), expected, strict=True):
        assert_same(found.first(5), line.first(5))


@settings(max_examples=150)
@given(
    scan=st.sampled_from(SCANS),
    shape=st.sampled_from(SHAPES),
    n=st.integers(1, 200),
    n_queries=st.integers(2, 40),
    place=st.floats(0, 1),
    wider=st.integers(0, 70),
    seed=st.integers(0, 999),
)
def test_batches_and_wider_searches_find_the_same_bits(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    scan: str,
    shape: str,
    n: int,
    n_queries: int,
    place: float,
    wider: int,
    seed: int,
) -> None:
    keys = drawn_keys(shape, n, 5, seed).astype(np.float16)
    rng = np.random.default_rng(seed)
    queries = keys[rng.integers(n, size=n_queries)].astype(np.float32)
    queries += rng.choice([0, 0.01], (n_queries, 1)).astype(np.float32)
    k = 1 + int(place * (n - 1))
    folder = write_entries(tmp_path_factory.mktemp("store"), keys, np.arange(n) + 7)
    store = KNNDatastore(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_index, "_fastest_scan", lambda *of: scan_by(scan, *of[:2]))
        assert store.is_nested
        together = store.search(queries, min(n, k + wider))
        for query, found in zip(queries, together, strict=True):
            (alone,) = store.search(query[np.newaxis], k)
            assert_same(found.first(k), alone)
            assert_same(alone, by_hand(keys, query, k))
