"""Calls that hang are given up: in time, without what they hold, and for good."""

import contextvars
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    BM25Store,
    RaLMSpecRetriever,
    SentenceTransformerEmbeddings,
    StoreError,
    StoreTimeoutError,
)
from langchain_ralmspec.ralm import Session, session
from langchain_ralmspec.ralm.flights import Flights
from langchain_ralmspec.retrievers.runs import search
from langchain_ralmspec.speculation import Plan
from langchain_ralmspec.speculation.costs import spending
from langchain_ralmspec.speculation.plan import IN_FLIGHT
from langchain_ralmspec.stores.base import Query
from langchain_ralmspec.stores.call_threads import CallThreads
from langchain_ralmspec.stores.concurrency import ONE_THREAD, Calls
from langchain_ralmspec.stores.retriever_store import found_by
from langchain_ralmspec.stores.waiting import (
    THREADS,
    Waiting,
    shorter,
    stays_in_process,
)
from tests.unit_tests.fakes import FakeStore

SHORT = 0.05  # seconds after which what never answers is given up
PATIENCE = 30.0


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Set when the test is over, so that what hangs ends then."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name.startswith(("ralmspec-verify", "ralmspec-ask")):
            thread.join(PATIENCE)


def test_what_does_not_return_is_given_up_and_the_next_call_is_made(
    never: threading.Event,
) -> None:
    waiting = Waiting(FakeStore(2), SHORT)
    with pytest.raises(StoreTimeoutError, match=r"FakeStore did not .* 0\.05 s") as e:
        waiting.call(never.wait)
    assert isinstance(e.value, TimeoutError)
    assert isinstance(e.value, StoreError)
    assert waiting.call(lambda: threading.current_thread().daemon)
    waiting.close()


def test_as_many_as_there_are_threads_may_hang(never: threading.Event) -> None:
    waiting = Waiting(FakeStore(2), SHORT)
    for _ in range(max(IN_FLIGHT) + 1):
        with pytest.raises(StoreTimeoutError):
            waiting.call(never.wait)
    assert waiting.call(lambda: True)
    waiting.close()


def test_many_queries_that_take_too_long_are_asked_one_by_one(
    never: threading.Event,
) -> None:
    class Slow(FakeStore):
        def search(self, queries: Any, *args: Any, **kwargs: Any) -> Any:
            if len(queries) > 1:
                never.wait()
            return super().search(queries, *args, **kwargs)

    many, alone = (search(Slow(4), texts, 1, 1.0) for texts in (["a", "b"], ["b"]))
    assert many[1:] == alone
    opened = Session(Slow(4), store_timeout=1.0)
    with Flights(opened) as flights:
        guesses = [opened.guess("same", text, None) for text in ("a", "b")]
        flights.send(guesses, Plan("same", 2, 1), with_vectors=False)
        answer = flights.land().future.result()
    assert answer.n_calls == 1
    assert 1.0 <= answer.seconds < PATIENCE, "those that were lost count"
    opened.waiting.close()


def test_an_encoder_that_hangs_is_asked_once(never: threading.Event) -> None:
    class Hanging(FakeStore):
        n_asked = 0

        def encode(self, texts: Any) -> Any:
            if self.n_asked:
                self.n_asked += 1
                never.wait()
            return super().encode(texts)

    store = Hanging(4)
    opened = Session(store, store_timeout=SHORT)
    (hits,) = opened.verify([Query("a")])
    store.n_asked = 1
    with pytest.raises(StoreTimeoutError):
        opened.ask_one(Query("b"), with_vectors=True)
    assert store.n_asked == 2
    with Flights(opened) as flights:
        guess = opened.guess("same", "c", hits)
        flights.send([guess], Plan("same", 1), with_vectors=True)
        with pytest.raises(StoreTimeoutError):
            flights.land()
    assert store.n_asked == 3
    opened.waiting.close()


@pytest.mark.parametrize("name", ["max_norm", "prepare"])
def test_what_waits_for_a_change_is_given_up(never: threading.Event, name: str) -> None:
    store = FakeStore(4, tells_max_norm=True)
    setattr(store, name, never.wait)
    opened = Session(store, store_timeout=SHORT)
    # What would make answers sooner is done without.
    assert name == "prepare" or not opened.measure()
    opened.prepare()
    opened.waiting.close()


def test_what_a_call_raises_is_raised() -> None:
    def fail() -> None:
        msg = "of the client"
        raise TimeoutError(msg)

    waiting = Waiting(FakeStore(2), PATIENCE)
    with pytest.raises(TimeoutError, match="of the client"):
        waiting.call(fail)
    waiting.close()


def test_one_thread_serves_calls_that_follow_one_another() -> None:
    waiting = Waiting(FakeStore(2), PATIENCE)
    names = {waiting.call(lambda: threading.current_thread().name) for _ in range(9)}
    assert names == {f"{THREADS}_0"}
    waiting.close()


