"""Requests at the same time over a real Chroma server: few calls, lone answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import chromadb
import pytest
from langchain_chroma import Chroma

from langchain_ralmspec import ChatRaLMSpec, RaLMSpecRetriever
from langchain_ralmspec.bench.servers.relay import Relay
from langchain_ralmspec.stores.shared_calls import shared_calls_of
from tests.integration_tests.conftest import QUESTIONS, Corpus

if TYPE_CHECKING:
    from langchain_ralmspec.bench.servers.chroma import ChromaServer

LATENCY = 0.2  # seconds each way: far more than what threads are apart
N_REQUESTS = 8


def asked(chat: ChatRaLMSpec, question: str) -> tuple[str, int]:
    message = chat.invoke(question)
    stats = message.response_metadata["speculation"]
    return message.text, stats["store_calls"]


@pytest.mark.slow
@pytest.mark.parametrize("speculation", [False, True])
def test_eight_requests_make_a_third_of_the_calls(
    chroma_server: ChromaServer, corpus: Corpus, gguf: str, speculation: bool
) -> None:
    direct = chromadb.HttpClient(host=chroma_server.host, port=chroma_server.port)
    direct.create_collection("shared").add(
        ids=corpus.ids, documents=corpus.texts, embeddings=corpus.vectors
    )
    with Relay(chroma_server.port, LATENCY) as relay:
        store = Chroma(
            client=chromadb.HttpClient(host=relay.host, port=relay.port),
            collection_name="shared",
            embedding_function=corpus.embeddings,
        )
        own: dict[str, Any] = {"n_threads": 1, "max_tokens": 12}
        chat = ChatRaLMSpec(
            model_path=gguf, retriever=store, speculation=speculation, **own
        )
        assert shared_calls_of(chat.retriever.store) is not None
        lone = [asked(chat, question) for question in QUESTIONS[:N_REQUESTS]]
        collection: Any = chat.retriever.store
        calls: list[int] = []
        search = collection.search

        def noted(queries: Any, *args: Any, **words: Any) -> Any:
            calls.append(len(queries))
            return search(queries, *args, **words)

        vars(collection)["search"] = noted
        with ThreadPoolExecutor(N_REQUESTS) as pool:
            found = list(pool.map(lambda q: asked(chat, q), QUESTIONS[:N_REQUESTS]))
    assert [text for text, _ in found] == [text for text, _ in lone]
    assert sum(n_calls for _, n_calls in found) == len(calls)
    if not speculation:  # else how many guesses go into a call depends on the time
        assert 3 * len(calls) <= sum(n_calls for _, n_calls in lone)


def test_a_chroma_in_this_process_is_asked_by_each_request(corpus: Corpus) -> None:
    store = Chroma(
        client=chromadb.EphemeralClient(),
        collection_name="local",
        embedding_function=corpus.embeddings,
    )
    opened = RaLMSpecRetriever(vectorstore=store).store
    assert shared_calls_of(opened) is None
