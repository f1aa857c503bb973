"""Verifications in flight: they overlap, are bounded, fail and end as they should."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.ralm import Event, Verified, flights, sequential, speculative
from langchain_ralmspec.ralm.hits import ids_of
from langchain_ralmspec.ralm.writer import N_RECENT
from langchain_ralmspec.speculation import Plan
from langchain_ralmspec.speculation.plan import SEQUENTIAL
from langchain_ralmspec.stores.base import Hit, Query
from langchain_ralmspec.stores.call_threads import CallThreads
from tests.unit_tests.fakes import (
    FakePath,
    FakeStore,
    always,
    follow,
    make_request,
    wrap,
)
from tests.unit_tests.ralm.test_identity import story

PATIENCE = 30.0  # seconds; only a broken loop waits so long
SHORT: dict[str, Any] = {"max_tokens": 40, "end_bias": -9}
LONG: dict[str, Any] = {"max_tokens": 60, "stride": 2, "end_bias": -9}


@dataclass
class GatedStore(FakeStore):
    """Answers the first call at once, and every later one when the gate opens.

    A call with the query ``early`` is answered as soon as ``late`` is asked.
    """

    early: str | None = None
    late: str | None = None
    late_is_asked: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    n_calls: int = 0
    n_inside: int = 0
    most_inside: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        with self.lock:
            self.n_inside += 1
            self.most_inside = max(self.most_inside, self.n_inside)
            self.n_calls += 1
            is_first = self.n_calls == 1
        self.asked.release()
        try:
            found = super().search(queries, k, with_vectors=with_vectors)
            texts = [query.text for query in queries]
            if self.late in texts:
                self.late_is_asked.set()
            gate = self.late_is_asked if self.early in texts else self.gate
            assert is_first or gate.wait(PATIENCE), "nobody opened the gate"
            return found
        finally:
            with self.lock:
                self.n_inside -= 1


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("ralmspec-verify")]


def none_left() -> bool:
    deadline = time.monotonic() + PATIENCE
    while workers() and time.monotonic() < deadline:
        time.sleep(0.005)
    return not workers()


def test_the_model_writes_while_a_verification_is_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = GatedStore(n_documents=1)
    request = make_request(store, max_tokens=32, end_bias=-9)
    extend, start = FakePath.extend, CallThreads.start
    sent: list[CallThreads] = []
    written: list[int] = []

    def sending(threads: CallThreads, *args: Any) -> Any:
        sent.append(threads)
        return start(threads, *args)

    def watched(path: FakePath, tokens: Sequence[int]) -> NDArray[np.float32]:
        if sent and not written:
            for _ in range(2):  # the first retrieval, and what was sent
                assert store.asked.acquire(timeout=PATIENCE)
            written.append(store.n_inside)  # while the store is being asked
            store.gate.set()
        return extend(path, tokens)

    monkeypatch.setattr(CallThreads, "start", sending)
    monkeypatch.setattr(FakePath, "extend", watched)
    # Synchronously this would wait for the gate that only writing opens.
    events = list(speculative(request, always(2, in_flight=1)))
    assert written == [1]
    assert any(isinstance(event, Verified) for event in events)
    assert none_left()


def test_no_more_calls_are_out_than_the_plan_allows() -> None:
    store = GatedStore(n_documents=1)

    def open_when_asked() -> None:
        for _ in range(4):  # the first retrieval and three in flight
            assert store.asked.acquire(timeout=PATIENCE)
        time.sleep(0.05)  # a fourth would come now
        store.gate.set()

    opener = threading.Thread(target=open_when_asked)
    opener.start()
    list(speculative(make_request(store, **LONG), always(1, "same", in_flight=3)))
    opener.join()
    assert store.most_inside == 3
    assert none_left()


def test_a_synchronous_plan_makes_no_thread() -> None:
    request = make_request(FakeStore(n_documents=4), max_tokens=32, end_bias=-9)
    for _ in speculative(request, always(3)):
        assert not workers()


def test_a_store_that_dies_in_flight_is_an_error_and_leaves_no_thread() -> None:
    request = make_request(FakeStore(4, fail_after=2, seconds=0.002), **LONG)
    told: list[int] = []
    with pytest.raises(StoreError, match="the store died"):
        _collect(speculative(request, always(2, "same", in_flight=2)), told)
    assert none_left()
    expected: list[int] = []
    _collect(sequential(make_request(FakeStore(n_documents=4), **LONG)), expected)
    assert told == expected[: len(told)], "what was told before is right"


def _collect(events: Iterable[Event], tokens: list[int]) -> None:
    for event in events:
        if isinstance(event, Committed):
            tokens += event.tokens


def with_a_call_out(store: GatedStore) -> Generator[Event, None, None]:
    """An answer whose first verification was judged; the second hangs at the gate."""
    plain = make_request(FakeStore(n_documents=1), **LONG)
    asked, _ = watch(plain)
    list(sequential(plain))
    _, store.early, store.late, *_ = asked
    events = speculative(make_request(store, **LONG), always(1, "same", in_flight=2))
    while not isinstance(next(events), Verified):
        pass
    return events


def test_an_abandoned_answer_waits_for_no_call_and_starts_none() -> None:
    store = GatedStore(n_documents=1)
    with_a_call_out(store).close()
    assert workers(), "closing waited for the store"
    store.gate.set()
    assert none_left()
    assert len(store.searches) == 3


def test_leaving_waits_for_calls_that_read_memory_of_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flights, "_PATIENCE", PATIENCE)
    store = GatedStore(n_documents=1)
    store.reads_shared_memory = True  # type: ignore[attr-defined]  # as FAISS does
    events = with_a_call_out(store)
    threading.Timer(0.2, store.gate.set).start()
    events.close()
    assert store.gate.is_set(), "closing did not wait for the store"
    assert not store.n_inside
    assert none_left()


def test_leaving_waits_for_nothing_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A garbage collector that leaves may hold what the call waits for."""
    monkeypatch.setattr(flights, "_PATIENCE", 0.2)
    store = GatedStore(n_documents=1)
    store.reads_shared_memory = True  # type: ignore[attr-defined]
    with_a_call_out(store).close()
    assert workers(), "it went on without the call"
    store.gate.set()
    assert none_left()


