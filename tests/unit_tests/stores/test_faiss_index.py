from __future__ import annotations

import sys
import threading
from typing import Any

import faiss
import numpy as np
import pytest
import torch  # noqa: F401 (the route needs it loaded)
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_ralmspec.scans.product import best_rows
from langchain_ralmspec.stores import FaissStore, Query, faiss_index
from tests.unit_tests.stores.toys import (
    DIMENSION,
    TableEmbeddings,
    best_ids,
    documents,
    some_queries,
    table,
)

N_ROWS = 200
IDS = [f"id{row:03d}" for row in range(N_ROWS)]

Products = list[tuple[str, int]]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Products:
    """Who made each product, of how many queries; the smallest index now takes one."""
    seen: Products = []

    def spy(module: Any, vectors: Any, queries: Any, width: int) -> Any:
        seen.append(("numpy" if module is None else "torch", len(queries)))
        return best_rows(module, vectors, queries, width)

    monkeypatch.setattr(faiss_index, "SMALL_MATRIX", 0)
    monkeypatch.setattr(faiss_index, "best_rows", spy)
    return seen


def store_of(index: Any) -> FaissStore:
    index.add(table(N_ROWS))
    return FaissStore(index, documents(N_ROWS), TableEmbeddings(table(N_ROWS)))


def found_ids(store: FaissStore, n_queries: int, k: int) -> list[list[str]]:
    return [[h.id for h in hits] for hits in store.search(some_queries(n_queries), k)]


def expected_ids(n_queries: int, k: int, metric: str = "inner_product") -> Any:
    return [
        best_ids(vector, table(N_ROWS), IDS, k, metric)
        for vector in table(n_queries, seed=1)
    ]


def test_torch_takes_2_to_8_queries_and_numpy_9_to_64(products: Products) -> None:
    store = store_of(faiss.IndexFlatIP(DIMENSION))
    expected = expected_ids(66, 5)
    for n_queries in range(1, 67):
        assert found_ids(store, n_queries, 5) == expected[:n_queries]
    by_torch = [("torch", n) for n in range(2, 9)]
    by_numpy = [("numpy", n) for n in range(9, 65)]
    assert products == by_torch + by_numpy


@pytest.mark.parametrize("k", [N_ROWS - 1, N_ROWS, N_ROWS + 1])
def test_product_finds_all_rows_there_are(products: Products, k: int) -> None:
    store = store_of(faiss.IndexFlatIP(DIMENSION))
    assert found_ids(store, 3, k) == expected_ids(3, k)
    assert products == [("torch", 3)]


@settings(max_examples=100)
@given(data=st.data())
def test_product_equals_each_query_alone_with_duplicates(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(1, 80))
    n_distinct = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, 40))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    distinct = generator.standard_normal((n_distinct, 8)).astype(np.float32)
    vectors = distinct[generator.integers(0, n_distinct, n_rows)]
    # Ids in an order of their own, so that row order cannot pass for id order.
    ids = [f"{number:03d}" for number in generator.permutation(n_rows)]
    index = faiss.IndexFlatIP(8)
    index.add(vectors)
    docs = [Document(page_content=id_) for id_ in ids]
    store = FaissStore(index, docs, TableEmbeddings(vectors), ids=ids)
    wanted = generator.standard_normal((data.draw(st.integers(2, 20)), 8))
    queries = [Query("q", vector) for vector in wanted.astype(np.float32)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_index, "SMALL_MATRIX", 0)
        together = store.search(queries, k)
    for query, hits in zip(queries, together, strict=True):
        alone = store.search([query], k)[0]
        assert [(h.id, h.score) for h in hits] == [(h.id, h.score) for h in alone]
        assert isinstance(query.vector, np.ndarray)
        assert [h.id for h in hits] == best_ids(
            query.vector, vectors, ids, k, "inner_product"
        )


