"""Verifications in flight: they overlap, are bounded, fail and end as they should."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.ralm import Event, Verified, flights, sequential, speculative
from langchain_ralmspec.ralm.writer import N_RECENT, ids_of
from langchain_ralmspec.speculation import Plan
from langchain_ralmspec.speculation.plan import SEQUENTIAL
from langchain_ralmspec.stores.base import Hit, Query
from tests.unit_tests.fakes import FakeStore, always, follow, make_request
from tests.unit_tests.ralm.test_identity import story

PATIENCE = 10.0  # seconds; only a broken loop waits so long


@dataclass
class GatedStore(FakeStore):
    """Answers the first call at once, and every later one when told to.

    With ``in_pairs`` the second call is answered when the third has come.
    """

    in_pairs: bool = False
    third: threading.Event = field(default_factory=threading.Event)
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
            number = self.n_calls
        self.asked.release()
        try:
            found = super().search(queries, k, with_vectors=with_vectors)
            if number == 3:
                self.third.set()
            if number > 1:
                gate = self.third if self.in_pairs and number == 2 else self.gate
                assert gate.wait(PATIENCE), "nobody opened the gate"
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


def test_the_model_writes_while_a_verification_is_out() -> None:
    store = GatedStore(n_documents=1)
    request = make_request(store, max_tokens=32, end_bias=-9)
    write, written = request.writer.write, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        if len(store.searches) > 1 and store.n_inside:
            written.append(len(store.searches))  # while the store is being asked
            store.gate.set()
        return write(*args, **kwargs)

    object.__setattr__(request, "writer", _Watched(request.writer, watched))
    # Synchronously this would wait for the gate that only writing opens.
    events = list(speculative(request, always(2, in_flight=1)))
    assert written
    assert any(isinstance(event, Verified) for event in events)
    assert none_left()


class _Watched:
    """A writer whose ``write`` is seen."""

    def __init__(self, writer: Any, write: Any) -> None:
        self._writer, self.write = writer, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


def test_no_more_calls_are_out_than_the_plan_allows() -> None:
    store = GatedStore(n_documents=1)
    request = make_request(store, max_tokens=60, stride=2, end_bias=-9)
    opener = threading.Thread(target=_open_when_asked, args=(store, 4))
    opener.start()
    list(speculative(request, always(1, "same", in_flight=3)))
    opener.join()
    assert store.most_inside == 3
    assert none_left()


def _open_when_asked(store: GatedStore, n_calls: int) -> None:
    for _ in range(n_calls):  # the first retrieval and three in flight
        assert store.asked.acquire(timeout=PATIENCE)
    time.sleep(0.05)  # a fourth would come now
    store.gate.set()


def test_a_synchronous_plan_makes_no_thread() -> None:
    request = make_request(FakeStore(n_documents=4), max_tokens=32, end_bias=-9)
    for _ in speculative(request, always(3)):
        assert not workers()


def test_a_store_that_dies_in_flight_is_an_error_and_leaves_no_thread() -> None:
    store = FakeStore(n_documents=4, fail_after=2, seconds=0.002)
    request = make_request(store, max_tokens=60, stride=2, end_bias=-9)
    told: list[int] = []
    with pytest.raises(StoreError, match="the store died"):
        _collect(speculative(request, always(2, "same", in_flight=2)), told)
    assert none_left()
    expected: list[int] = []
    slow = make_request(FakeStore(n_documents=4), max_tokens=60, stride=2, end_bias=-9)
    _collect(sequential(slow), expected)
    assert told == expected[: len(told)], "what was told before is right"


def _collect(events: Iterable[Event], tokens: list[int]) -> None:
    for event in events:
        if isinstance(event, Committed):
            tokens += event.tokens


def with_a_call_out(store: GatedStore) -> Generator[Event, None, None]:
    """An answer whose first verification was judged; the second hangs at the gate."""
    request = make_request(store, max_tokens=60, stride=2, end_bias=-9)
    events = speculative(request, always(1, "same", in_flight=2))
    while not isinstance(next(events), Verified):
        pass
    return events


def test_an_abandoned_answer_waits_for_no_call_and_starts_none() -> None:
    store = GatedStore(n_documents=1, in_pairs=True)
    events = with_a_call_out(store)
    events.close()
    assert workers(), "closing waited for the store"
    store.gate.set()
    assert none_left()
    assert len(store.searches) == 3


@dataclass
class PickyStore(FakeStore):
    """Refuses queries that the sequential loop does not ask."""

    known: frozenset[str] = frozenset()
    n_refused: int = 0

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        if any(query.text not in self.known for query in queries):
            self.n_refused += 1
            msg = "no such query"
            raise ConnectionError(msg)
        return super().search(queries, k, with_vectors=with_vectors)


@pytest.mark.parametrize("plan", [(1, "same", 4), (3, "same", 0), (3, "same", 2)])
def test_what_fails_behind_a_wrong_guess_is_nobodys_business(plan: Any) -> None:
    refused = 0
    for seed in range(20):
        asked: set[str] = set()
        plain = FakeStore(n_documents=9, seed=seed)
        encode = plain.encode
        plain.encode = lambda t, e=encode, a=asked: a.update(t) or e(t)  # type: ignore[method-assign,misc]
        settings: dict[str, Any] = {"max_tokens": 40, "end_bias": -9}
        slow = make_request(plain, **settings)
        expected = story(slow, sequential(slow))
        picky = PickyStore(n_documents=9, seed=seed, known=frozenset(asked))
        fast = make_request(picky, **settings)
        assert story(fast, speculative(fast, always(*plan))) == expected
        refused += picky.n_refused
    assert refused, "no call was ever made behind a wrong guess"


@pytest.mark.parametrize("plan", [(3, "lookup", 0), (3, "lookup", 2)])
@pytest.mark.parametrize("where", ["documents", "queries"])
def test_nor_is_what_cannot_be_written_or_embedded(plan: Any, where: str) -> None:
    """Under a wrong document a template, or behind it an encoder, may fail."""
    refused = 0
    for seed in range(20):
        asked: set[str] = set()
        shown: set[Any] = set()
        settings: dict[str, Any] = {"max_tokens": 40, "end_bias": -9}
        slow = make_request(FakeStore(n_documents=9, seed=seed), **settings)
        watch(slow, asked, shown)
        expected = story(slow, sequential(slow))
        dawdling = FakeStore(n_documents=9, seed=seed, seconds=0.003)
        fast = make_request(dawdling, **settings)
        if where == "documents":
            refusals = refuse(fast.writer, "open_path", Shown(fast.writer, shown))
        else:
            refusals = refuse(fast.session._store, "encode", asked.issuperset)
        assert story(fast, speculative(fast, always(*plan))) == expected
        refused += len(refusals)
    assert refused, "nothing was ever tried behind a wrong guess"


def place(writer: Any, hits: Any) -> tuple[Any, ...]:
    """Documents, and the answer that they are shown for."""
    return ids_of(hits), tuple(writer.transcript.tokens)


@dataclass
class Shown:
    """Accepts documents where the sequential loop has shown them."""

    writer: Any
    places: set[Any]

    def __call__(self, hits: Any) -> bool:
        return place(self.writer, hits) in self.places


def watch(request: Any, asked: set[str], shown: set[Any]) -> None:
    """Note the texts that are embedded and the documents that are shown."""
    encode, open_path = request.session._store.encode, request.writer.open_path

    def encoding(texts: Any) -> Any:
        asked.update(texts)
        return encode(texts)

    def opening(hits: Any) -> Any:
        shown.add(place(request.writer, hits))
        return open_path(hits)

    request.session._store.encode = encoding
    request.writer.open_path = opening


def refuse(owner: Any, name: str, accepts: Any) -> list[Any]:
    """Make a method fail on what is not accepted; returns what was refused."""
    method, refused = getattr(owner, name), []

    def picky(argument: Any) -> Any:
        if not accepts(argument):
            refused.append(argument)
            msg = f"cannot take {argument}"
            raise ValueError(msg)
        return method(argument)

    setattr(owner, name, picky)
    return refused


def opened_paths(request: Any) -> list[weakref.ref[Any]]:
    """References to every KV that the request will open."""
    paths: list[weakref.ref[Any]] = []
    open_path = request.writer.open_path

    def watched(hits: Any) -> Any:
        path = open_path(hits)
        paths.append(weakref.ref(path))
        return path

    request.writer.open_path = watched
    return paths


def test_an_answer_leaves_no_kv_behind() -> None:
    gc.disable()  # a cycle would keep it until the collector comes
    try:
        request = make_request(FakeStore(n_documents=9), max_tokens=40, end_bias=-9)
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


def test_leaving_waits_for_calls_that_read_memory_of_the_callers() -> None:
    store = GatedStore(n_documents=1, in_pairs=True)
    store.reads_shared_memory = True  # type: ignore[attr-defined]  # as FAISS does
    events = with_a_call_out(store)
    opener = threading.Timer(0.2, store.gate.set)
    opener.start()
    events.close()
    assert store.gate.is_set(), "closing did not wait for the store"
    assert not workers()


def test_leaving_waits_for_nothing_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A garbage collector that leaves may hold what the call waits for."""
    monkeypatch.setattr(flights, "_PATIENCE", 0.2)
    store = GatedStore(n_documents=1, in_pairs=True)
    store.reads_shared_memory = True  # type: ignore[attr-defined]
    events = with_a_call_out(store)
    events.close()
    assert workers(), "it went on without the call"
    store.gate.set()
    assert none_left()