@pytest.mark.parametrize(
    ("where", "plan"),
    [
        *product(["searches"], [(1, "same", 4), (3, "same", 0), (3, "same", 2)]),
        # Under a wrong document a template, or behind it an encoder, may fail.
        *product(["documents", "queries"], [(3, "lookup", 0), (3, "lookup", 2)]),
    ],
)
def test_what_fails_behind_a_wrong_guess_is_nobodys_business(
    where: str, plan: Any
) -> None:
    refused = 0
    for seed in range(20):
        slow = make_request(FakeStore(n_documents=9, seed=seed), **SHORT)
        asked, shown = watch(slow)
        expected = story(slow, sequential(slow))
        fast = make_request(FakeStore(9, seed=seed, seconds=0.003), **SHORT)
        refusals = refuse_others(fast, where, asked, shown)
        assert story(fast, speculative(fast, always(*plan))) == expected
        refused += len(refusals)
    assert refused, "nothing was ever tried behind a wrong guess"


def place(writer: Any, hits: Any) -> tuple[Any, ...]:
    """Documents, and the answer that they are shown for."""
    return ids_of(hits), tuple(writer.transcript.tokens)


def watch(request: Any) -> tuple[list[str], set[Any]]:
    """The texts that will be embedded, and the places of documents that are shown."""
    asked: list[str] = []
    shown: set[Any] = set()
    wrap(request.session._store, "encode", asked.extend)
    wrap(request.writer, "open_branch", lambda h: shown.add(place(request.writer, h)))
    return asked, shown


def refuse_others(
    request: Any, where: str, asked: list[str], shown: set[Any]
) -> list[Any]:
    """Make a request fail on what another had not; returns what will be refused."""
    refused: list[Any] = []
    store, writer = request.session._store, request.writer

    def require(right: bool, argument: Any) -> None:
        if not right:
            refused.append(argument)
            msg = f"cannot take {argument}"
            raise ValueError(msg)

    def require_asked(queries: list[Query], _: int) -> None:
        require({query.text for query in queries} <= set(asked), queries)

    if where == "searches":
        wrap(store, "search", require_asked)
    elif where == "queries":
        wrap(store, "encode", lambda texts: require(set(texts) <= set(asked), texts))
    else:
        wrap(writer, "open_branch", lambda h: require(place(writer, h) in shown, h))
    return refused


def opened_paths(request: Any) -> list[weakref.ref[Any]]:
    """References to every KV that the request will open."""
    paths: list[weakref.ref[Any]] = []
    open_branch = request.writer.open_branch

    def watched(hits: Any) -> Any:
        branch = open_branch(hits)
        paths.append(weakref.ref(branch.path))
        return branch

    request.writer.open_branch = watched
    return paths


def test_an_answer_leaves_no_kv_behind() -> None:
    gc.disable()  # a cycle would keep it until the collector comes
    try:
        request = make_request(FakeStore(n_documents=9), **SHORT)
        paths = opened_paths(request)
        for _ in speculative(request, always(2, "same", in_flight=1)):
            pass
        del request
        assert paths
        assert none_left()
        assert all(path() is None for path in paths)
    finally:
        gc.enable()


def test_a_long_answer_keeps_no_more_kv_for_having_been_guessed() -> None:
    """What a branch has replaced is let go of as soon as nobody can go back to it."""
    for seed in range(8):
        request = make_request(FakeStore(9, seed=seed), max_tokens=300, end_bias=-9)
        paths = opened_paths(request)
        list(speculative(request, always(16, "lookup")))
        assert sum(path() is not None for path in paths) <= N_RECENT + 1


def test_plans_may_change_while_calls_are_out() -> None:
    for seed in range(20):
        slow = make_request(FakeStore(9, seed=seed), **LONG)
        fast = make_request(FakeStore(9, seed=seed, seconds=0.003), **LONG)
        plans = follow(
            Plan("same", 1, 4), Plan("lookup", 3, 1), Plan(), Plan("same", 2, 0)
        )
        assert story(fast, speculative(fast, plans)) == story(slow, sequential(slow))
        assert none_left()


def test_a_store_is_told_of_batches_before_they_come_and_not_else() -> None:
    store = FakeStore(n_documents=4)
    batches = follow(SEQUENTIAL, SEQUENTIAL, Plan("lookup", 3))
    list(speculative(make_request(store, **LONG), batches))
    first_batch = next(n for n, size in enumerate(store.searches) if size > 1)
    assert 1 < store.prepared[0] <= first_batch
    store = FakeStore(n_documents=4)
    lone = follow(SEQUENTIAL, Plan("same", 1, 1))
    list(speculative(make_request(store, **LONG), lone))
    assert store.searches
    assert not store.prepared, "of lone queries"
