from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import (
    InvalidValueError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.ralm import Session
from langchain_ralmspec.stores import Query, RetrieverStore, lock_of, open_store
from langchain_ralmspec.stores.retriever_store import found_by
from langchain_ralmspec.stores.searches import searched_by
from tests.unit_tests.stores.faiss_toys import langchain_faiss

TEXTS = ["a", "b", "c", "d"]


class Finds(BaseRetriever):
    """Finds what a function says."""

    find: Callable[[str], Any]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> Any:
        return self.find(query)


def asking(*texts: str) -> list[Query]:
    return [Query(text) for text in texts]


def echo(query: str) -> list[Document]:
    return [Document(f"{query}{n}") for n in range(3)]


def test_the_queries_of_a_verification_are_asked_at_once() -> None:
    barrier = threading.Barrier(len(TEXTS))  # opens when all of them are inside

    def find(query: str) -> list[Document]:
        barrier.wait(30)
        return echo(query)

    session = Session(RetrieverStore(Finds(find=find)))
    answer = session.ask(asking(*TEXTS), with_vectors=False)
    found = [hit.document.page_content for (hit,) in answer.truth]
    assert found == [f"{text}0" for text in TEXTS]
    assert (answer.n_calls, answer.n_queries) == (4, 4)


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_calls_run_than_are_allowed(most: int) -> None:
    inside = threading.Semaphore(most)
    barrier = threading.Barrier(most)

    def find(query: str) -> list[Document]:
        assert inside.acquire(blocking=False), "one too many"
        barrier.wait(30)
        inside.release()
        barrier.wait(30)
        return echo(query)

    store = RetrieverStore(Finds(find=find), max_concurrency=most)
    assert len(store.search(asking(*TEXTS), 1)) == len(TEXTS)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_its_order_is_kept_and_k_is_a_maximum(k: int) -> None:
    store = RetrieverStore(RunnableLambda(echo))
    for text, hits in zip(TEXTS, store.search(asking(*TEXTS), k), strict=True):
        expected = [f"{text}0", f"{text}1", f"{text}2"][:k]
        assert [hit.document.page_content for hit in hits] == expected
        assert [hit.score for hit in hits] == [0, -1, -2][:k]
        assert all(hit.vector is None for hit in hits)


def test_every_document_has_an_id_of_its_own_and_comes_once() -> None:
    found = [
        Document("x", id="1"),
        Document("x", id="1", metadata={"score": 2}),
        Document("y", id="1"),
        Document("y"),
        Document("z"),
        Document("z"),
        Document("z", metadata={"page": 2}),
    ]
    store = RetrieverStore(RunnableLambda(lambda _: found))
    (hits,) = store.search(asking("q"), 9)
    texts = [hit.document.page_content for hit in hits]
    assert texts == ["x", "y", "z", "z"]
    assert hits[0].id == "1"
    assert len({hit.id for hit in hits}) == 4
    assert store.search(asking("q"), 2) == [hits[:2]]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, "NoneType None"),
        (["a text"], r"list \['a text'\]"),
        ({"documents": []}, r"dict \{'documents': \[\]\}"),
        ("text", "str 'text'"),
        ([Document("x"), 7], r"list \[.*7\]"),
    ],
)
def test_what_is_no_list_of_documents_is_told(found: Any, told: str) -> None:
    retriever = RunnableLambda(lambda _: found, name="Mine")
    with pytest.raises(StoreError, match=f"Mine must give a list .*gave {told}.*'q'"):
        RetrieverStore(retriever).search(asking("q"), 1)


@pytest.mark.parametrize("texts", [["b"], TEXTS])
def test_a_call_that_fails_names_the_retriever(texts: Sequence[str]) -> None:
    def find(query: str) -> list[Document]:
        if query == "b":
            raise ConnectionError("gone")
        return echo(query)

    store = RetrieverStore(Finds(find=find))
    with pytest.raises(StoreError, match=r"Finds failed to search: Conn.*gone") as e:
        store.search(asking(*texts), 1)
    assert isinstance(e.value.__cause__, ConnectionError)
    assert store.search(asking("a"), 1)


async def _search(query: str) -> list[Document]:
    return echo(query)


def _refusing(query: str) -> list[Document]:
    raise NotImplementedError


@pytest.mark.parametrize(
    "retriever", [RunnableLambda(_search), Finds(find=_refusing)], ids=["afunc", "own"]
)
def test_what_can_only_be_awaited_is_told_what_it_lacks(retriever: Any) -> None:
    store = RetrieverStore(retriever)
    with pytest.raises(StoreError, match=r"failed to .*without await.*give it a"):
        store.search(asking("a", "b"), 1)


@pytest.mark.parametrize("name", ["_aget_relevant_documents", "ainvoke"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda r: r,
        lambda r: r.with_config(tags=["t"]),
        lambda r: r | list,
        lambda r: EnsembleRetriever(retrievers=[r], weights=[1.0]),
        lambda r: RunnableLambda(lambda text: [*r.invoke(text)]),
        lambda r: Finds(find=echo).with_fallbacks([r]),
        lambda r: r.configurable_fields(find=ConfigurableField("find")),
    ],
    ids=["alone", "config", "pipe", "ensemble", "function", "fallback", "field"],
)
def test_a_search_overridden_for_await_alone_is_refused(name: str, wrap: Any) -> None:
    own = type("Tenants", (Finds,), {name: lambda *_, **__: []})
    retriever = wrap(own(find=echo))
    for ask in (RetrieverStore, lambda given: found_by(given, "a")):
        with pytest.raises(InvalidValueError, match=f"Tenants overrides {name} but "):
            ask(retriever)


