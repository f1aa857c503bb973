"""Threads that search a FAISS index at once, and threads that FAISS takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import faiss
import pytest
import torch  # noqa: F401 (forms need it loaded)

from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.scans import Scan
from langchain_ralmspec.stores import faiss_index
from tests.unit_tests.stores.conftest import Scanned, take
from tests.unit_tests.stores.faiss_toys import IDS, N_ROWS, store_over
from tests.unit_tests.stores.test_faiss_index import (
    expected_ids,
    flat,
    found_ids,
    store_of,
)
from tests.unit_tests.stores.toys import (
    DIMENSION,
    some_queries,
    table,
)


@pytest.mark.parametrize("form", ["rival", "bfloat16"])
def test_threads_searching_at_once_get_their_own_answers(
    form: str, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, form)
    store = store_of(flat())
    store.prepare()
    expected = {n: expected_ids(n, 5) for n in (2, 5, 8, 40)}
    wrong: list[int] = []

    def work(n_queries: int) -> None:
        for number in range(30):
            if number == 10:
                store._index.prepare(object())  # other rows than those it knows
            if found_ids(store, n_queries, 5) != expected[n_queries]:
                wrong.append(n_queries)

    threads = [threading.Thread(target=work, args=(n,)) for n in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (len(scanned) > 0) == (form == "bfloat16")


def test_no_search_waits_for_another_thread_to_prepare(
    scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, may_go_on, prepare = threading.Event(), threading.Event(), Scan.prepare

    def slow(scan: Scan) -> None:
        started.set()
        may_go_on.wait(20)
        prepare(scan)

    monkeypatch.setattr(Scan, "prepare", slow)
    store = store_of(flat())
    thread = threading.Thread(target=store.prepare)
    thread.start()
    assert started.wait(20)
    store.prepare()
    assert found_ids(store, 4, 5) == expected_ids(4, 5)
    assert (scanned, thread.is_alive()) == ([], True)
    may_go_on.set()
    thread.join()
    assert found_ids(store, 4, 5) == expected_ids(4, 5)
    assert scanned == [("bfloat16", 4)]


def test_rows_that_another_thread_adds_before_a_scan_are_found(
    scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = flat(N_ROWS - 50)
    ours, candidates = faiss_index.FaissIndex(index), Scan.candidates
    ours.prepare(None)

    def overtaken(scan: Scan, queries: Any, k: int) -> Any:
        index.add(table(N_ROWS)[-50:])
        assert scan.follow(index.reconstruct_n(0, N_ROWS))
        return candidates(scan, queries, k)

    with monkeypatch.context() as patch:
        patch.setattr(Scan, "candidates", overtaken)
        found = ours.candidates(table(4, seed=1), 7, None)
    names = [[IDS[row] for row in rows] for rows in found.rows]
    assert names == expected_ids(4, 7)
    assert scanned == [("bfloat16", 4)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    earlier = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(earlier)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("fails", [False, True])
def test_a_lone_or_small_search_takes_one_thread_and_gives_the_others_back(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class SpyIndex(faiss.IndexFlatL2):
        def search_and_reconstruct(self, x: Any, k: int, **kwargs: Any) -> Any:
            seen.append(faiss.omp_get_max_threads())
            if fails:
                raise MemoryError("no room")
            return super().search_and_reconstruct(x, k, **kwargs)

    store = store_over(SpyIndex(DIMENSION), table(N_ROWS))
    failure = "FAISS failed to search: MemoryError"
    for small, n_queries in ((faiss_index.SMALL_SCAN, 8), (0, 1), (0, 8)):
        monkeypatch.setattr(faiss_index, "SMALL_SCAN", small)
        with pytest.raises(StoreError, match=failure) if fails else nullcontext():
            store.search(some_queries(n_queries), 1)
        assert faiss.omp_get_max_threads() == 2
    assert seen == [1, 1, 2]
