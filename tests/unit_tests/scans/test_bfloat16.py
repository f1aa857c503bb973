"""Rounding picks candidates, and leaves none of the best rows out."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_community.vectorstores.faiss import FAISS
from numpy.typing import NDArray

from langchain_ralmspec.scans import bfloat16 as bfloat16_rows
from langchain_ralmspec.scans import candidates as rounded_scan
from langchain_ralmspec.scans.bfloat16 import BFloat16Rows, faster_copy
from langchain_ralmspec.stores import FaissStore, faiss_index
from langchain_ralmspec.stores.base import Metric
from tests.unit_tests.stores.toys import (
    DIMENSION,
    TableEmbeddings,
    documents,
    some_queries,
    table,
)

METRICS: tuple[Metric, ...] = ("inner_product", "squared_l2")
either_metric = pytest.mark.parametrize("metric", METRICS)


def ranked(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    width: int,
    metric: Metric,
) -> list[list[int]]:
    """Rows by exact score, equal ones by the lower row."""
    x, q = vectors.astype(np.float64), queries.astype(np.float64)
    scores = q @ x.T
    if metric == "squared_l2":
        scores = -((q[:, np.newaxis] - x) ** 2).sum(axis=2)
    order = np.lexsort((np.broadcast_to(np.arange(len(x)), scores.shape), -scores))
    found: list[list[int]] = order[:, :width].tolist()
    return found


@settings(max_examples=300)
@given(data=st.data())
def test_rows_are_those_of_brute_force(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(1, 120))
    n_queries = data.draw(st.integers(1, 33))
    width = data.draw(st.integers(1, n_rows))
    metric = data.draw(st.sampled_from(METRICS))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    # Whole numbers: float32 scores are exact, many are equal, and bfloat16 holds those
    # up to 256 only.
    most = data.draw(st.sampled_from([2, 900]))
    numbers = generator.integers(-most, most + 1, (n_rows + n_queries, 3))
    vectors, queries = np.split(numbers.astype(np.float32), [n_rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounded_scan, "GROUPS", data.draw(st.integers(1, 40)))
        patch.setattr(bfloat16_rows, "_BLOCK_ROWS", data.draw(st.integers(1, 130)))
        patch.setattr(bfloat16_rows, "_CONVERTED_ROWS", data.draw(st.integers(1, 9)))
        found = BFloat16Rows(torch, vectors, metric).best_rows(vectors, queries, width)
    assert found is not None
    assert found.rows.tolist() == ranked(vectors, queries, width, metric)
    np.testing.assert_array_equal(found.vectors, vectors[found.rows])
    assert not np.shares_memory(found.vectors, vectors)


@pytest.mark.parametrize(
    ("metric", "length"),
    [
        *(("inner_product", 1.0), ("inner_product", 1e-3), ("inner_product", 300.0)),
        # Float32 cannot tell distances of short vectors from a long one apart either.
        *(("squared_l2", 1.0), ("squared_l2", 300.0)),
    ],
)
def test_rows_that_rounding_cannot_tell_apart(metric: Metric, length: float) -> None:
    generator = np.random.default_rng(0)
    queries = generator.standard_normal((4, 64)).astype(np.float32)
    near = 1e-3 * generator.standard_normal((4, 500, 64))
    vectors = (queries[:, np.newaxis] + near).reshape(-1, 64).astype(np.float32)
    vectors *= length
    copy = BFloat16Rows(torch, vectors, metric)
    found = copy.best_rows(vectors, queries, 10)
    assert found is not None
    assert found.rows.tolist() == ranked(vectors, queries, 10, metric)
    rounded = torch.from_numpy(vectors).bfloat16().float().numpy()
    assert ranked(rounded, queries, 10, metric) != found.rows.tolist()


DOWN, UP = 1 + 2**-8 - 2**-20, 1 + 2**-8 + 2**-20  # round to 1 and to 1 + 2**-7


def test_no_score_is_further_off_than_said() -> None:
    # Both vectors lose as much as numbers can, and so does the product, 257.
    vectors = np.full((1, 257), DOWN, np.float32)
    copy = BFloat16Rows(torch, vectors, "inner_product")
    (error,) = copy._errors(vectors)
    scored = copy._scored(0, torch.from_numpy(-vectors).bfloat16())
    off = abs(float(scored[0, 0]) + 257 * DOWN**2)
    assert 0.98 * error < off <= error


def test_the_best_row_may_be_off_one_way_and_another_the_other() -> None:
    vectors = np.zeros((2, 259), np.float32)
    vectors[0, :258], vectors[0, 258] = DOWN, -1  # 258.008, scored as 256
    vectors[1, :257] = UP  # 258.004, scored as 260
    queries = np.ones((1, 259), np.float32)
    copy = BFloat16Rows(torch, vectors, "inner_product")
    scored = copy._scored(0, torch.from_numpy(-queries).bfloat16())
    assert scored.tolist() == [[-256, -260]]
    found = copy.best_rows(vectors, queries, 1)
    assert found is not None
    assert found.rows.tolist() == [[0]]


@settings(max_examples=200)
@given(data=st.data())
def test_nor_is_any_of_random_ones(data: st.DataObject) -> None:
    metric = data.draw(st.sampled_from(METRICS))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    shape = (9, data.draw(st.sampled_from([1, 3, 64, 1000])))
    signs = data.draw(st.sampled_from([(1.0,), (-1.0, 1.0)]))
    powers = 2.0 ** generator.integers(-6, 7, shape)
    # Near the middle between two numbers of bfloat16.
    numbers = powers * (1 + 2**-8 + generator.integers(-9, 10, shape) * 2.0**-16)
    numbers *= generator.choice(signs, shape)
    vectors = numbers.astype(np.float32)
    copy = BFloat16Rows(torch, vectors, metric)
    scored = copy._scored(0, torch.from_numpy(-vectors).bfloat16())
    x = vectors.astype(np.float64)
    exact = -x @ x.T
    if metric == "squared_l2":
        exact += (x * x).sum(axis=1) / 2
    assert (np.abs(scored - exact) <= copy._errors(vectors)[:, np.newaxis]).all()


@either_metric
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["rows", "queries"])
def test_numbers_that_are_not_finite_are_left_to_others(
    metric: Metric, bad: float, where: str
) -> None:
    vectors, queries = table(20), table(2, seed=1)
    {"rows": vectors, "queries": queries}[where][1, 0] = bad
    copy = BFloat16Rows(torch, vectors, metric)
    assert copy.is_finite == (where == "queries")
    assert copy.best_rows(vectors, queries, 3) is None


@either_metric
def test_a_product_that_is_coarser_than_said_is_refused(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = table(200), table(3, seed=1)
    copy = BFloat16Rows(torch, vectors, metric)
    assert copy.best_rows(vectors, queries, 3) is not None
    multiply = torch.mm

    def coarse(left: Any, right: Any, *, out: Any) -> Any:
        return multiply(left, right, out=out).mul_(1.1)

    monkeypatch.setattr(torch, "mm", coarse)
    assert copy.best_rows(vectors, queries, 3) is None


def test_too_many_candidates_are_left_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, queries = np.ones((40, 3), np.float32), np.ones((2, 3), np.float32)
    copy = BFloat16Rows(torch, vectors, "inner_product")
    assert copy.best_rows(vectors, queries, 3) is not None
    monkeypatch.setattr(bfloat16_rows, "_MOST_CANDIDATES", 39)
    assert copy.best_rows(vectors, queries, 3) is None
    assert copy.best_rows(vectors, queries, 40) is not None, "so many were wanted"


@either_metric
@pytest.mark.parametrize("n_before", [1, 16, 17, 40])
def test_rows_may_be_added(
    n_before: int, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16_rows, "_BLOCK_ROWS", 16)
    vectors, queries = table(60), table(3, seed=1)
    copy = BFloat16Rows(torch, vectors[:n_before], metric)
    for n in (n_before + 1, n_before + 2, 60):
        assert copy.is_of(vectors[:n])
        assert copy.extend(vectors[:n])
        assert len(copy) == n
        found = copy.best_rows(vectors[:n], queries, 2)
        assert found is not None
        assert found.rows.tolist() == ranked(vectors[:n], queries, 2, metric)


def test_rows_that_are_no_numbers_or_too_many_end_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = table(60)
    copy = BFloat16Rows(torch, vectors[:50], "inner_product")
    monkeypatch.setattr(bfloat16_rows, "free_memory", lambda: 2 * 10 * DIMENSION)
    assert not copy.extend(vectors), "they would take all of it"
    monkeypatch.undo()
    vectors[55] = np.nan
    assert not copy.extend(vectors)


def test_other_rows_are_mostly_told_by_a_sample() -> None:
    vectors = table(60)
    copy = BFloat16Rows(torch, vectors, "inner_product")
    assert not copy.is_of(vectors[:-1])
    for removed in (0, 31, 59):
        kept = np.delete(vectors, removed, axis=0)
        assert not copy.is_of(np.concatenate([kept, table(1, seed=7)]))
        # Even if what is added at the end is what was there.
        assert copy.is_of(np.concatenate([kept, vectors[-1:]])) == (removed == 59)
    shifted = np.delete(vectors, 58, axis=0)
    assert not copy.is_of(np.concatenate([shifted, shifted[-1:]]))
    vectors[40:] = vectors[40]  # the last ones are the same, moved or not
    copy = BFloat16Rows(torch, vectors, "inner_product")
    assert not copy.is_of(np.concatenate([vectors[:5], vectors[6:], vectors[-1:]]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_a_deletion_nothing_is_left_to_the_sample(scanned: list[int]) -> None:
    documents_ = documents(60)
    vectors = table(60)
    vectors[40:] = vectors[40]
    for row, document in enumerate(documents_):
        document.page_content = f"v{row}"
    store = FAISS.from_documents(documents_, TableEmbeddings(vectors))
    ours = FaissStore.from_langchain(store)
    ours.prepare()
    ours.search(some_queries(3), 2)
    assert scanned == [3]
    assert ours._index._copied is not None
    copy, _ = ours._index._copied
    store.delete(["id036"])
    store.add_texts(["v40"], ids=["again"])
    assert copy.is_of(store.index.reconstruct_n(0, 60)), "the sample is the same"
    ours.search(some_queries(3), 2)
    assert scanned == [3]
    ours.prepare()
    ours.search(some_queries(3), 2)
    assert scanned == [3, 3]


def test_there_is_a_copy_where_it_is_faster_and_there_is_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([1.0, 2.0] * 3 + [2.0, 1.0])
    monkeypatch.setattr(bfloat16_rows, "least_seconds", lambda _: next(seconds))
    vectors = table(100)
    assert faster_copy(torch, vectors, "inner_product") is not None
    monkeypatch.setattr(bfloat16_rows, "free_memory", lambda: None)
    assert faster_copy(torch, vectors, "inner_product") is not None, "who knows"
    monkeypatch.setattr(bfloat16_rows, "free_memory", lambda: 2 * vectors.size)
    assert faster_copy(torch, vectors, "inner_product") is None, "it would not fit"
    monkeypatch.setattr(bfloat16_rows, "free_memory", lambda: None)
    broken = vectors.copy()
    broken[-1, 0] = np.inf
    monkeypatch.setattr(bfloat16_rows, "_TRIAL_ROWS", 50)
    assert faster_copy(torch, broken, "inner_product") is None, "it is of no use"
    assert faster_copy(torch, vectors, "inner_product") is None, "it is slower"


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Queries of every scan of a copy; there is one of the smallest index now."""
    seen: list[int] = []
    best_rows = BFloat16Rows.best_rows

    def spy(self: BFloat16Rows, vectors: Any, queries: Any, width: int) -> Any:
        seen.append(len(queries))
        return best_rows(self, vectors, queries, width)

    monkeypatch.setattr(faiss_index, "SMALL_MATRIX", 0)
    monkeypatch.setattr(faiss_index, "faster_copy", BFloat16Rows)
    monkeypatch.setattr(BFloat16Rows, "best_rows", spy)
    return seen


