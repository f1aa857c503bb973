"""A filter of one call: heeded by that call, and by nobody else's."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_community.vectorstores import FAISS
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.globals import set_llm_cache
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    ChatRaLMSpec,
    InvalidValueError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    UnknownArgumentError,
    documents_of,
)

DOCUMENTS = [
    Document(f"Passage {row}.", metadata={"tenant": ("red", "blue")[row % 2]})
    for row in range(12)
]
EMBEDDINGS = DeterministicFakeEmbedding(size=8)


@pytest.fixture
def chroma() -> Iterator[Chroma]:
    store = Chroma(
        f"tenants-{uuid.uuid4().hex}", EMBEDDINGS, client=chromadb.EphemeralClient()
    )
    store.add_documents(DOCUMENTS)
    yield store
    store.delete_collection()


def tenants_in(documents: Any) -> set[str]:
    return {each.metadata["tenant"] for each in documents}


@pytest.mark.parametrize("speculation", [False, True])
def test_every_call_has_its_own(gguf: str, chroma: Chroma, speculation: bool) -> None:
    retriever = RaLMSpecRetriever(vectorstore=chroma, replica="auto")
    chat = ChatRaLMSpec(
        model_path=gguf, retriever=retriever, max_tokens=8, speculation=speculation
    )

    def ask(number: int) -> tuple[str, set[str]]:
        tenant = ("red", "blue")[number % 2]
        answer = chat.invoke(f"Question {number}?", filter={"tenant": tenant})
        return tenant, tenants_in(documents_of(answer))

    with ThreadPoolExecutor(4) as pool:
        for tenant, seen in pool.map(ask, range(8)):
            assert seen == {tenant}
    bound = chat.bind(filter={"tenant": "red"})
    chunks = list(bound.stream("Question?"))
    assert tenants_in(documents_of(chunks[-1])) == {"red"}
    assert tenants_in(documents_of(chat.invoke("Question 1?"))) <= {"red", "blue"}
    assert chat.retriever.filter is None


def test_a_function_filters_what_a_completion_reads(gguf: str) -> None:
    store = InMemoryVectorStore(EMBEDDINGS)
    store.add_documents(DOCUMENTS)
    llm = RaLMSpecLLM(model_path=gguf, retriever=store, max_tokens=8)
    for tenant in ("red", "blue", "red"):
        only = llm.generate(
            ["What?"], filter=lambda d, t=tenant: d.metadata["tenant"] == t
        )
        info = only.generations[0][0].generation_info
        assert info is not None
        assert {d["metadata"]["tenant"] for d in info["documents"]} == {tenant}
    again = pickle.loads(pickle.dumps(llm))  # noqa: S301  our own
    assert again.invoke("What?", filter=lambda d: "red" in str(d.metadata))
    with pytest.raises(UnknownArgumentError, match="filters"):
        llm.invoke("What?", filters={"tenant": "red"})
    with pytest.raises(InvalidValueError, match="search_kwargs must be a dict, got 3"):
        llm.invoke("What?", search_kwargs=3)


@pytest.mark.parametrize("kind", [ChatRaLMSpec, RaLMSpecLLM])
def test_no_tenant_is_served_from_anothers_cached_answer(gguf: str, kind: Any) -> None:
    store = InMemoryVectorStore(EMBEDDINGS)
    store.add_documents(DOCUMENTS)
    assert FakeListLLM(responses=["x"]).cache is None
    cache = InMemoryCache()
    set_llm_cache(cache)
    try:
        face = kind(model_path=gguf, retriever=store, max_tokens=4)
        with pytest.raises(InvalidValueError, match="a cache cannot tell filter="):
            face.invoke("What?", filter=lambda d: d.metadata["tenant"] == "red")
        free = kind(model_path=gguf, retriever=store, max_tokens=4, cache=False)
        assert free.invoke("What?", filter=lambda d: d.metadata["tenant"] == "red")
    finally:
        set_llm_cache(None)


def test_what_is_invalidated_is_opened_anew_for_calls_too(gguf: str) -> None:
    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS)
    retriever = RaLMSpecRetriever(vectorstore=store)
    chat = ChatRaLMSpec(model_path=gguf, retriever=retriever, max_tokens=4)
    chat.invoke("What?", filter={"tenant": "red"})
    other = FAISS.from_documents(DOCUMENTS[:2], EMBEDDINGS)
    store.index, store.docstore = other.index, other.docstore
    store.index_to_docstore_id = other.index_to_docstore_id
    retriever.invalidate()
    answer = chat.invoke("What?", filter={"tenant": "red"})
    assert tenants_in(documents_of(answer)) == {"red"}


class Sealed(str):
    """A value that does not show itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def test_copies_of_a_collection_are_a_retrievers_own(chroma: Chroma) -> None:
    replicas = {}
    for tenant in ("red", "blue"):
        own = {"tenant": Sealed(tenant)}
        retriever = RaLMSpecRetriever(vectorstore=chroma, replica="auto", filter=own)
        assert retriever.new_session(k=1).wait_for_replica()
        replicas[tenant] = retriever._opened.replica  # type: ignore[union-attr]
    (query,) = retriever.store.encode(["Passage?"])
    for tenant, replica in replicas.items():
        assert replica is not None
        found = replica.near(query, 12).hits
        assert tenants_in(hit.document for hit in found) == {tenant}
    retriever.delete([chroma.get(where={"tenant": "blue"})["ids"][0]])
    assert retriever.new_session(k=1).wait_for_replica()
    assert replicas["blue"] is not None
    assert len(replicas["blue"].near(query, 12).hits) == 5, "read again"
