"""Speculative against sequential over retrievers of every kind, with a real model."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

from langchain_ralmspec import (
    ChatRaLMSpec,
    EmptyStoreError,
    RaLMSpecRetriever,
    documents_of,
)
from langchain_ralmspec.engine import Model
from tests.integration_tests.conftest import QUESTIONS, Corpus
from tests.integration_tests.test_identity import check, settings_of

N_DOCUMENTS = 150


class Counting(BaseRetriever):
    """Somebody's own: finds by similarity, leaves ids out, and counts its calls."""

    store: Any
    calls: list[str]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> Any:
        self.calls.append(query)
        found = self.store.similarity_search(query, k=3)
        return [Document(d.page_content, metadata=d.metadata) for d in found]


def reranked(found: list[Document]) -> list[Document]:
    return sorted(found, key=lambda document: len(document.page_content))


def threshold(store: Any, least: float) -> Any:
    return store.as_retriever(
        search_type="similarity_score_threshold",
        search_kwargs={"score_threshold": least, "k": 2},
    )


def ensemble(store: Any, corpus: Corpus) -> Any:
    by_words = RaLMSpecRetriever.from_documents(corpus.documents[:N_DOCUMENTS])
    return EnsembleRetriever(
        retrievers=[store.as_retriever(), by_words], weights=[0.6, 0.4]
    )


RETRIEVERS: dict[str, Callable[[Any, Corpus], Any]] = {
    "own": lambda store, _: Counting(store=store, calls=[]),
    "ensemble": ensemble,
    "mmr": lambda store, _: store.as_retriever(
        search_type="mmr", search_kwargs={"k": 2, "fetch_k": 8}
    ),
    "threshold": lambda store, _: threshold(store, 0.6),
    "with_config": lambda store, _: store.as_retriever().with_config(tags=["mine"]),
    "reranked": lambda store, _: store.as_retriever() | RunnableLambda(reranked),
}


@pytest.fixture(scope="module")
def store(corpus: Corpus) -> FAISS:
    pairs = zip(corpus.texts, corpus.vectors.tolist(), strict=True)
    return FAISS.from_embeddings(
        list(pairs)[:N_DOCUMENTS],
        corpus.embeddings,
        [document.metadata for document in corpus.documents[:N_DOCUMENTS]],
        corpus.ids[:N_DOCUMENTS],
        relevance_score_fn=lambda distance: 1 - distance / 4,  # from 0 to 1
    )


@pytest.fixture
def chat_of(gguf: str, model: Model) -> Callable[..., ChatRaLMSpec]:
    def make(retriever: Any, **settings: Any) -> ChatRaLMSpec:
        return ChatRaLMSpec(model_path=gguf, retriever=retriever, **settings)

    return make


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", RETRIEVERS)
def test_the_same_answers_under_the_same_documents(
    name: str, asynchronous: bool, store: Any, corpus: Corpus, chat_of: Any
) -> None:
    chat = chat_of(
        RETRIEVERS[name](store, corpus),
        speculation_stride=3 if asynchronous else "auto",
        asynchronous=asynchronous,
    )
    for number in range(3):
        for setting, value in ({"stop": None} | settings_of(number)).items():
            setattr(chat, setting, value)
        _, steps, _ = check(chat, number)
        assert steps[0]["documents"]


def test_each_query_is_one_call_of_the_retriever(store: Any, chat_of: Any) -> None:
    retriever = Counting(store=store, calls=[])
    for settings in ({"speculation": False}, {"speculation_stride": 3}):
        retriever.calls.clear()
        chat = chat_of(retriever, asynchronous=False, max_tokens=32, **settings)
        stats = chat.invoke(QUESTIONS[0]).response_metadata["speculation"]
        assert stats["store_calls"] == stats["queries"] == len(retriever.calls) > 1


def test_as_many_documents_as_its_k(store: Any, chat_of: Any) -> None:
    for search_type in ("similarity", "mmr"):
        retriever = store.as_retriever(
            search_type=search_type, search_kwargs={"k": 2, "fetch_k": 8}
        )
        if search_type == "similarity":
            del retriever.search_kwargs["fetch_k"]
        chat = chat_of(retriever, max_document_tokens=80, max_tokens=16)
        _, steps, _ = check(chat, 0)
        assert all(len(step["documents"]) == 2 for step in steps)
        retriever.search_kwargs["k"] = 1
        _, steps, _ = check(chat, 0)
        assert all(len(step["documents"]) == 1 for step in steps)


def test_a_filter_that_is_given_later_is_a_wall(store: Any, chat_of: Any) -> None:
    retriever = store.as_retriever()
    chat = chat_of(retriever, max_tokens=16)

    def title() -> str:
        check(chat, 0)
        return str(documents_of(chat.invoke(QUESTIONS[0]))[0].metadata["title"])

    first = title()
    retriever.search_kwargs["filter"] = {"title": {"$neq": first}}
    second = title()
    assert second != first
    retriever.search_kwargs["filter"]["title"]["$neq"] = second
    assert title() == first


@pytest.mark.parametrize("stride", [1, 3, "auto"])
def test_where_nothing_passes_the_answer_has_no_documents(
    stride: Any, store: Any, chat_of: Any
) -> None:
    nothing = store.as_retriever(search_kwargs={"filter": lambda _: False})
    for retriever in (nothing, threshold(store, 0.999)):
        chat = chat_of(retriever, max_tokens=24, speculation_stride=stride)
        text, steps, _ = check(chat, 0)
        assert text
        assert not any(step["documents"] for step in steps)
        n_tokens = [len(step["tokens"]) for step in steps]
        assert len(n_tokens) == math.ceil(sum(n_tokens) / 4), "each stride is a step"
        refusing = chat.model_copy(update={"on_empty": "error"})
        with pytest.raises(EmptyStoreError, match="How do I run"):
            refusing.invoke(QUESTIONS[0])


def test_a_threshold_that_some_queries_pass(store: Any, chat_of: Any) -> None:
    seen = set()
    for number in range(4):
        chat = chat_of(threshold(store, 0.72), max_tokens=32, speculation_stride=2)
        _, steps, _ = check(chat, number)
        seen |= {bool(step["documents"]) for step in steps}
    assert seen == {True, False}