def test_small_index_is_left_to_faiss(
    products: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(faiss.IndexFlatIP(DIMENSION))
    numbers = N_ROWS * DIMENSION
    monkeypatch.setattr(faiss_index, "SMALL_MATRIX", numbers + 1)
    store.search(some_queries(3), 1)
    assert products == []
    monkeypatch.setattr(faiss_index, "SMALL_MATRIX", numbers)
    store.search(some_queries(3), 1)
    assert products == [("torch", 3)]


def test_empty_index_is_not_asked(products: Products) -> None:
    index = faiss.IndexFlatIP(DIMENSION)
    store = FaissStore(index, [], TableEmbeddings(table(1)))
    assert store.search(some_queries(3), 2) == [[], [], []]
    assert products == []


def test_generic_flat_index_is_a_matrix_too(products: Products) -> None:
    store = store_of(faiss.IndexFlat(DIMENSION, faiss.METRIC_INNER_PRODUCT))
    assert found_ids(store, 3, 5) == expected_ids(3, 5)
    assert products == [("torch", 3)]


class OtherLayout(faiss.IndexFlatIP):
    """Stands for IndexFlatPanorama, which older releases lack."""


@pytest.mark.parametrize(
    ("index", "metric"),
    [
        (faiss.IndexFlatL2(DIMENSION), "squared_l2"),
        (faiss.IndexFlat(DIMENSION, faiss.METRIC_L2), "squared_l2"),
        (OtherLayout(DIMENSION), "inner_product"),
        (faiss.IndexHNSWFlat(DIMENSION, 32, faiss.METRIC_INNER_PRODUCT), None),
    ],
)
def test_other_indexes_search_themselves(
    products: Products, index: Any, metric: str | None
) -> None:
    found = found_ids(store_of(index), 3, 5)
    assert metric is None or found == expected_ids(3, 5, metric)
    assert products == []


def test_filtered_search_is_left_to_faiss(products: Products) -> None:
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(table(N_ROWS))
    allowed = np.arange(N_ROWS) % 3 == 1
    found = faiss_index.FaissIndex(index).candidates(table(3, seed=1), 4, allowed)
    assert (found.rows % 3 == 1).all()
    assert products == []


def test_more_rows_than_there_are_is_left_to_faiss(products: Products) -> None:
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(table(3))
    found = faiss_index.FaissIndex(index).candidates(table(2, seed=1), 5, None)
    assert (found.rows == -1).sum(axis=1).tolist() == [2, 2]
    assert products == []


def test_without_torch_faiss_takes_2_to_8_queries_and_numpy_9_to_64(
    products: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    store = store_of(faiss.IndexFlatIP(DIMENSION))
    expected = expected_ids(66, 5)
    for n_queries in range(1, 67):
        assert found_ids(store, n_queries, 5) == expected[:n_queries]
    assert products == [("numpy", n) for n in range(9, 65)]


@pytest.mark.parametrize(("by", "n_queries"), [("torch", 3), ("numpy", 9)])
def test_a_vector_that_is_no_number_hides_no_other(
    products: Products, by: str, n_queries: int
) -> None:
    vectors = table(N_ROWS)
    vectors[0] = np.nan
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    queries = table(n_queries, seed=1)
    found = faiss_index.FaissIndex(index).candidates(queries, 5, None)
    ids = [[IDS[row] for row in rows] for rows in found.rows]
    assert ids == [
        best_ids(query, vectors[1:], IDS[1:], 5, "inner_product") for query in queries
    ]
    assert products == [(by, n_queries)]


def test_threads_searching_at_once_get_their_own_answers(products: Products) -> None:
    store = store_of(faiss.IndexFlatIP(DIMENSION))
    expected = {n: expected_ids(n, 5) for n in (2, 5, 8, 16)}
    wrong: list[int] = []

    def work(n_queries: int) -> None:
        found = [found_ids(store, n_queries, 5) for _ in range(30)]
        wrong.extend(n_queries for ids in found if ids != expected[n_queries])

    threads = [threading.Thread(target=work, args=(n,)) for n in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(products) == 4 * 30
