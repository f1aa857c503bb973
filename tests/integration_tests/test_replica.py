"""Answers under a replica's guesses: real model, real stores, good and bad copies."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import chromadb
import faiss
import numpy as np
import pytest
from langchain_chroma import Chroma
from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_ralmspec import ChatRaLMSpec, FaissStore, RaLMSpecRetriever
from langchain_ralmspec.stores import (
    ChromaStore,
    Query,
    chroma_replica,
    faiss_replica,
    open_replica,
)
from langchain_ralmspec.stores import replica as replicas
from tests.integration_tests.conftest import QUESTIONS, Corpus
from tests.integration_tests.test_identity import chroma, told

NUMBERS = range(0, len(QUESTIONS), 8)


def copy_of(corpus: Corpus, kind: str) -> Any:
    """A local FAISS of the corpus: whole, a tenth missing and a tenth old, or noise."""
    texts, vectors, ids = list(corpus.texts), corpus.vectors, list(corpus.ids)
    if kind == "noise":
        noise = np.random.default_rng(0).normal(size=vectors.shape)
        vectors = noise.astype(np.float32)
    if kind == "stale":
        texts[::10] = [f"{text} (as it was)" for text in texts[::10]]
        kept = [row for row in range(len(ids)) if row % 10 != 5]
        texts, ids = [texts[row] for row in kept], [ids[row] for row in kept]
        vectors = vectors[kept]
    pairs = list(zip(texts, vectors.tolist(), strict=True))
    strategy = DistanceStrategy.MAX_INNER_PRODUCT
    return FAISS.from_embeddings(
        pairs, corpus.embeddings, ids=ids, distance_strategy=strategy
    )


@pytest.fixture(scope="module")
def store_of(corpus: Corpus) -> Callable[[str], Any]:
    stores = {
        "faiss": copy_of(corpus, "good"),
        "chroma": chroma(chromadb.EphemeralClient(), corpus, "replica"),
    }
    assert isinstance(stores["chroma"], Chroma)
    return lambda name: stores[name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", ["auto", "good", "stale", "noise"])
@pytest.mark.parametrize("store", ["faiss", "chroma"])
def test_same_tokens_under_the_same_documents(  # noqa: PLR0917
    store: str,
    kind: str,
    asynchronous: bool,
    gguf: str,
    corpus: Corpus,
    store_of: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faiss_replica, "FEWEST_NUMBERS", 1)
    monkeypatch.setattr(replicas, "_TRIAL", 10**6)  # noise would be set aside
    replica = "auto" if kind == "auto" else copy_of(corpus, kind)
    chat = ChatRaLMSpec(
        model_path=gguf,
        retriever=RaLMSpecRetriever(vectorstore=store_of(store), replica=replica),
        speculation_stride=4,
        guess_policy="lookup",
        asynchronous=asynchronous,
        max_tokens=24,
    )
    chat.warm_up()
    plain = chat.model_copy(update={"speculation": False})
    n_guesses = n_right = 0
    for number in NUMBERS:
        message = told(chat, number)
        assert message == told(plain, number)
        stats = chat.invoke(QUESTIONS[number]).response_metadata["speculation"]
        assert any(plan.startswith("replica") for plan in stats["plans"])
        n_guesses, n_right = (
            n_guesses + stats["guesses"],
            n_right + stats["right_guesses"],
        )
    if kind in ("auto", "good"):
        assert n_right > 0.9 * n_guesses, "the first ones included"


def test_a_whole_answer_is_one_call(
    gguf: str, corpus: Corpus, store_of: Callable[[str], Any]
) -> None:
    chat = ChatRaLMSpec(
        model_path=gguf,
        retriever=RaLMSpecRetriever(
            vectorstore=store_of("faiss"), replica=copy_of(corpus, "good")
        ),
        speculation_stride=64,
        guess_policy="lookup",
        asynchronous=False,
        max_tokens=24,
    )
    stats = chat.invoke(QUESTIONS[0]).response_metadata["speculation"]
    assert stats["store_calls"] == 1
    assert stats["guesses"] == stats["right_guesses"] == stats["queries"] == 6


def test_what_is_built_finds_nearly_all_that_an_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12_000, 384)).astype(np.float32)
    index = faiss.IndexFlatIP(384)
    index.add(vectors)
    documents = [Document(str(row)) for row in range(len(vectors))]
    store = FaissStore(index, documents, lambda _: vectors[0].tolist())
    replica = open_replica("auto", store)
    assert replica is not None
    replica.prepare()
    assert replica.wait(120)
    near = [row + 0.5 * rng.normal(size=384) for row in vectors[:100]]
    queries = [Query("", vector.astype(np.float32)) for vector in near]
    found = [replica.near(query, 3).ids[:1] for query in queries]
    exact = [[hits[0].id] for hits in store.search(queries, 1)]
    pairs = zip(found, exact, strict=True)
    assert sum([*ids] == best for ids, best in pairs) > 95


@pytest.fixture
def collection() -> Iterator[Callable[[str], Chroma]]:
    client = chromadb.EphemeralClient()
    name = f"copied-{uuid.uuid4().hex}"
    rng = np.random.default_rng(0)

    def filled(space: str) -> Chroma:
        store = Chroma(
            name,
            DeterministicFakeEmbedding(size=16),
            client=client,
            collection_configuration={"hnsw": {"space": space}},  # type: ignore[arg-type]
        )
        vectors = rng.normal(size=(60, 16)) * rng.uniform(0.5, 2, size=(60, 1))
        store._collection.add(
            ids=[f"id{row}" for row in range(60)],
            embeddings=vectors.astype(np.float32),
            documents=[f"text {row}" for row in range(60)],
            metadatas=[{"tenant": "ab"[row % 2]} for row in range(60)],
        )
        store._collection.add(ids=["textless"], embeddings=[vectors[0].tolist()])
        return store

    yield filled
    client.delete_collection(name)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_a_copied_collection_finds_what_chroma_finds(
    space: str,
    is_large: bool,
    collection: Callable[[str], Chroma],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (chroma_replica, faiss_replica):
        monkeypatch.setattr(module, "FEWEST_NUMBERS", 1 if is_large else 10**6)
    monkeypatch.setattr(chroma_replica, "_PAGE", 7)
    store = ChromaStore(collection(space), filter={"tenant": "a"})
    replica = open_replica("auto", store)
    assert replica is not None
    assert not replica.is_ready
    replica.prepare()
    assert replica.wait(60)
    queries = [Query("", v) for v in np.eye(16, dtype=np.float32)]
    n_same = 0
    for query, hits in zip(queries, store.search(queries, 5), strict=True):
        near, found = replica.near(query, 5), {hit.id: hit.document for hit in hits}
        assert is_large or [*near.ids] == [*found], "no number is rounded"
        n_same += len(found.keys() & {*near.ids})
        for hit in near.hits:
            assert hit.document == found.get(hit.id, hit.document)
            assert hit.document.metadata["tenant"] == "a"
    assert n_same > 0.9 * 5 * len(queries)


def test_a_copy_is_made_however_soon_its_thread_runs(
    collection: Callable[[str], Chroma], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica: Any = open_replica("auto", ChromaStore(collection("l2")))
    started = replica._started

    def begun(build: Callable[[], None], **words: Any) -> threading.Thread:
        thread: threading.Thread = started(build, **words)
        thread.join(0.2)  # it is as far as it gets before anybody knows of it
        return thread

    monkeypatch.setattr(replica, "_started", begun)
    replica.prepare()
    assert replica.wait(60)


def test_a_collection_that_cannot_be_read_is_warned_of(
    collection: Callable[[str], Chroma], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ChromaStore(collection("l2"))
    replica = open_replica("auto", store)
    assert replica is not None

    def gone(*_: object) -> Any:
        msg = "no server"
        raise ConnectionError(msg)

    monkeypatch.setattr(store, "page", gone)
    replica.prepare()
    assert not replica.wait(60)
    with pytest.warns(RuntimeWarning, match="ConnectionError: no server"):
        replica.prepare()