@pytest.mark.parametrize("kind", [faiss.IndexFlatIP, faiss.IndexFlatL2])
def test_a_prepared_store_finds_the_same(kind: Any, scanned: list[int]) -> None:
    index = kind(DIMENSION)
    index.add(table(200))
    store = FaissStore(index, documents(200), TableEmbeddings(table(200)))
    expected = {n: store.search(some_queries(n), 5) for n in (1, 2, 8, 33, 70)}
    assert not scanned, "nothing was prepared"
    store.prepare()
    for n, hits in expected.items():
        assert store.search(some_queries(n), 5) == hits
    assert scanned == [2, 8, 33], "one is FAISS's, and so are very many"


def test_a_query_that_the_copy_cannot_serve_costs_others_nothing(
    scanned: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16_rows, "_MOST_CANDIDATES", 90)
    index: Any = faiss.IndexFlatIP(DIMENSION)
    index.add(table(100))
    ours = faiss_index.FaissIndex(index)
    ours.prepare(None)
    good, bad = table(4, seed=1), np.zeros((4, DIMENSION), np.float32)
    for queries in (bad, good, bad, bad, good):
        found = ours.candidates(queries, 7, None)
        vectors = index.reconstruct_n(0, index.ntotal)
        assert found.rows.tolist() == ranked(vectors, queries, 7, "inner_product")
    assert scanned == [4] * 5
    for queries in (bad, bad, bad, good):  # three in a row are no accident
        ours.candidates(queries, 7, None)
    assert scanned == [4] * 8


