"""A real server that dies, and callers that leave, with verifications in flight."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import ChatRaLMSpec, StoreError
from langchain_ralmspec.bench.servers.chroma import ChromaServer
from langchain_ralmspec.bench.servers.relay import Relay
from tests.integration_tests.conftest import Corpus

QUESTION = "How do I copy a directory tree?"
LATENCY = 0.05
PATIENCE = 20.0


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
        yield ChatRaLMSpec(
            model_path=gguf,
            retriever=store,
            max_tokens=64,
            retrieval_stride=1,
            speculation_stride=1,
            guess_policy="same",
        )


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