def test_plans_may_change_while_calls_are_out() -> None:
    for seed in range(20):
        settings: dict[str, Any] = {"max_tokens": 60, "stride": 2, "end_bias": -9}
        slow = make_request(FakeStore(9, seed=seed), **settings)
        fast = make_request(FakeStore(9, seed=seed, seconds=0.003), **settings)
        plans = follow(
            Plan("same", 1, 4), Plan("lookup", 3, 1), Plan(), Plan("same", 2, 0)
        )
        assert story(fast, speculative(fast, plans)) == story(slow, sequential(slow))
        assert none_left()


def test_a_store_is_told_of_batches_before_they_come_and_not_else() -> None:
    store = FakeStore(n_documents=4)
    request = make_request(store, max_tokens=60, stride=2, end_bias=-9)
    list(speculative(request, follow(SEQUENTIAL, SEQUENTIAL, Plan("lookup", 3))))
    first_batch = next(n for n, size in enumerate(store.searches) if size > 1)
    assert 1 < store.prepared[0] <= first_batch
    store = FakeStore(n_documents=4)
    request = make_request(store, max_tokens=60, stride=2, end_bias=-9)
    list(speculative(request, follow(SEQUENTIAL, Plan("same", 1, 1))))
    assert store.searches
    assert not store.prepared, "of lone queries"
