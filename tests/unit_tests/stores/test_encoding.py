"""How many queries become vectors: requests out at once, or one for all."""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import InvalidValueError, StoreError
from langchain_ralmspec.stores import Encoding, encode_queries, open_store
from langchain_ralmspec.stores.concurrency import THREADS, Calls
from langchain_ralmspec.stores.encoding import embed_documents
from tests.unit_tests.stores.faiss_toys import langchain_faiss
from tests.unit_tests.stores.toys import (
    BatchTableEmbeddings,
    TableEmbeddings,
    documents,
    table,
)

PATIENCE = 30.0  # seconds; only a broken call waits so long
TEXTS = ["v0", "v1", "v2", "v3"]


class Hosted(TableEmbeddings):
    """A service with a request for one query, which does something meanwhile."""

    def __init__(self, meanwhile: Callable[[str], object]) -> None:
        super().__init__(table(8))
        self.meanwhile = meanwhile

    def embed_query(self, text: str) -> list[float]:
        self.meanwhile(text)
        return super().embed_query(text)


def nothing(_: str) -> None:
    pass


def no_more_than(most: int, *, exactly: bool = True) -> Callable[[str], object]:
    """Watches that so many requests are out at once, and no more."""
    inside, barrier = threading.Semaphore(most), threading.Barrier(most)

    def meanwhile(_: str) -> None:
        assert inside.acquire(blocking=False), "one too many"
        if exactly:
            barrier.wait(PATIENCE)
        inside.release()
        if exactly:
            barrier.wait(PATIENCE)

    return meanwhile


def faiss_over(embeddings: Embeddings) -> Any:
    store = langchain_faiss(n_rows=8)
    store.embedding_function = embeddings
    return store


def in_memory_over(embeddings: Embeddings) -> Any:
    store = InMemoryVectorStore(embeddings)
    store.add_documents(documents(4))
    return store


@pytest.mark.parametrize("over", [faiss_over, in_memory_over])
@pytest.mark.parametrize("most", [1, 2, 4])
def test_requests_for_one_query_each_are_out_at_once(over: Any, most: int) -> None:
    embeddings = Hosted(no_more_than(most))
    store = open_store(over(embeddings), max_concurrency=most)
    embeddings.calls.clear()
    queries = store.encode(TEXTS)
    assert sorted(embeddings.calls) == [[text] for text in TEXTS]
    assert [query.text for query in queries] == TEXTS
    assert not any(query.batched for query in queries), "each was embedded alone"
    vectors = [query.vector for query in queries if query.vector is not None]
    np.testing.assert_array_equal(np.stack(vectors), table(8)[:4])


def test_the_calls_of_several_threads_are_bounded_together() -> None:
    encoding, embeddings = Encoding(2), Hosted(no_more_than(2))
    with ThreadPoolExecutor(3) as pool:
        encode = partial(encode_queries, encoding=encoding, together=False)
        assert len(list(pool.map(encode, [embeddings] * 3, [TEXTS] * 3))) == 3
    assert len(embeddings.calls) == 3 * len(TEXTS)


def test_an_encoder_of_this_process_is_asked_by_one_thread_at_a_time() -> None:
    local = type("LlamaCppEmbeddings", (Hosted,), {})
    mine = type("MyTunedEmbeddings", (local,), {})
    for kind in (local, mine):
        embeddings = kind(no_more_than(1, exactly=False))
        encode_queries(embeddings, TEXTS)
        assert embeddings.calls == [[text] for text in TEXTS]


def of_package(package: str, name: str, base: type = TableEmbeddings) -> type:
    words = {"__module__": f"{package}.embeddings.base"}
    methods = {key: getattr(base, key) for key in ("embed_query", "embed_documents")}
    return type(name, (base,), words | methods)


OPENAI = of_package("langchain_openai", "OpenAIEmbeddings")


@pytest.mark.parametrize(
    ("kind", "symmetric", "at_once"),
    [
        (OPENAI, None, True),
        (type("MineOverOpenAI", (OPENAI,), {}), None, True),
        (OPENAI, False, False),
        (TableEmbeddings, None, False),
        (TableEmbeddings, True, True),
        # The class of another package, with instructions for queries.
        (of_package("langchain_community", "OllamaEmbeddings"), None, False),
        (of_package("langchain_ollama", "OllamaEmbeddings"), None, True),
        (
            type("Instructed", (OPENAI,), {"embed_query": TableEmbeddings.embed_query}),
            None,
            False,
        ),
    ],
)
def test_one_request_serves_all_where_queries_are_embedded_as_documents(
    kind: Any, symmetric: bool | None, at_once: bool
) -> None:
    embeddings = kind(table(8))
    for store in (faiss_over(embeddings), in_memory_over(embeddings)):
        embeddings.calls.clear()
        retriever = RaLMSpecRetriever(vectorstore=store, symmetric_embeddings=symmetric)
        queries = retriever.store.encode(TEXTS)
        expected = [TEXTS] if at_once else [[text] for text in TEXTS]
        assert sorted(embeddings.calls) == expected
        assert [query.batched for query in queries] == [at_once] * len(TEXTS)
        (alone,) = retriever.store.encode(["v5"])
        assert not alone.batched