def test_room_for_rows_is_that_of_the_block_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bfloat16_rows, "_BLOCK_ROWS", 50)
    asked: list[int] = []

    def has_room(n_numbers: int) -> bool:
        asked.append(n_numbers // DIMENSION)
        return True

    monkeypatch.setattr(bfloat16_rows, "_has_room", has_room)
    vectors = table(170)
    copy = BFloat16Rows(torch, vectors[:20], "inner_product")
    for n in (21, 40, 51, 51, 170):
        assert copy.extend(vectors[:n])
    # 20 become a block of 50; the 51st row is a block of one, which must grow then.
    assert asked == [50, 0, 1, 0, 50 + 70]


def test_a_copy_follows_the_index(scanned: list[int]) -> None:
    index: Any = faiss.IndexFlatIP(DIMENSION)  # its stubs want a selector
    index.add(table(100))
    ours = faiss_index.FaissIndex(index)
    queries = table(4, seed=1)

    def is_right() -> bool:
        vectors = index.reconstruct_n(0, index.ntotal)
        found = ours.candidates(queries, 7, None)
        expected = ranked(vectors, queries, 7, "inner_product")
        return bool(found.rows.tolist() == expected)

    ours.prepare(None)
    assert is_right()
    assert scanned == [4]
    index.add(table(30, seed=2))
    assert is_right()
    assert scanned == [4], "it does not know the new rows yet"
    ours.prepare(None)
    assert is_right()
    assert scanned == [4, 4]
    index.remove_ids(np.array([3]))
    index.add(table(1, seed=3))
    assert is_right()
    assert scanned == [4, 4], "as many rows, but others"
    ours.prepare(None)
    assert is_right()
    assert scanned == [4, 4, 4]


def test_what_does_not_pay_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(faiss_index, "SMALL_MATRIX", 0)
    monkeypatch.setattr(
        faiss_index, "faster_copy", lambda _, vectors, __: tried.append(len(vectors))
    )
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(table(100))
    ours = faiss_index.FaissIndex(index)
    for _ in range(3):
        ours.prepare(None)
    assert tried == [100]
    assert ours.candidates(table(4, seed=1), 7, None).rows.shape == (4, 7)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_without_memory_there_is_no_copy_and_no_harm(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error("no memory")

    monkeypatch.setattr(faiss_index, "SMALL_MATRIX", 0)
    monkeypatch.setattr(faiss_index, "faster_copy", fail)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(table(100))
    store = FaissStore(index, documents(100), TableEmbeddings(table(100)))
    expected = store.search(some_queries(4), 5)
    store.prepare()
    assert store.search(some_queries(4), 5) == expected


def test_a_copy_that_is_scanned_for_nothing_goes(
    scanned: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(table(100))
    store = FaissStore(index, documents(100), TableEmbeddings(table(100)))
    expected = store.search(some_queries(4), 5)
    store.prepare()
    monkeypatch.setattr(bfloat16_rows, "_MOST_CANDIDATES", 0)
    monkeypatch.setattr(rounded_scan, "_BFLOAT16_ROUNDING", 9.0)
    for _ in range(5):
        assert store.search(some_queries(4), 5) == expected
        store.prepare()
    assert scanned == [4] * 3, "thrice in a row is no accident"


def test_a_filtered_store_makes_no_copy(scanned: list[int]) -> None:
    store = FAISS.from_documents(documents(60), TableEmbeddings(table(60)))
    ours = FaissStore.from_langchain(store, {"group": 1})
    ours.prepare()
    assert ours._index._copied is None
    ours.search(some_queries(3), 2)
    assert not scanned


def test_settings_of_the_thread_that_prepares_do_not_matter() -> None:
    vectors, queries = table(60), table(3, seed=1)
    with torch.inference_mode():
        copy = BFloat16Rows(torch, vectors, "inner_product")
        assert copy.best_rows(vectors, queries, 2) is not None
    assert copy.best_rows(vectors, queries, 2) is not None
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        copy = BFloat16Rows(torch, vectors, "inner_product")
        found = copy.best_rows(vectors, queries, 2)
    finally:
        torch.set_default_device(before)
    assert found is not None
    assert found.rows.tolist() == ranked(vectors, queries, 2, "inner_product")
