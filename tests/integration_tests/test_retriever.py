"""The retriever and its session, as an application uses them."""

import asyncio
from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import RaLMSpecRetriever, UnknownArgumentError
from tests.integration_tests.conftest import QUESTIONS, Corpus, Listener


def test_a_batch_is_one_store_call(
    retriever: RaLMSpecRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = [retriever.invoke(question) for question in QUESTIONS]
    calls: list[int] = []
    search = retriever.store.search

    def spy(queries: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(queries))
        return search(queries, *args, **kwargs)

    monkeypatch.setattr(retriever.store, "search", spy)
    assert retriever.batch(QUESTIONS) == one_by_one
    assert asyncio.run(retriever.abatch(QUESTIONS)) == one_by_one
    assert calls == [len(QUESTIONS)] * 2
    assert [len(d) for d in retriever.batch(QUESTIONS, k=2)] == [2] * len(QUESTIONS)


def test_a_batch_opens_a_run_for_every_query(retriever: RaLMSpecRetriever) -> None:
    listener = Listener()
    retriever.batch(QUESTIONS[:3], config={"callbacks": [listener]})
    assert listener.queries == QUESTIONS[:3]
    assert listener.n_found == 9


def test_a_session_guesses_and_verifies(retriever: RaLMSpecRetriever) -> None:
    session = retriever.session(k=1)
    assert session.speculate(QUESTIONS[0]) == []
    truth = session.verify(QUESTIONS[:3])
    assert truth == [documents[:1] for documents in retriever.batch(QUESTIONS[:3])]
    assert session.speculate(QUESTIONS[1]) == truth[1]
    assert session.verify([]) == []
    assert session.stats.store_calls == 1
    assert session.stats.queries == 3


def test_a_session_embeds_a_query_once(
    retriever: RaLMSpecRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = retriever.store.encode

    def spy(texts: Any) -> Any:
        encoded.extend(texts)
        return encode(texts)

    monkeypatch.setattr(retriever.store, "encode", spy)
    session = retriever.session(k=1)
    session.verify(["one"])
    session.speculate("two")
    session.verify(["two"])
    assert encoded == ["one", "two"]


def test_a_copy_with_another_filter_is_another_retriever(corpus: Corpus) -> None:
    store = InMemoryVectorStore.from_documents(corpus.documents[:20], corpus.embeddings)
    titles = [document.metadata["title"] for document in corpus.documents[:2]]
    one = RaLMSpecRetriever(
        vectorstore=store, filter=lambda d: d.metadata["title"] == titles[0]
    )
    other = one.model_copy(
        update={"filter": lambda d: d.metadata["title"] == titles[1]}
    )
    assert {d.metadata["title"] for d in one.invoke("x")} == {titles[0]}
    assert {d.metadata["title"] for d in other.invoke("x")} == {titles[1]}
    assert one.key != other.key
    with pytest.raises(ValidationError, match="frozen"):
        one.filter = None  # type: ignore[misc]


async def test_it_takes_k_asynchronously(retriever: RaLMSpecRetriever) -> None:
    assert len(await retriever.ainvoke(QUESTIONS[0], k=2)) == 2
    with pytest.raises(UnknownArgumentError, match="'kk'"):
        await retriever.ainvoke(QUESTIONS[0], kk=2)
    with pytest.raises(UnknownArgumentError, match="'kk'"):
        retriever.invoke(QUESTIONS[0], kk=2)
