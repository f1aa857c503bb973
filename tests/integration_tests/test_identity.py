"""Speculative against sequential: real model, real stores, token by token.

``make integration`` runs a pairwise cover of the grid. The whole grid::

    RALMSPEC_GRID=full pytest tests/integration_tests/test_identity.py
"""

import itertools
import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import chromadb
import faiss
import pytest
from allpairspy import AllPairs
from langchain_chroma import Chroma
from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import BM25Store, ChatRaLMSpec, FaissStore, RaLMSpecRetriever
from langchain_ralmspec.bench.servers.chroma import ChromaServer
from langchain_ralmspec.engine import Model
from langchain_ralmspec.scans import BATCHES, Scan
from langchain_ralmspec.speculation import Calibration, Estimates
from langchain_ralmspec.speculation.calibration import Border
from langchain_ralmspec.stores import faiss_index
from tests.integration_tests.conftest import QUESTIONS, Corpus

STORES = [
    "faiss-ip",
    "faiss-l2",
    "faiss-cosine",
    "faiss-hnsw",
    "chroma",
    "chroma-http",
    "in-memory",
    "bm25",
]
AXES: dict[str, list[Any]] = {
    "store": STORES,
    "speculation_stride": [1, 3, 8, "auto"],
    "prefetch_k": [1, 20],
    "guess_policy": ["lookup", "same", "auto"],
    "asynchronous": [False, True],
}
# When to retrieve is another matter than how to speculate: a suite of its own.
POLICY_AXES: dict[str, list[Any]] = {
    "retrieval_policy": ["flare", "iter-retgen"],
    "store": ["faiss-ip", "chroma-http", "bm25"],
    "speculation_stride": [1, 3, "auto"],
    "guess_policy": ["lookup", "same"],
    "asynchronous": [False, True],
}
FULL = os.environ.get("RALMSPEC_GRID") == "full"