class LikeHuggingFace(TableEmbeddings):
    query_encode_kwargs: ClassVar[dict[str, Any]] = {"normalize": True}

    def _embed(self, texts: list[str], _: dict[str, Any]) -> list[list[float]]:
        return self._look_up(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._embed([text], {})[0]


class Wrapper(Embeddings):
    """Another encoder in this one's clothes."""

    def __init__(self, table: Any) -> None:
        self._wrapped = BatchTableEmbeddings(table)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._wrapped.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._wrapped.embed_query(text)


@pytest.mark.parametrize("kind", [BatchTableEmbeddings, LikeHuggingFace, Wrapper])
@pytest.mark.parametrize("over", [faiss_over, in_memory_over])
def test_an_encoders_own_embed_query_is_not_passed_by(kind: Any, over: Any) -> None:
    class Instructed(kind):  # type: ignore[misc]
        def embed_query(self, text: str) -> list[float]:
            vector: list[float] = super().embed_query(text)
            return [-number for number in vector]

    embeddings = Instructed(table(8))
    store = RaLMSpecRetriever(vectorstore=over(embeddings)).store
    for texts in (TEXTS, TEXTS[:1]):
        embeddings.calls.clear()
        found = [query.vector for query in store.encode(texts)]
        assert sorted(embeddings.calls) == [[text] for text in texts]
        np.testing.assert_array_equal(found, [-table(8)[int(t[1:])] for t in texts])
    plain = kind(table(8))
    together = [[text] for text in TEXTS] if kind is Wrapper else [TEXTS]
    encode_queries(plain, TEXTS)
    assert sorted(plain.calls) == together


def test_a_class_of_langchains_that_is_said_to_be_alike_is() -> None:
    embeddings = DeterministicFakeEmbedding(size=4)
    assert Encoding().batch(embeddings) == embeddings.embed_documents
    alone = [embeddings.embed_query(text) for text in TEXTS]
    np.testing.assert_array_equal(
        encode_queries(embeddings, TEXTS), np.array(alone, np.float32)
    )


def fail(text: str) -> None:
    if text == "v2":
        raise ConnectionError("gone")


@pytest.mark.parametrize("most", [1, 4])
def test_the_text_that_fails_is_named_and_no_request_is_left(most: int) -> None:
    store = open_store(faiss_over(Hosted(fail)), max_concurrency=most)
    with pytest.raises(StoreError, match=r"embed the query 'v2': Conn.*gone") as caught:
        store.encode(TEXTS)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert not [t for t in threading.enumerate() if t.name.startswith(THREADS)]


def test_what_was_not_begun_when_a_call_failed_is_not_made() -> None:
    made: list[int] = []

    def call(number: int) -> None:
        made.append(number)
        raise ConnectionError(number)

    with pytest.raises(ConnectionError, match="0"):
        Calls(2).map(call, range(64))
    assert len(made) < 64


def test_the_text_whose_vector_is_no_number_is_named() -> None:
    embeddings = Hosted(nothing)
    embeddings.table[2, 0] = math.nan
    with pytest.raises(StoreError, match=r"Hosted gave a vector of length nan .*'v2'"):
        open_store(faiss_over(embeddings)).encode(TEXTS)


@pytest.mark.parametrize("most", [0, -1, 1.5, True, None])
def test_a_number_of_calls_that_is_none_is_refused(most: Any) -> None:
    with pytest.raises(
        InvalidValueError, match=f"max_concurrency .*least 1, got {most}"
    ):
        open_store(faiss_over(Hosted(nothing)), max_concurrency=most)
    with pytest.raises((InvalidValueError, ValidationError), match="max_concurrency"):
        RaLMSpecRetriever(vectorstore=faiss_over(Hosted(nothing)), max_concurrency=most)


def test_how_queries_are_embedded_survives_a_pickle() -> None:
    again = pickle.loads(pickle.dumps(Encoding(3, symmetric_embeddings=True)))  # noqa: S301
    assert again.max_concurrency == 3
    assert again.batch(TableEmbeddings(table(1))) is not None


class Choosy(Embeddings):
    """Refuses one text, whatever stands beside it."""

    refused = "v5"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if self.refused in texts:
            raise ValueError("cannot")
        return [[1.0]] * len(texts)

    def embed_query(self, text: str) -> list[float]:
        return [1.0]


@pytest.mark.parametrize("n_texts", [1, 2, 3, 9])
def test_the_text_that_an_encoder_refuses_is_named(n_texts: int) -> None:
    encoder, texts = Choosy(), [f"v{row}" for row in range(n_texts)]
    for encoder.refused in texts:
        with pytest.raises(
            StoreError,
            match=rf"Choosy failed to embed the chunks, such as '{encoder.refused}'"
            ": ValueError: cannot",
        ):
            embed_documents(encoder, texts, "chunks")


def test_none_is_named_where_each_is_embedded() -> None:
    class OnceAway(Choosy):
        n_calls = 0

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            self.n_calls += 1
            if self.n_calls == 1:
                raise ConnectionError("gone")
            return super().embed_documents(texts)

    with pytest.raises(StoreError, match=r"embed the chunks: ConnectionError: gone"):
        embed_documents(OnceAway(), ["v1", "v2", "v3"], "chunks")
