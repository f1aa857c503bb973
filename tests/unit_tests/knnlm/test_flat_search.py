"""An exact search finds, bit for bit, what brute force finds for each query alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.errors import DatastoreError
from langchain_ralmspec.knnlm import KNNDatastore, Neighbours, datastore
from langchain_ralmspec.scans import BATCHES, Scan
from tests.unit_tests.knnlm.fakes import first_of, write_entries
from tests.unit_tests.scans.test_scan import FORMS, SHAPES, drawn_rows

Keys = NDArray[Any]
Queries = NDArray[np.float32]


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


@settings(max_examples=250)
@given(
    form=st.sampled_from(FORMS),
    shape=st.sampled_from(SHAPES),
    key_type=st.sampled_from(["float16", "float32"]),
    dimension=st.sampled_from([5, 24]),
    n=st.integers(1, 200) | st.just(600),
    n_queries=st.integers(2, 40),
    place=st.floats(0, 1),
    wider=st.integers(0, 70),
    seed=st.integers(0, 999),
)
def test_batches_and_wider_searches_find_the_bits_of_brute_force(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    form: str,
    shape: str,
    key_type: str,
    dimension: int,
    n: int,
    n_queries: int,
    place: float,
    wider: int,
    seed: int,
) -> None:
    keys = drawn_rows(shape, n, dimension, seed).astype(key_type)
    rng = np.random.default_rng(seed)
    queries = keys[rng.integers(n, size=n_queries)].astype(np.float32)
    queries += rng.choice([0, 0.01, 0.1], (n_queries, 1)).astype(np.float32)
    k = 1 + int(place * (n - 1))
    folder = write_entries(tmp_path_factory.mktemp("store"), keys, np.arange(n) + 7)
    store = KNNDatastore(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scan, "_fastest", lambda _: dict.fromkeys(BATCHES, form))
        together = store.search(queries, min(n, k + wider))
        for query, found in zip(queries, together, strict=True):
            (alone,) = store.search(query[np.newaxis], k)
            assert_same(first_of(found, k), alone)
            assert_same(alone, by_hand(keys, query, k))


def test_what_no_scan_finds_is_found_a_block_at_a_time(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = drawn_rows("plain", 100, 5, 0).astype(np.float16)
    store = KNNDatastore(write_entries(tmp_path, keys, np.arange(100) + 7))
    query = keys[3].astype(np.float32)
    monkeypatch.setattr(Scan, "candidates", lambda *_: None)
    monkeypatch.setattr(datastore, "_BLOCK", 7)
    read, sizes = store._entries.read, list[int]()

    def watched(rows: Any) -> Any:
        sizes.append(len(rows))
        return read(rows)

    monkeypatch.setattr(store._entries, "read", watched)
    assert_same(store.search(query[np.newaxis], 9)[0], by_hand(keys, query, 9))
    assert max(sizes) == 7


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_query_that_is_not_finite_is_refused(number: float, tmp_path: Any) -> None:
    store = KNNDatastore(write_entries(tmp_path, np.eye(9, dtype=np.float16)))
    queries = np.eye(2, 9, dtype=np.float32)
    queries[1, 4] = number
    with pytest.raises(DatastoreError, match=r"query.*not finite"):
        store.search(queries, 1)