@pytest.mark.parametrize(
    ("search_type", "name"),
    [
        ("mmr", "amax_marginal_relevance_search"),
        ("similarity_score_threshold", "asimilarity_search_with_relevance_scores"),
        ("similarity", "asimilarity_search"),
    ],
)
def test_a_store_that_searches_otherwise_for_await_alone_is_refused(
    search_type: str, name: str
) -> None:
    vectorstore: Any = langchain_faiss(n_rows=3)
    vectorstore.__class__ = type("Own", (FAISS,), {name: lambda *_, **__: []})
    retriever = vectorstore.as_retriever(
        search_type=search_type, search_kwargs={"score_threshold": 0.1}
    )
    for ask in (RetrieverStore, lambda given: found_by(given, "a")):
        with pytest.raises(InvalidValueError, match=f"Own overrides {name} but not"):
            ask(retriever)


def test_bad_arguments_are_refused() -> None:
    retriever, wrong = Finds(find=echo), [0, 1.5]
    for most in wrong:
        with pytest.raises(InvalidValueError, match=f"at least 1, got {most}"):
            RetrieverStore(retriever, max_concurrency=most)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"function is no Runnable.*RunnableL"):
        RetrieverStore(echo)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"\{'a': 1\}\) cannot be added to a F"):
        open_store(retriever, filter={"a": 1})
    with pytest.raises(UnknownArgumentError, match=r"Finds.invoke\(\) .*'expr'"):
        open_store(retriever, search_kwargs={"expr": "x"})


def test_every_call_is_a_run_to_callbacks() -> None:
    class Notes(BaseCallbackHandler):
        def __init__(self) -> None:
            self.began: list[str] = []
            self.n_ended = 0

        def on_retriever_start(self, serialized: Any, query: str, **__: Any) -> None:
            self.began.append(query)

        def on_retriever_end(self, *_: Any, **__: Any) -> None:
            self.n_ended += 1

    notes = Notes()
    retriever = Finds(find=echo).with_config(callbacks=[notes])
    RetrieverStore(retriever).search(asking(*TEXTS), 1)
    assert sorted(notes.began) == TEXTS
    assert notes.n_ended == len(TEXTS)


@pytest.mark.parametrize("asked", ["store", "context"])
@pytest.mark.parametrize(
    "wrap", [lambda found: found, lambda found: found.with_retry()]
)
def test_a_change_waits_for_searches_of_as_retriever_too(
    asked: str, wrap: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = langchain_faiss(n_rows=3)
    local = type("HuggingFaceEmbeddings", (type(store.embeddings),), {})
    store.embedding_function.__class__ = local  # it embeds here, by its name
    found = wrap(store.as_retriever(search_type="mmr"))
    inside, may_end, said = threading.Event(), threading.Event(), []
    search = type(store).max_marginal_relevance_search

    def slow(*args: Any, **kwargs: Any) -> Any:
        inside.set()
        assert may_end.wait(30)
        said.append("searched")
        return search(*args, **kwargs)

    monkeypatch.setattr(type(store), "max_marginal_relevance_search", slow)
    opened = open_store(found)

    def add() -> None:
        retriever = RaLMSpecRetriever(vectorstore=store.as_retriever())
        retriever.add_documents([Document("v0", id="new")])
        said.append("added")

    def look() -> None:
        _ = (
            opened.search(asking("v1"), 1)
            if asked == "store"
            else found_by(found, "v1")
        )

    searching, adding = threading.Thread(target=look), threading.Thread(target=add)
    searching.start()
    assert inside.wait(30)
    adding.start()
    while not lock_of(store)._n_changes:  # it waits by now
        assert adding.is_alive(), "it did not wait"
    may_end.set()
    searching.join(30)
    adding.join(30)
    assert said == ["searched", "added"]


def test_only_what_searches_a_store_and_nothing_else_keeps_changes_out() -> None:
    store = langchain_faiss(n_rows=3)
    plain, own = store.as_retriever(), RaLMSpecRetriever(vectorstore=store)
    assert searched_by(plain.with_config(tags=["x"]).with_retry()) is store
    # Others may wait for anything, or let their searches in themselves.
    for other in (
        own,
        plain | RunnableLambda(lambda found: found),
        EnsembleRetriever(retrievers=[plain, own], weights=[0.5, 0.5]),
    ):
        assert searched_by(other) is None


def test_a_retriever_that_is_a_store_can_be_pickled() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    found = RetrieverStore(store.as_retriever(search_type="mmr"))
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):  # noqa: S301
        assert again.search(asking("v1"), 1) == [[]]


def test_documents_without_ids_go_by_their_text_whatever_a_reranker_writes() -> None:
    def find(query: str) -> list[Document]:
        return [
            Document(text, metadata={"page": n, "relevance_score": len(query) / 9})
            for n, text in enumerate(["a", "b"])
        ]

    store = RetrieverStore(Finds(find=find))
    one, other = store.search(asking("x", "longer"), 2)
    assert [hit.id for hit in one] == [hit.id for hit in other]
    assert one[0].document.metadata != other[0].document.metadata


def test_documents_of_one_text_and_other_metadata_are_several() -> None:
    def find(query: str) -> list[Document]:
        pages = [Document("a", metadata={"page": n}) for n in (1, 2, 3, 2)]
        return pages if query == "all" else pages[:2]

    store = RetrieverStore(Finds(find=find))
    every, two = store.search(asking("all", "two"), 9)
    assert [hit.document.metadata["page"] for hit in every] == [1, 2, 3]
    assert len({hit.id for hit in every}) == 3
    assert [hit.id for hit in two] == [hit.id for hit in every[:2]]
