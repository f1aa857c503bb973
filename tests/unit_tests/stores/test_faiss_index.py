from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
import torch  # noqa: F401 (forms need it loaded)
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_community.vectorstores.faiss import FAISS

from langchain_ralmspec import machine
from langchain_ralmspec.scans import BATCHES
from langchain_ralmspec.stores import FaissStore, Query, faiss_index
from tests.unit_tests.stores.conftest import Scanned, take
from tests.unit_tests.stores.faiss_toys import FLAT, IDS, N_ROWS, store_over
from tests.unit_tests.stores.toys import (
    DIMENSION,
    TableEmbeddings,
    best_ids,
    documents,
    some_queries,
    table,
)


def flat(n_rows: int = N_ROWS, kind: Any = faiss.IndexFlatIP) -> Any:
    index = kind(DIMENSION)
    index.add(table(n_rows))
    return index


def store_of(index: Any) -> FaissStore:
    n_rows = index.ntotal
    return FaissStore(index, documents(n_rows), TableEmbeddings(table(N_ROWS)))


def found_ids(store: FaissStore, n_queries: int, k: int) -> list[list[str]]:
    return [[h.id for h in hits] for hits in store.search(some_queries(n_queries), k)]


def expected_ids(n_queries: int, k: int, metric: str = "inner_product") -> Any:
    return [
        best_ids(vector, table(N_ROWS), IDS, k, metric)
        for vector in table(n_queries, seed=1)
    ]