def test_the_context_of_the_caller_is_read() -> None:
    told = contextvars.ContextVar("told", default="nothing")
    told.set("something")
    waiting = Waiting(FakeStore(2), PATIENCE)
    assert waiting.call(told.get) == "something"
    waiting.close()


def test_what_it_costs_is_measured_where_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller's thread does nothing, and would be taken to wait."""
    measured, made = [], []

    def noted() -> Any:
        measured.append(threading.current_thread())
        return spending()

    class Watched(FakeStore):
        def search(self, *args: Any, **kwargs: Any) -> Any:
            made.append(threading.current_thread())
            return super().search(*args, **kwargs)

    monkeypatch.setattr(session, "spending", noted)
    opened = Session(Watched(4), store_timeout=PATIENCE)
    opened.retrieve("one")
    opened.guess("lookup", "two", None)
    assert {*measured} == {*made} != {threading.current_thread()}
    opened.waiting.close()


def test_a_call_given_up_keeps_nobody_from_asking(never: threading.Event) -> None:
    """Of one call at once, say, it would be that call for ever."""
    calls = Calls(1)
    waiting = Waiting(FakeStore(2), SHORT)
    with pytest.raises(StoreTimeoutError):
        waiting.call(lambda: calls.map(lambda _: never.wait(), [1]))
    assert calls.map(str, [1]) == ["1"]
    waiting.close()


def test_a_call_of_many_given_up_keeps_nobody_from_asking(
    never: threading.Event,
) -> None:
    calls = Calls(2)
    begun: list[int] = []

    def hang(number: int) -> bool:
        begun.append(number)
        return never.wait()

    waiting = Waiting(FakeStore(2), SHORT)
    with pytest.raises(StoreTimeoutError):
        waiting.call(lambda: calls.map(hang, range(9)))
    assert calls.map(str, range(9)) == [*map(str, range(9))]
    never.set()
    waiting.close()
    wait_for_threads()
    assert len(begun) == 2, "calls were begun that nobody waits for"


@pytest.mark.parametrize("seconds", [PATIENCE, SHORT])
def test_a_call_whose_caller_has_left_keeps_its_place_for_its_time_alone(
    never: threading.Event, seconds: float
) -> None:
    """As that of a cancelled request does, should it hang."""
    calls, begun = Calls(1), threading.Event()

    def hang(_: int) -> bool:
        begun.set()
        return never.wait()

    left = Waiting(FakeStore(2), seconds)
    left.start(partial(calls.map, hang, [1]))
    assert begun.wait(PATIENCE)
    if seconds == SHORT:
        assert Waiting(FakeStore(2), PATIENCE).call(lambda: calls.map(str, [1])) == [
            "1"
        ]
    else:
        with pytest.raises(StoreTimeoutError):
            Waiting(FakeStore(2), SHORT).call(lambda: calls.map(str, [1]))
    left.close()


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("ralmspec-"):
            thread.join(PATIENCE)


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> None:
        pytest.fail("a thread is started")

    monkeypatch.setattr(CallThreads, "start", start)


class _Here(DeterministicFakeEmbedding):
    """As quick as the real one, which computes in this process."""


_Here.__name__ = SentenceTransformerEmbeddings.__name__

DOCUMENTS = [Document(page_content=word, id=word) for word in ("one", "two", "three")]


def near_stores() -> list[Any]:
    faiss = pytest.importorskip("langchain_community.vectorstores.faiss")
    embeddings = _Here(size=8)
    return [
        BM25Store.from_documents(DOCUMENTS),
        faiss.FAISS.from_documents(DOCUMENTS, embeddings),
        InMemoryVectorStore.from_documents(DOCUMENTS, embeddings),
    ]


@pytest.mark.usefixtures("no_thread")
@pytest.mark.parametrize("number", range(3), ids=["BM25", "FAISS", "in memory"])
def test_what_cannot_hang_needs_no_thread(number: int) -> None:
    retriever = RaLMSpecRetriever(vectorstore=near_stores()[number], k=1)
    assert retriever.store_timeout == 30
    assert retriever.invoke("one")
    opened = retriever.new_session(k=1, store_timeout=5.0)
    assert opened.retrieve("two").truth[0]
    assert opened.verify(opened._queries.together(["one", "three"]))


@pytest.mark.usefixtures("no_thread")
def test_a_retriever_that_cannot_hang_needs_none() -> None:
    _, faiss, in_memory = near_stores()
    ours = RaLMSpecRetriever(vectorstore=faiss)
    for retriever in (in_memory.as_retriever(), ours, ours.with_config(tags=["own"])):
        assert found_by(retriever, "one", store_timeout=5.0)


class _Own(_Here):
    """Somebody's, who may ask anybody."""


class _OwnStore(BM25Store):
    """Likewise."""


