"""What a text keeps of what it has found, against lists and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.knnlm import Neighbours
from langchain_ralmspec.knnlm.cache import SPAN, NeighbourCache

N_ENTRIES, DIMENSION = 900, 4
KEYS = np.random.default_rng(0).random((N_ENTRIES, DIMENSION), np.float32) * 6 - 3
TOKENS = np.arange(N_ENTRIES, dtype=np.int32) + 500


class Entries:
    """Of a datastore; remembers which rows were read."""

    def __init__(self) -> None:
        self.read_rows: list[int] = []

    def read(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        assert ((rows >= 0) & (rows < N_ENTRIES)).all()
        self.read_rows += rows.tolist()
        return KEYS[rows], TOKENS[rows]


def make(entries: Entries, capacity: int = 1000) -> NeighbourCache:
    return NeighbourCache(entries.read, N_ENTRIES, DIMENSION, capacity)


def found(*rows: int) -> Neighbours:
    array = np.array(rows, np.int64)
    return Neighbours(array, np.zeros(len(rows), np.float32), array.astype(np.int32))


def rows_of(cache: NeighbourCache) -> list[int]:
    """All that it holds."""
    if not len(cache):
        return []
    near = cache.nearest(np.zeros(DIMENSION, np.float32), len(cache))
    assert (near.tokens == TOKENS[near.rows]).all()
    return sorted(near.rows.tolist())


def test_the_entries_behind_a_found_one_come_with_it() -> None:
    cache = make(Entries())
    cache.add([found(3), found(40, 20)])
    assert SPAN == 10, "as in the paper"
    assert rows_of(cache) == [*range(3, 14), *range(20, 31), *range(40, 51)]


def test_no_entry_is_behind_the_last() -> None:
    cache = make(Entries())
    cache.add([found(N_ENTRIES - 1, N_ENTRIES - 4)])
    assert rows_of(cache) == list(range(N_ENTRIES - 4, N_ENTRIES))


def test_nothing_found_is_nothing_cached() -> None:
    entries = Entries()
    cache = make(entries)
    cache.add([found(), found()])
    assert not cache
    assert not entries.read_rows


def test_the_oldest_make_room() -> None:
    cache = make(Entries(), capacity=4)
    for row in (10, 20, 30, 40):
        cache.add([found(row)], span=0)
    cache.add([found(50, 60)], span=0)
    assert rows_of(cache) == [30, 40, 50, 60]
    cache.add([found(10)], span=0)  # forgotten, so it is new again
    assert rows_of(cache) == [10, 40, 50, 60]


def test_what_is_there_is_neither_read_nor_kept_again() -> None:
    entries = Entries()
    cache = make(entries)
    cache.add([found(10, 12), found(11)], span=2)
    cache.add([found(12)], span=4)
    assert sorted(entries.read_rows) == [10, 11, 12, 13, 14, 15, 16]
    assert len(cache) == 7


operations = st.lists(
    st.tuples(
        st.lists(st.integers(0, N_ENTRIES - 1), max_size=40), st.integers(0, SPAN)
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300)
@given(
    operations,
    st.sampled_from([1, 7, 60, 400, 1000]),
    st.sampled_from([1, 2, 16, 99, 1024]),
    st.lists(st.floats(-3, 3, width=32), min_size=DIMENSION, max_size=DIMENSION),
)
def test_nearest_is_brute_force_over_what_was_added_last(
    added: list[tuple[list[int], int]], capacity: int, k: int, numbers: list[float]
) -> None:
    entries = Entries()
    cache = make(entries, capacity)
    for rows, span in added:
        cache.add([found(*rows)], span)
    # Every read is of new entries, so the last ones are what there is room for.
    expected = entries.read_rows[-capacity:]
    assert len(set(expected)) == len(expected) == len(cache)
    if not cache:
        assert not any(rows for rows, _ in added)
        return
    assert rows_of(cache) == sorted(expected)

    query = np.array(numbers, np.float32)
    near = cache.nearest(query, k)

    distances = ((KEYS[expected].astype(np.float64) - query) ** 2).sum(axis=1)
    order = np.argsort(distances)[:k]
    assert near.rows.tolist() == [expected[place] for place in order]
    assert near.distances == pytest.approx(distances[order], abs=1e-4)
    assert near.tokens.tolist() == TOKENS[near.rows].tolist()


@pytest.mark.parametrize("k", [1, 16, 400, N_ENTRIES, N_ENTRIES + 1])
def test_the_nearest_come_first(k: int) -> None:
    cache = make(Entries())
    cache.add([found(*range(N_ENTRIES))], span=0)
    distances = cache.nearest(np.ones(DIMENSION, np.float32), k).distances
    assert len(distances) == min(k, N_ENTRIES)
    assert (np.diff(distances) >= 0).all()


def test_the_nearest_of_many_have_room_before_those_behind_others() -> None:
    # One search may find more than there is room for: what it keeps must be near.
    cache = make(Entries(), capacity=20)
    nearest = [80, 5, 30, 50, 2, 60, 70, 15, 40, 20]
    cache.add([found(*nearest)], span=SPAN)
    assert set(nearest) <= set(rows_of(cache))