@pytest.mark.parametrize("form", ["rival", "numpy", "torch", "bfloat16"])
@pytest.mark.parametrize("metric", FLAT)
@pytest.mark.parametrize("is_generic", [False, True])
def test_every_form_finds_the_same(
    form: str,
    metric: str,
    is_generic: bool,
    scanned: Scanned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take(monkeypatch, form)
    index = FLAT[metric](DIMENSION)
    if is_generic:
        index = faiss.IndexFlat(DIMENSION, index.metric_type)
    index.add(table(N_ROWS))
    store = store_of(index)
    expected = expected_ids(70, 5, metric)
    for is_prepared in (False, True):
        if is_prepared:
            store.prepare()
        scanned.clear()
        for n in (1, 2, 8, 9, 33, 70):
            assert found_ids(store, n, 5) == expected[:n]
        # One query is FAISS's, and so are batches that come unprepared.
        some = [2, 8, 9, 33, 70] if is_prepared and form != "rival" else []
        assert scanned == [(form, n) for n in some]
        assert store._index.scans_by_product == bool(some)
    assert store._index._known
    assert store._index._known.scan
    store._index._known.scan.chosen = dict.fromkeys(BATCHES, "numpy")
    assert store._index.scans_by_product


@pytest.mark.parametrize("k", [N_ROWS - 1, N_ROWS, N_ROWS + 1])
def test_a_scan_finds_all_rows_there_are(scanned: Scanned, k: int) -> None:
    store = store_of(flat())
    store.prepare()
    assert found_ids(store, 3, k) == expected_ids(3, k)
    assert scanned == [("bfloat16", 3)]


@settings(max_examples=30)
@given(data=st.data())
@pytest.mark.parametrize("metric", FLAT)
@pytest.mark.parametrize("form", ["faiss", "numpy", "torch", "bfloat16"])
def test_a_batch_equals_each_query_alone_with_duplicates(
    form: str, metric: str, data: st.DataObject
) -> None:
    n_rows = data.draw(st.integers(1, 80))
    n_distinct = data.draw(st.integers(1, 12))
    n_queries = data.draw(st.integers(1, 24))
    k = data.draw(st.integers(1, 40))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    distinct = generator.standard_normal((n_distinct, 8)).astype(np.float32)
    vectors = distinct[generator.integers(0, n_distinct, n_rows)]
    # Ids in an order of their own, so that row order cannot pass for id order.
    ids = [f"{number:03d}" for number in generator.permutation(n_rows)]
    store = store_over(FLAT[metric](8), vectors, ids)
    wanted = generator.standard_normal((n_queries, 8)).astype(np.float32)
    queries = [Query("q", vector) for vector in wanted]
    with pytest.MonkeyPatch.context() as patch:
        if form != "faiss":
            take(patch, form)
            store.prepare()
        together = store.search(queries, k, with_vectors=True)
        arrays = store.find(queries, k, depth=2, with_vectors=True)
    for query, hits, found in zip(queries, together, arrays, strict=True):
        scored = [(hit.id, hit.score) for hit in hits]
        assert scored == [(h.id, h.score) for h in store.search([query], k)[0]]
        assert query.vector is not None
        assert len({hit.score for hit in hits}) <= n_distinct
        assert [h.id for h in hits] == best_ids(query.vector, vectors, ids, k, metric)
        # The same, as arrays.
        assert scored == list(zip(found.ids, found.scores, strict=True))
        assert list(found.hits) == hits[:2]
        assert found.vectors is not None
        np.testing.assert_array_equal(found.vectors, [hit.vector for hit in hits])


def test_a_small_scan_is_left_to_faiss(
    scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(flat())
    store.prepare()
    numbers = 3 * N_ROWS * DIMENSION
    monkeypatch.setattr(faiss_index, "SMALL_SCAN", numbers + 1)
    store.search(some_queries(3), 1)
    assert scanned == []
    monkeypatch.setattr(faiss_index, "SMALL_SCAN", numbers)
    store.search(some_queries(3), 1)
    assert scanned == [("bfloat16", 3)]


class OtherLayout(faiss.IndexFlatIP):
    """Stands for IndexFlatPanorama, which older releases lack."""


@pytest.mark.parametrize(
    ("index", "metric"),
    [
        (OtherLayout(DIMENSION), "inner_product"),
        (faiss.IndexHNSWFlat(DIMENSION, 32, faiss.METRIC_INNER_PRODUCT), None),
    ],
)
def test_other_indexes_search_themselves(
    scanned: Scanned, index: Any, metric: str | None
) -> None:
    index.add(table(N_ROWS))
    store = store_of(index)
    store.prepare()
    found = found_ids(store, 3, 5)
    assert metric is None or found == expected_ids(3, 5, metric)
    assert scanned == []


def test_what_faiss_alone_can_do_is_left_to_it(scanned: Scanned) -> None:
    empty = FaissStore(faiss.IndexFlatIP(DIMENSION), [], TableEmbeddings(table(1)))
    empty.prepare()
    assert empty.search(some_queries(3), 2) == [[], [], []]
    allowed = np.arange(N_ROWS) % 3 == 1
    ours, three = faiss_index.FaissIndex(flat()), faiss_index.FaissIndex(flat(3))
    for each in (ours, three):
        each.prepare(None)
    found = ours.candidates(table(3, seed=1), 4, allowed)
    assert (found.rows % 3 == 1).all()
    found = three.candidates(table(2, seed=1), 5, None)
    assert (found.rows == -1).sum(axis=1).tolist() == [2, 2]
    filtered = FaissStore.from_langchain(
        FAISS.from_documents(documents(60), TableEmbeddings(table(60))), {"group": 1}
    )
    filtered.prepare()
    assert filtered._index._known is None
    filtered.search(some_queries(3), 2)
    assert scanned == []


def test_a_vector_that_is_no_number_hides_no_other(scanned: Scanned) -> None:
    vectors = table(N_ROWS)
    vectors[0] = np.nan
    index: Any = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    ours = faiss_index.FaissIndex(index)
    queries = table(3, seed=1)
    expected = [
        best_ids(query, vectors[1:], IDS[1:], 5, "inner_product") for query in queries
    ]
    for _ in range(5):
        found = ours.candidates(queries, 5, None)
        assert [[IDS[row] for row in rows] for rows in found.rows] == expected
        ours.prepare(None)
    assert scanned == [("bfloat16", 3)] * 3, "thrice in a row is no accident"
    ours.prepare(layout := object())
    ours.candidates(queries, 5, None, layout)
    assert len(scanned) == 4, "other rows may be numbers"


def test_a_query_that_a_scan_cannot_serve_costs_others_nothing(
    scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = faiss_index.FaissIndex(flat())
    ours.prepare(None)
    good, bad = table(4, seed=1), np.full((4, DIMENSION), np.nan, np.float32)
    for queries in (bad, good, bad, bad, good):
        ours.candidates(queries, 7, None)
    assert scanned == [("bfloat16", 4)] * 5
    for queries in (bad, bad, bad, good):  # three in a row are no accident
        ours.candidates(queries, 7, None)
    assert scanned == [("bfloat16", 4)] * 8


def test_a_scan_follows_the_index(
    scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = flat(100)
    ours = faiss_index.FaissIndex(index)

    def form() -> str:
        """Of a search that finds the right rows; empty where it is FAISS's own."""
        scanned.clear()
        vectors, queries = index.reconstruct_n(0, index.ntotal), table(4, seed=1)
        found = ours.candidates(queries, 7, None)
        expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :7]
        assert found.rows.tolist() == expected.tolist()
        np.testing.assert_array_equal(found.vectors, vectors[found.rows])
        return "".join(name for name, _ in scanned)

    ours.prepare(None)
    assert form() == "bfloat16"
    index.add(table(30, seed=2))
    assert form() == "bfloat16", "new rows are taken in"
    index.remove_ids(np.array([3]))
    index.add(table(1, seed=3))
    assert form() == "", "as many rows, but others"
    ours.prepare(None)
    assert form() == "bfloat16"
    monkeypatch.setattr(faiss_index, "has_room", lambda _: False)
    index.add(table(30, seed=4))
    assert form() == "", "there is no memory for more"
    ours.prepare(None)
    assert form() == "torch"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_a_deletion_nothing_is_left_to_the_sample(scanned: Scanned) -> None:
    vectors = table(60)
    vectors[40:] = vectors[40]
    store = FAISS.from_documents(documents(60), TableEmbeddings(vectors))
    ours = FaissStore.from_langchain(store)
    ours.prepare()
    ours.search(some_queries(3), 2)
    assert scanned == [("bfloat16", 3)]
    assert ours._index._known
    scan = ours._index._known.scan
    store.delete(["id036"])
    store.add_texts(["v40"], ids=["again"])
    assert scan
    assert scan.follow(store.index.reconstruct_n(0, 60)), "the sample is the same"
    ours.search(some_queries(3), 2)
    ours.prepare()
    ours.search(some_queries(3), 2)
    assert scanned[1:] == [("bfloat16", 3)]


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, None])
def test_without_memory_there_is_no_copy_and_no_harm(
    error: type[Exception] | None, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fail(*_: object) -> None:
        assert error
        raise error("no memory")

    def has_room(n_bytes: int) -> bool:
        asked.append(n_bytes)
        return bool(error)

    monkeypatch.setattr(faiss_index, "has_room", has_room)
    monkeypatch.setattr("langchain_ralmspec.scans.scan.BFloat16Rows", fail)
    store = store_of(flat())
    for _ in range(3):
        store.prepare()
        assert found_ids(store, 4, 5) == expected_ids(4, 5)
    assert asked == [2 * N_ROWS * DIMENSION], "it is not tried again"
    assert scanned == [("torch", 4)] * 3


def test_a_copy_takes_three_quarters_of_the_free_memory_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 400)
    assert faiss_index.has_room(300)
    assert not faiss_index.has_room(301)
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    assert faiss_index.has_room(1 << 60), "who knows"


@pytest.mark.parametrize("is_filtered", [False, True])
def test_an_inverted_index_answers_many_as_it_answers_each(
    is_filtered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, size, n = np.random.default_rng(7), 16, 3000
    # So that FAISS multiplies matrices for 20 queries and more.
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 20 * size)
    # Far from nothing, so that rounding shows in what is not done one by one.
    rows = np.asarray(600 + rng.integers(-9, 10, (n, size)) / 8, np.float32)
    near = rows[: 41 * 70 : 70] + rng.standard_normal((41, size)) / 9
    queries = np.asarray(near, np.float32)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(size), size, 54)
    index.train(rows)
    index.add(rows)
    index.nprobe = 2
    ours = faiss_index.FaissIndex(index)
    allowed = rng.random(n) < 0.8 if is_filtered else None
    alone = [ours.candidates(query[np.newaxis], 9, allowed) for query in queries]
    for many in (2, 19, 20, 21, 41):
        found = ours.candidates(queries[:many], 9, allowed)
        assert found.rows.tolist() == [one.rows[0].tolist() for one in alone[:many]]
        vectors = np.concatenate([one.vectors for one in alone[:many]])
        assert found.vectors.tobytes() == vectors.tobytes()


@pytest.mark.parametrize("is_filtered", [False, True])
def test_an_index_of_many_lists_answers_some_as_it_answers_each(
    is_filtered: bool,
) -> None:
    """Where there are threads, FAISS finds many lists otherwise for few queries."""
    rng, size, n = np.random.default_rng(7), 16, 12_000
    rows = np.asarray(600 + rng.standard_normal((n, size)), np.float32)
    near = rows[:80:2] + rng.standard_normal((40, size)) / 2
    queries = np.asarray(near, np.float32)
    centres = faiss.IndexFlatL2(size)
    centres.add(rows)
    index = faiss.IndexIVFFlat(centres, size, n)
    index.is_trained = True
    index.add(rows)
    index.nprobe = 3
    ours = faiss_index.FaissIndex(index)
    allowed = np.ones(n, np.bool_) if is_filtered else None
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        alone = [ours.candidates(query[np.newaxis], 3, allowed) for query in queries]
        together = ours.candidates(queries, 3, allowed)
    finally:
        faiss.omp_set_num_threads(n_threads)
    assert together.rows.tolist() == [one.rows[0].tolist() for one in alone]