@pytest.mark.usefixtures("no_thread")
def test_what_somebody_else_has_written_may_hang() -> None:
    stores: list[Any] = [
        InMemoryVectorStore.from_documents(DOCUMENTS, _Own(size=8)),
        RunnableLambda(lambda _: DOCUMENTS),
        _OwnStore.from_documents(DOCUMENTS),
    ]
    for store in stores:
        retriever = RaLMSpecRetriever(vectorstore=store)
        with pytest.raises(pytest.fail.Exception, match="a thread is started"):
            retriever.invoke("one")
        with pytest.raises(pytest.fail.Exception, match="a thread is started"):
            found_by(retriever, "one", store_timeout=5.0)
        in_this_thread = retriever.model_copy(update={"store_timeout": None})
        assert in_this_thread.invoke("one")


def test_a_filter_may_hang_on_what_the_sequential_loop_never_comes_to(
    never: threading.Event,
) -> None:
    vectors = np.eye(8, dtype=np.float32)[[0] * 30] * np.linspace(1, 2, 30)[:, None]
    store = FAISS.from_embeddings(
        [(f"{n}", vector.tolist()) for n, vector in enumerate(vectors)],
        DeterministicFakeEmbedding(size=8),
        metadatas=[{"n": n} for n in range(30)],
    )
    best = int(store.similarity_search("one", k=1)[0].metadata["n"])
    retriever = RaLMSpecRetriever(
        vectorstore=store, filter=lambda m: m["n"] == best or never.wait()
    )
    session = retriever.new_session(k=1, store_timeout=1.0)
    assert session.fills_freely
    (wanted,) = session.retrieve("one").truth
    (found,) = session.ask_one(Query("one"), with_vectors=True).truth
    assert [hit.id for hit in found] == [hit.id for hit in wanted]


@pytest.mark.parametrize("number", [1, 2], ids=["FAISS", "in memory"])
def test_a_filter_may_hang_wherever_it_is_called(
    number: int, never: threading.Event
) -> None:
    store, is_up = near_stores()[number], threading.Event()
    is_up.set()

    def allows(_: Any) -> bool:
        return is_up.is_set() or never.wait()

    words: dict[str, Any] = {"search_kwargs": {"filter": allows}}
    ours = RaLMSpecRetriever(vectorstore=store, filter=allows, store_timeout=SHORT, k=1)
    session = ours.session(prefetch_k=3)
    session.verify(["one"])
    is_up.clear()
    for ask in (
        lambda: ours.invoke("one"),
        lambda: session.verify(["two"]),
        lambda: found_by(store.as_retriever(**words), "one", store_timeout=SHORT),
        lambda: found_by(
            store.as_retriever().bind(filter=allows), "one", store_timeout=SHORT
        ),
    ):
        with pytest.raises(StoreTimeoutError):
            ask()
    if number == 1:  # where guessed documents are looked up
        with pytest.raises(StoreTimeoutError):
            session.speculate("one")


@pytest.mark.parametrize("kind", sorted(ONE_THREAD))
def test_a_store_that_refuses_threads_is_asked_by_the_caller_all_the_same(
    kind: str,
) -> None:
    store = type(kind, (InMemoryVectorStore,), {})(_Here(size=8))
    assert stays_in_process(store, lambda _: True)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300, "soon"])
def test_seconds_that_are_none_are_refused(seconds: Any) -> None:
    store = BM25Store.from_documents(DOCUMENTS)
    with pytest.raises(ValueError, match="store_timeout"):
        RaLMSpecRetriever(vectorstore=store, store_timeout=seconds)


def test_the_shorter_of_two() -> None:
    assert shorter(None, None) is None
    assert shorter(2.0, None) == shorter(None, 2.0) == shorter(3.0, 2.0) == 2


_HANGS = """
import threading
from langchain_core.runnables import RunnableLambda
from langchain_ralmspec import RaLMSpecRetriever, StoreTimeoutError
from langchain_ralmspec.stores.concurrency import Calls
never = threading.Event()
retriever = RaLMSpecRetriever(
    vectorstore=RunnableLambda(lambda _: never.wait()), store_timeout=0.05
)
for queries in (["one"], ["one", "two"]):  # the latter are out at once
    try:
        retriever.batch(queries)
    except StoreTimeoutError as error:
        print("given up")
"""


_READS = """
import threading
from langchain_ralmspec.stores.chroma_replica import ChromaReplica
class Hanging:
    metric, embeddings = "cosine", None
    def page(self, start, n):
        threading.Event().wait()
ChromaReplica(Hanging()).prepare()
print("given up")
"""


@pytest.mark.parametrize(("program", "n"), [(_HANGS, 2), (_READS, 1)])
def test_python_ends_although_a_call_hangs(program: str, n: int) -> None:
    root = Path(__file__).parents[3]
    ended = subprocess.run(  # noqa: S603  our own
        [sys.executable, "-c", program],
        check=True,
        cwd=root,
        timeout=120,
        stdout=subprocess.PIPE,
    )
    assert ended.stdout.splitlines() == [b"given up"] * n