def cells(axes: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations, or some that have every pair of values."""
    rows = itertools.product(*axes.values()) if FULL else AllPairs(axes.values())
    return [dict(zip(axes, row, strict=True)) for row in rows]


def name_of(cell: dict[str, Any]) -> str:
    return "-".join(map(str, cell.values()))


def langchain_faiss(strategy: DistanceStrategy, *, normalize: bool = False) -> Any:
    def build(corpus: Corpus) -> Any:
        # MiniLM's vectors have length 1; where normalising is on it has to matter.
        vectors = corpus.vectors * (3 if normalize else 1)
        return FAISS.from_embeddings(
            list(zip(corpus.texts, vectors.tolist(), strict=True)),
            corpus.embeddings,
            ids=corpus.ids,
            distance_strategy=strategy,
            normalize_L2=normalize,
        )

    return build


def faiss_hnsw(corpus: Corpus) -> Any:
    index = faiss.IndexHNSWFlat(corpus.vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(corpus.vectors)
    return FaissStore(index, corpus.documents, corpus.embeddings)


def in_memory(corpus: Corpus) -> Any:
    return InMemoryVectorStore.from_documents(corpus.documents, corpus.embeddings)


def chroma(client: Any, corpus: Corpus, name: str = "identity") -> Any:
    collection = client.get_or_create_collection(
        name, configuration={"hnsw": {"space": "cosine"}}
    )
    collection.upsert(
        ids=corpus.ids,
        documents=corpus.texts,
        metadatas=[d.metadata or None for d in corpus.documents],
        embeddings=corpus.vectors,
    )
    return Chroma(
        client=client,
        collection_name=name,
        embedding_function=corpus.embeddings,
    )


@pytest.fixture(scope="module")
def retriever_of(
    corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], RaLMSpecRetriever]]:
    server = ChromaServer(tmp_path_factory.mktemp("server"))
    ip, l2 = DistanceStrategy.MAX_INNER_PRODUCT, DistanceStrategy.EUCLIDEAN_DISTANCE
    builders: dict[str, Callable[[Corpus], Any]] = {
        "faiss-ip": langchain_faiss(ip),
        "faiss-l2": langchain_faiss(l2),
        "faiss-cosine": langchain_faiss(l2, normalize=True),
        "faiss-hnsw": faiss_hnsw,
        "chroma": lambda corpus: chroma(chromadb.EphemeralClient(), corpus),
        "chroma-http": lambda corpus: chroma(
            chromadb.HttpClient(host=server.host, port=server.port), corpus
        ),
        "in-memory": in_memory,
        "bm25": lambda corpus: BM25Store.from_documents(corpus.documents),
    }

    @cache
    def build(name: str) -> RaLMSpecRetriever:
        return RaLMSpecRetriever(vectorstore=builders[name](corpus))

    yield build
    server.stop()


def settings_of(number: int) -> dict[str, Any]:
    """Length limits on and off the stride, and stop strings, in turn."""
    settings: dict[str, Any] = {"max_tokens": [16, 23, 32, 41][number % 4]}
    if number % 3 == 0:
        settings["stop"] = [".", "\n"]
    return settings


def ends_early(number: int) -> bool:
    return number % 5 == 1


def told(chat: ChatRaLMSpec, number: int) -> tuple[Any, ...]:
    """What the caller sees of the answer to one question."""
    with pytest.MonkeyPatch.context() as patch:
        if ends_early(number):
            # SmolLM2 seldom ends on its own this soon: let a comma be its EOS.
            weights = chat.engine.weights
            patch.setattr(weights, "is_end", lambda t: b"," in weights.piece(t))
        message = chat.invoke(QUESTIONS[number])
    info = message.response_metadata
    return message.text, info["steps"], info["finish_reason"]


@pytest.fixture(scope="module")
def sequential(
    gguf: str, retriever_of: Callable[[str], RaLMSpecRetriever]
) -> Callable[[str, int, int], tuple[Any, ...]]:
    @cache
    def run(store: str, prefetch_k: int, number: int) -> tuple[Any, ...]:
        chat = ChatRaLMSpec(
            model_path=gguf,
            retriever=retriever_of(store),
            speculation=False,
            prefetch_k=prefetch_k,
            **settings_of(number),
        )
        return told(chat, number)

    return run


@pytest.fixture
def chat_of(
    gguf: str, model: Model, retriever_of: Callable[[str], RaLMSpecRetriever]
) -> Callable[..., ChatRaLMSpec]:
    def make(store: str, **settings: Any) -> ChatRaLMSpec:
        return ChatRaLMSpec(model_path=gguf, retriever=retriever_of(store), **settings)

    return make


def check(chat: ChatRaLMSpec, number: int) -> tuple[Any, ...]:
    """What the caller sees, if it is what the sequential loop gives."""
    answer = told(chat, number)
    assert answer == told(chat.model_copy(update={"speculation": False}), number)
    return answer


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cell", cells(AXES), ids=name_of)
def test_same_tokens_under_the_same_documents(
    cell: dict[str, Any],
    chat_of: Callable[..., ChatRaLMSpec],
    sequential: Callable[[str, int, int], tuple[Any, ...]],
) -> None:
    assert len(QUESTIONS) >= 20
    # One object for all questions, as in an application: "auto" learns on the way.
    chat = chat_of(**cell)
    for number in range(len(QUESTIONS)):
        for name, value in ({"stop": None} | settings_of(number)).items():
            setattr(chat, name, value)
        expected = sequential(cell["store"], cell["prefetch_k"], number)
        assert told(chat, number) == expected


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cell", cells(POLICY_AXES), ids=name_of)
def test_whenever_it_retrieves(
    cell: dict[str, Any], chat_of: Callable[..., ChatRaLMSpec]
) -> None:
    chat = chat_of(**cell, max_tokens=32)
    numbers = range(0, len(QUESTIONS), 4)
    n_steps = sum(len(check(chat, number)[1]) for number in numbers)
    assert n_steps > len(QUESTIONS) // 4, "it never retrieved again"


def test_the_questions_exercise_what_they_should(
    sequential: Callable[[str, int, int], tuple[Any, ...]],
    chat_of: Callable[..., ChatRaLMSpec],
) -> None:
    answers = [sequential("faiss-ip", 20, number) for number in range(len(QUESTIONS))]
    assert any(reason == "length" for _, _, reason in answers)
    stopped = {n for n, (_, _, reason) in enumerate(answers) if reason == "stop"}
    assert any(ends_early(n) for n in stopped), "no answer ended early"
    assert any("stop" in settings_of(n) and not ends_early(n) for n in stopped)
    changes = [len({tuple(s["documents"]) for s in steps}) for _, steps, _ in answers]
    assert max(changes) > 1, "no document ever changed"
    chat = chat_of("faiss-ip", guess_policy="same", speculation_stride=3)
    infos = [chat.invoke(q, max_tokens=32).response_metadata for q in QUESTIONS[:8]]
    rolled_back = sum(info["speculation"]["tokens_rolled_back"] for info in infos)
    assert rolled_back, "no guess was ever wrong"


def test_seeded_sampling_is_the_same_too(chat_of: Callable[..., ChatRaLMSpec]) -> None:
    for seed in range(8):
        check(chat_of("faiss-ip", max_tokens=32, temperature=0.8, seed=seed), seed)


@pytest.mark.parametrize("policy", ["lookup", "same"])
def test_several_documents_a_step_must_all_match(
    policy: str, chat_of: Callable[..., ChatRaLMSpec]
) -> None:
    own = {"documents_per_step": 3, "max_document_tokens": 80, "guess_policy": policy}
    for number in range(8):
        answer = check(chat_of("faiss-ip", **own, **settings_of(number)), number)
        assert all(len(step["documents"]) == 3 for step in answer[1])


@pytest.mark.parametrize("policy", ["lookup", "same"])
@pytest.mark.parametrize("store", ["faiss-ip", "faiss-hnsw", "chroma-equal"])
def test_many_equal_passages(
    store: str, policy: str, gguf: str, model: Model, corpus: Corpus
) -> None:
    """Twelve copies of each passage: which one is found must not depend on the loop."""
    rows = [row for row in range(0, 400, 16) for _ in range(12)]
    copies = Corpus(
        documents=[
            Document(page_content=corpus.texts[row], id=f"{number * 37 % len(rows):03}")
            for number, row in enumerate(rows)
        ],
        vectors=corpus.vectors[rows],
        embeddings=corpus.embeddings,
    )
    builders: dict[str, Callable[[Corpus], Any]] = {
        "faiss-ip": langchain_faiss(DistanceStrategy.MAX_INNER_PRODUCT),
        "faiss-hnsw": faiss_hnsw,
        "chroma-equal": lambda c: chroma(chromadb.EphemeralClient(), c, "equal"),
    }
    retriever = RaLMSpecRetriever(vectorstore=builders[store](copies))
    own: dict[str, Any] = {"retriever": retriever, "guess_policy": policy}
    for number in range(6):
        chat = ChatRaLMSpec(model_path=gguf, **own, **settings_of(number))
        check(chat, number)


@pytest.mark.parametrize("strategy", ["MAX_INNER_PRODUCT", "EUCLIDEAN_DISTANCE"])
@pytest.mark.parametrize("copied", [False, True])
def test_batches_of_a_large_index_take_other_routes(
    strategy: str,
    copied: bool,
    gguf: str,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Matrix products in float32, or in a copy: this index passes for a large one."""
    routes: set[str] = set()
    form, found = "bfloat16" if copied else "torch", Scan._found

    def watched(self: Scan, name: Any, *arguments: Any) -> Any:
        routes.add(name)
        return found(self, name, *arguments)

    monkeypatch.setattr(faiss_index, "SMALL_SCAN", 0)
    chosen = dict.fromkeys(BATCHES, form) | {1: "rival"}
    monkeypatch.setattr(Scan, "_fastest", lambda _: chosen)
    monkeypatch.setattr(Scan, "_found", watched)
    build = langchain_faiss(DistanceStrategy[strategy])
    own: dict[str, Any] = {"speculation_stride": 8, "guess_policy": "lookup"}
    own["retriever"] = RaLMSpecRetriever(vectorstore=build(corpus))
    for number in range(0, len(QUESTIONS), 4):
        more = {"asynchronous": number % 8 == 0, **settings_of(number)}
        check(ChatRaLMSpec(model_path=gguf, **own, **more), number)
    assert routes == {form}


def test_calls_that_leave_at_unsure_guesses(
    chat_of: Callable[..., ChatRaLMSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    border = Border(trusted=-0.2, unsure=0.1, accuracy=0.98, accuracy_unsure=0.5)
    monkeypatch.setattr(Calibration, "border", property(lambda self: border))
    chat = chat_of("faiss-ip", guess_policy="lookup")
    # As if searches took so long that long calls pay, if only their guesses are right.
    monkeypatch.setattr(Estimates, "retrieval", lambda self: 9.0)
    monkeypatch.setattr(Estimates, "verification", lambda self, *_, **__: 9.0)
    slow = chat.model_copy(update={"speculation": False})
    plans: set[str] = set()
    for number in range(0, len(QUESTIONS), 2):
        message = chat.invoke(QUESTIONS[number], max_tokens=32)
        expected = slow.invoke(QUESTIONS[number], max_tokens=32)
        info = message.response_metadata
        assert info["steps"] == expected.response_metadata["steps"]
        plans |= info["speculation"]["plans"].keys()
    assert any("≤" in plan for plan in plans), plans


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("store", "is_exact"),
    [
        ("faiss-ip", True),
        ("faiss-l2", True),
        ("faiss-cosine", True),
        ("faiss-hnsw", False),
    ],
)
def test_what_is_proven_over_an_exact_index_is_not_asked(
    store: str,
    is_exact: bool,
    asynchronous: bool,
    chat_of: Callable[..., ChatRaLMSpec],
) -> None:
    own = {"guess_policy": "lookup", "speculation_stride": 3, "max_tokens": 32}
    chat = chat_of(store, asynchronous=asynchronous, **own)
    slow = chat.model_copy(update={"speculation": False})
    n_proven = n_queries = n_sequential = 0
    for number in range(0, len(QUESTIONS), 2):
        info = chat.invoke(QUESTIONS[number]).response_metadata
        expected = slow.invoke(QUESTIONS[number]).response_metadata
        assert info["steps"] == expected["steps"]
        n_proven += info["speculation"]["proven_guesses"]
        n_queries += info["speculation"]["queries"]
        n_sequential += expected["speculation"]["queries"]
    assert bool(n_proven) == is_exact
    if is_exact and not asynchronous:
        assert n_queries < n_sequential
