"""The retriever at its doors: queries, batches, additions."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import numpy as np
import pytest
from langchain_community.vectorstores import SKLearnVectorStore
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import ChatRaLMSpec, RaLMSpecRetriever
from langchain_ralmspec.errors import (
    InvalidValueError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.stores import lock_of
from tests.unit_tests.stores.faiss_toys import langchain_faiss
from tests.unit_tests.stores.toys import BatchTableEmbeddings, table

N_ROWS = 12


class Picky(BatchTableEmbeddings):
    """Refuses an empty text, and all that come with it."""

    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        if "" in texts:
            raise RuntimeError("an empty text")
        return super().embed_queries(texts)


def picky() -> RaLMSpecRetriever:
    vectorstore = langchain_faiss(n_rows=N_ROWS)
    vectorstore.embedding_function = Picky(table(N_ROWS))
    return RaLMSpecRetriever(vectorstore=vectorstore, k=2)


@pytest.mark.parametrize("is_async", [False, True])
def test_only_the_failing_place_of_a_batch_is_an_exception(is_async: bool) -> None:
    retriever = picky()
    asked: list[Any] = ["v1", "", {"question": "v2"}, "v3"]
    if is_async:
        found: Any = asyncio.run(retriever.abatch(asked, return_exceptions=True))
    else:
        found = retriever.batch(asked, return_exceptions=True)
    assert [found[0], found[3]] == [retriever.invoke("v1"), retriever.invoke("v3")]
    assert isinstance(found[1], StoreError)
    assert isinstance(found[2], InvalidValueError)
    with pytest.raises(StoreError, match="an empty text"):
        retriever.batch(["v1", ""])
    questions: Any = (text for text in ("v1", "v3"))
    assert retriever.batch(questions) == [found[0], found[3]]


DOORS: dict[str, Any] = {
    "invoke": lambda retriever, query: retriever.invoke(query),
    "ainvoke": lambda retriever, query: asyncio.run(retriever.ainvoke(query)),
    "batch": lambda retriever, query: retriever.batch(["v1", query]),
    "abatch": lambda retriever, query: asyncio.run(retriever.abatch(["v1", query])),
    "speculate": lambda retriever, query: retriever.session().speculate(query),
    "verify": lambda retriever, query: retriever.session().verify(["v1", query]),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("query", [{"question": "x"}, None, 7, b"v1"])
def test_a_query_that_is_no_string_is_refused_by_its_type(
    door: str, query: Any
) -> None:
    kind = type(query).__name__
    with pytest.raises(InvalidValueError, match=f"must be a string, got {kind} "):
        DOORS[door](picky(), query)


@pytest.mark.parametrize("wrong", ["v1", None, 7, {"v1": "v2"}, Document("v1")])
def test_what_is_no_list_of_queries_is_refused(wrong: Any) -> None:
    for ask in (picky().batch, picky().session().verify):
        with pytest.raises(InvalidValueError, match="queries must be a list of str"):
            ask(wrong)
    assert picky().session().verify(text for text in ["v1"]) == picky().batch(["v1"])


def test_halves_of_characters_reach_no_encoder_by_any_door() -> None:
    class Whole(BatchTableEmbeddings):
        def embed_query(self, text: str) -> list[float]:
            asked.append(text.encode().decode())
            return super().embed_query("v1")

        def embed_queries(self, texts: list[str]) -> list[list[float]]:
            return list(map(self.embed_query, texts))

    retriever = picky()
    retriever.vectorstore.embedding_function = Whole(table(N_ROWS))
    retriever.invalidate()
    for door in DOORS.values():
        asked: list[str] = []
        door(retriever, "\ud83d\ude00 \ud83d")
        assert "😀 \ufffd" in asked


@pytest.mark.parametrize("n", [10**9, 10**20, 0, 2.5])
def test_numbers_that_no_memory_holds_are_refused(n: Any) -> None:
    retriever = picky()
    asked: list[Any] = [
        lambda: retriever.invoke("v1", k=n),
        lambda: retriever.session(prefetch_k=n),
        lambda: retriever.session(k=n),
    ]
    for ask in asked:
        with pytest.raises(InvalidValueError, match=f"from 1 to 100,000, got {n}"):
            ask()
    for name in ("prefetch_k", "documents_per_step"):
        with pytest.raises(ValidationError, match=name):
            ChatRaLMSpec(model_path="x.gguf", retriever=retriever, **{name: n})


# Adding and deleting


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: langchain_faiss(n_rows=N_ROWS),
        lambda: InMemoryVectorStore(BatchTableEmbeddings(table(N_ROWS))),
    ],
)
def test_documents_are_added_and_deleted_while_nobody_searches(
    make: Any, is_async: bool
) -> None:
    def run(outcome: Any) -> Any:
        return asyncio.run(outcome) if is_async else outcome

    retriever = RaLMSpecRetriever(vectorstore=make(), k=1)
    other = RaLMSpecRetriever(vectorstore=retriever.vectorstore, k=1)
    change = "a" if is_async else ""
    add, delete = (getattr(retriever, change + n) for n in ("add_documents", "delete"))
    version = retriever.version
    assert run(add([Document("v3")], ids=["new"])) == ["new"]
    assert retriever.version != version
    assert "new" in {d.id for d in other.invoke("v3", k=3)}
    run(delete(["new"]))
    assert "new" not in {d.id for d in other.invoke("v3", k=3)}
    with lock_of(retriever.vectorstore).changing():
        thread = threading.Thread(target=other.invoke, args=["v1"])
        thread.start()
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()


def test_what_cannot_be_added_is_refused() -> None:
    retriever = RaLMSpecRetriever.from_documents([Document("a heap")])
    with pytest.raises(InvalidValueError, match="BM25Store has no add_documents"):
        retriever.add_documents([Document("a tree")])
    wrong: Any = ["a tree"]
    with pytest.raises(InvalidValueError, match="LangChain Documents, got 'a tree'"):
        picky().add_documents(wrong)
    one: Any = Document("a tree")
    with pytest.raises(InvalidValueError, match="must be a list of Documents, got Doc"):
        picky().add_documents(one)
    several: Any = "12"  # no documents "1" and "2"
    with pytest.raises(InvalidValueError, match=r"ids must be a list of str.*'12'"):
        picky().delete(several)
    with pytest.raises(StoreError, match="FAISS failed to delete: ValueError"):
        picky().delete(["nobody"])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("kind", [FAISS, InMemoryVectorStore, SKLearnVectorStore])
def test_what_no_search_can_compare_is_not_added(kind: Any, value: float) -> None:
    class Broken(BatchTableEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            vectors = super().embed_documents(texts)
            if "v2" in texts:
                vectors[texts.index("v2")] = [value] * self.table.shape[1]
            return vectors

    store = kind.from_texts(["v0"], Broken(table(N_ROWS)))
    retriever = RaLMSpecRetriever(vectorstore=store, k=1)
    with pytest.raises(StoreError, match=r"Broken gave a vector of length .* for 'v2'"):
        retriever.add_documents([Document("v1"), Document("v2")])
    assert [each.page_content for each in retriever.invoke("v1")] == ["v0"]
    retriever.add_documents([Document("v1")])
    assert [each.page_content for each in retriever.invoke("v1")] == ["v1"]


def test_what_a_function_embeds_and_no_search_can_compare_is_not_added() -> None:
    encoder = BatchTableEmbeddings(table(N_ROWS))
    store = FAISS.from_texts(["v0"], encoder)
    nothing = [math.nan] * encoder.table.shape[1]
    store.embedding_function = lambda text: (
        nothing if text == "v2" else encoder.embed_query(text)
    )
    retriever = RaLMSpecRetriever(vectorstore=store, k=1)
    with pytest.raises(StoreError, match=r"lambda.* vector of length nan for 'v2'"):
        retriever.add_documents([Document("v1"), Document("v2")])
    assert [each.page_content for each in retriever.invoke("v1")] == ["v0"]


@pytest.mark.parametrize("part", ["index", "embedding_function"])
def test_a_part_put_in_place_of_another_is_noticed(part: str) -> None:
    store, other = (langchain_faiss(n_rows=N_ROWS) for _ in range(2))
    retriever = RaLMSpecRetriever(vectorstore=store, k=2)
    found, session = retriever.invoke("v1"), retriever.session()
    setattr(store, part, getattr(other, part))
    message = rf"the {part} .* was replaced .*invalidate\(\)"
    for search in (lambda: retriever.invoke("v1"), lambda: session.verify(["v1"])):
        with pytest.raises(StoreError, match=message):
            search()
    retriever.invalidate()
    assert retriever.invoke("v1") == found


# What a model takes for its retriever


def test_words_of_as_retriever_reach_the_store() -> None:
    store = langchain_faiss(n_rows=N_ROWS)
    words = {"k": 2, "filter": {"group": 1}, "fetch_k": 9}
    chat = ChatRaLMSpec(
        model_path="x.gguf", retriever=store.as_retriever(search_kwargs=words)
    )
    taken = chat.retriever
    assert (taken.k, taken.filter, taken.search_kwargs) == (
        2,
        {"group": 1},
        {"fetch_k": 9},
    )
    assert {each.metadata["group"] for each in taken.invoke("v0")} == {1}
    with pytest.raises(UnknownArgumentError, match="'fetchk'; did you mean 'fetch_k'"):
        ChatRaLMSpec(
            model_path="x.gguf",
            retriever=store.as_retriever(search_kwargs={"fetchk": 9}),
        )


def test_all_of_a_document_that_is_added_is_made_of_characters() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    retriever = RaLMSpecRetriever(vectorstore=store)
    tags = {"x\ud83d": ["\ud83d\ude42", {"y": "\ude42"}], "n": 1}
    retriever.add_documents([Document("a\ud83d", id="b\ude42", metadata=tags)])
    (found,) = retriever.invoke("a")
    assert (found.page_content, found.id) == ("a\ufffd", "b\ufffd")
    assert found.metadata == {"x\ufffd": ["\U0001f642", {"y": "\ufffd"}], "n": 1}
    same = dict.fromkeys(["\ud83d", "\ufffd"], 1)
    with pytest.raises(InvalidValueError, match="metadata of the document 'c'"):
        retriever.add_documents([Document("a", id="c", metadata=same)])


def test_numpys_whole_numbers_are_numbers_of_documents() -> None:
    retriever = RaLMSpecRetriever(vectorstore=langchain_faiss(n_rows=9))
    assert len(retriever.invoke("v2", k=np.int64(2))) == 2
    with pytest.raises(InvalidValueError, match="got True"):
        retriever.invoke("v2", k=True)
