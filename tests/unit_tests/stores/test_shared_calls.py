"""Calls of a store that several requests share: how many, and whose answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.ralm import Session
from langchain_ralmspec.stores import shared_calls
from langchain_ralmspec.stores.base import Found, Query
from langchain_ralmspec.stores.shared_calls import SharedCalls, shared_calls_of
from tests.unit_tests.fakes import FakeStore

HANG = 30.0  # seconds; only what is broken takes so long


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_calls, "PATIENCE", HANG)


class Server:
    """Answers each query with its text; a call may be held, or fail."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.begun, self.gate = threading.Semaphore(0), threading.Event()
        self.refuses = ""

    def __call__(self, queries: Sequence[Query]) -> list[Found]:
        texts = [query.text for query in queries]
        self.calls.append(texts)
        self.begun.release()
        assert self.gate.wait(HANG)
        if self.refuses in texts:
            raise StoreError(f"{self.refuses!r} is refused")
        return [Found(ids=[text]) for text in texts]


def n_waiting(shared: SharedCalls) -> int:
    return sum(map(len, shared._waiting.values()))


def wait_for(shared: SharedCalls, n: int) -> None:
    pause = threading.Event()
    while n_waiting(shared) < n:
        pause.wait(0.001)


def asked(
    shared: SharedCalls, server: Server, owner: object, *texts: str, kind: Any = 1
) -> tuple[list[str], int]:
    queries = list(map(Query, texts))
    found, n_calls = shared.ask(queries, server, owner=owner, kind=kind)
    return [each.ids[0] for each in found], n_calls


def gathered(n: int, server: Server, kinds: Callable[[int], int]) -> list[Future[Any]]:
    """Requests, of which the first one's call is out while the others come."""
    shared = SharedCalls()
    with ThreadPoolExecutor(n) as pool:
        first = pool.submit(asked, shared, server, "0", "q0", kind=kinds(0))
        assert server.begun.acquire(timeout=HANG)
        others = [
            pool.submit(asked, shared, server, f"{i}", f"q{i}", kind=kinds(i))
            for i in range(1, n)
        ]
        wait_for(shared, sum(kinds(i) == kinds(0) for i in range(1, n)))
        server.gate.set()
    return [first, *others]


def test_who_comes_while_a_call_is_out_shares_the_next_one() -> None:
    server = Server()
    answers = gathered(8, server, lambda _: 1)
    assert [each.result()[0] for each in answers] == [[f"q{i}"] for i in range(8)]
    assert [len(call) for call in server.calls] == [1, 7]
    assert sum(each.result()[1] for each in answers) == 2


def test_calls_of_another_kind_are_not_shared() -> None:
    server = Server()
    answers = gathered(6, server, lambda i: i % 2)
    assert [each.result()[0] for each in answers] == [[f"q{i}"] for i in range(6)]
    for call in server.calls:
        assert len({int(text[1:]) % 2 for text in call}) == 1


def test_nobody_fails_for_the_query_of_another() -> None:
    server = Server()
    server.refuses = "q3"
    answers = gathered(5, server, lambda _: 1)
    with pytest.raises(StoreError, match="q3"):
        answers.pop(3).result()
    assert [each.result()[0] for each in answers] == [["q0"], ["q1"], ["q2"], ["q4"]]


def test_one_request_may_have_several_calls_out() -> None:
    server, shared = Server(), SharedCalls()
    with ThreadPoolExecutor(3) as pool:
        pool.submit(asked, shared, server, "a", "q0")
        assert server.begun.acquire(timeout=HANG)
        other = pool.submit(asked, shared, server, "b", "q1")
        wait_for(shared, 1)
        pool.submit(asked, shared, server, "a", "q2")  # and who waits goes with it
        assert server.begun.acquire(timeout=HANG)
        server.gate.set()
    assert other.result() == (["q1"], 0)
    assert server.calls == [["q0"], ["q1", "q2"]]


def test_a_call_that_hangs_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_calls, "PATIENCE", 0.01)
    server, quick, shared = Server(), Server(), SharedCalls()
    quick.gate.set()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asked, shared, server, "a", "q0")
        assert server.begun.acquire(timeout=HANG)
        try:
            assert asked(shared, quick, "b", "q1") == (["q1"], 1)
            monkeypatch.setattr(shared_calls, "PATIENCE", HANG)
            assert asked(shared, quick, "c", "q2") == (["q2"], 1)
        finally:
            server.gate.set()


def test_stores_of_other_filters_share_nothing_and_nor_do_local_ones() -> None:
    stores = [FakeStore(3), FakeStore(3)]
    assert shared_calls_of(stores[0]) is None
    for store in stores:
        vars(store)["shares_calls"] = True
    assert shared_calls_of(stores[0]) is shared_calls_of(stores[0])
    assert shared_calls_of(stores[0]) is not shared_calls_of(stores[1])


@given(seed=st.integers(0, 50), n=st.integers(2, 6), is_stable=st.booleans())
def test_answers_are_those_of_lone_sessions(seed: int, n: int, is_stable: bool) -> None:
    texts = [[f"{i} {place}" for place in range(4)] for i in range(n)]

    def answers(store: FakeStore, several: list[str]) -> Any:
        session = Session(store, depth=2)
        truth = [session.retrieve(several[0]).truth[0]]
        truth += session.verify([Query(text) for text in several[1:]])
        return [[hit.id for hit in hits] for hits in truth], session.stats

    def make() -> FakeStore:
        return FakeStore(9, top_k_is_stable=is_stable, seed=seed)

    lone = [answers(make(), several)[0] for several in texts]
    store = make()
    vars(store)["shares_calls"] = True
    with ThreadPoolExecutor(n) as pool:
        found = list(pool.map(lambda several: answers(store, several), texts))
    assert [ids for ids, _ in found] == lone
    assert sum(stats.store_calls for _, stats in found) == len(store.searches)
