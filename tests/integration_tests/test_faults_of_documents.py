"""Documents added, deleted, changed and indexed anew while an answer is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import ChatRaLMSpec, RaLMSpecRetriever, StoreError
from langchain_ralmspec.ralm.events import Asked, Found
from tests.integration_tests.test_faults import MODES, QUESTION, modes

EMBEDDINGS = DeterministicFakeEmbedding(size=8)
Documents = list[Document]
OLD = [
    Document(page_content=f"A short text of number {n}.", id=str(n)) for n in range(12)
]


def more(retriever: RaLMSpecRetriever) -> Documents:
    added = [Document(page_content=f"Another, {n}.", id=f"a{n}") for n in range(36)]
    retriever.add_documents(added, ids=[str(each.id) for each in added])
    return OLD + added


def fewer(retriever: RaLMSpecRetriever) -> Documents:
    retriever.delete([str(each.id) for each in OLD[2:]])
    return OLD[:2]


def others(retriever: RaLMSpecRetriever) -> Documents:
    """Other texts under the same ids, in another order."""
    new = [Document(page_content=f"New text {n}.", id=str(n)) for n in range(12)][::-1]
    ids = [str(each.id) for each in new]
    retriever.delete(ids)
    retriever.add_documents(new, ids=ids)
    return new


def indexed_anew(retriever: RaLMSpecRetriever) -> Documents:
    """Another index in place of the old one, of other documents."""
    new = [Document(page_content=f"New text {n}.", id=str(n)) for n in range(30)]
    store, made = retriever.vectorstore, FAISS.from_documents(new, EMBEDDINGS)
    store.index, store.docstore = made.index, made.docstore
    store.index_to_docstore_id = made.index_to_docstore_id
    retriever.invalidate()
    return new


def in_chroma(documents: Documents, embeddings: Any) -> Chroma:
    client = chromadb.EphemeralClient()
    for each in client.list_collections():
        client.delete_collection(each.name)
    store = Chroma("faults", embeddings, client=client)
    store.add_documents(documents, ids=[str(each.id) for each in documents])
    return store


STORES: dict[str, Callable[..., Any]] = {
    "FAISS": FAISS.from_documents,
    "in memory": InMemoryVectorStore.from_documents,
    "Chroma": in_chroma,
}


def chat_over(
    retriever: RaLMSpecRetriever, gguf: str, mode: str, **own: Any
) -> ChatRaLMSpec:
    """A chat that looks up every two tokens, as one of the modes has it."""
    settings: dict[str, Any] = {"retrieval_stride": 2} | MODES[mode] | own
    return ChatRaLMSpec(model_path=gguf, retriever=retriever, **settings)


CHANGES = [(kind, change) for kind in STORES for change in (more, fewer, others)]
# Each change under two policies in two modes, and each of these with each other.
WAYS = [(policy, mode) for mode in MODES for policy in ("same", "lookup")]


@pytest.mark.parametrize(
    ("kind", "change", "policy", "mode"),
    [
        (*change, *WAYS[(number + shift) % len(WAYS)])
        for number, change in enumerate(CHANGES)
        for shift in (0, 3)
    ],
)
def test_no_document_is_shown_that_the_store_did_not_find(
    kind: str,
    change: Callable[[RaLMSpecRetriever], Documents],
    policy: str,
    mode: str,
    gguf: str,
) -> None:
    retriever = RaLMSpecRetriever(vectorstore=STORES[kind](OLD, EMBEDDINGS))
    own = {"max_tokens": 16, "speculation_stride": 3, "guess_policy": policy}
    chat = chat_over(retriever, gguf, mode, **own)
    run = chat.start(QUESTION)
    pieces = iter(run)
    next(pieces)
    n_before = len(run.log)
    new = change(retriever)
    for _ in pieces:
        pass
    # What was found before may be told behind the change, what is asked then may not.
    asked = (n for n, (_, event) in enumerate(run.log) if isinstance(event, Asked))
    n_before = next(number for number in asked if number >= n_before)
    looked_up = [
        (number >= n_before, event.query, event.hits[0].document.page_content)
        for number, (_, event) in enumerate(run.log)
        if isinstance(event, Found)
    ]
    before, after = (found_in(kind, each, looked_up) for each in (OLD, new))
    may_be_old = mode == "in flight"  # a call that was out tells what was found then
    for (is_later, _, shown), old_text, new_text in zip(
        looked_up, before, after, strict=True
    ):
        assert shown in ({new_text} if is_later else {old_text, new_text}) | (
            {old_text} if may_be_old else set()
        )
    assert before != after
    again = chat.start(QUESTION)
    assert "".join(again)
    known = {each.page_content for each in new}
    assert {each.page_content for each in again.documents} <= known


@modes
def test_an_index_that_is_replaced_ends_the_answer(mode: str, gguf: str) -> None:
    retriever = RaLMSpecRetriever(vectorstore=FAISS.from_documents(OLD, EMBEDDINGS))
    chat = chat_over(retriever, gguf, mode, max_tokens=24, speculation_stride=1)
    pieces = iter(chat.start(QUESTION))
    shown = [next(pieces)]
    new = indexed_anew(retriever)
    with pytest.raises(StoreError, match="was replaced") as caught:
        shown.extend(pieces)
    assert caught.value.partial == "".join(shown)
    again = chat.start(QUESTION)
    assert "".join(again)
    assert {each.page_content for each in again.documents} <= {
        each.page_content for each in new
    }


def found_in(
    kind: str, documents: Documents, looked_up: list[tuple[bool, str, str]]
) -> list[str]:
    """What a store of just these documents finds for the queries."""
    near: Any = InMemoryVectorStore if kind == "in memory" else FAISS
    index = near.from_documents(documents, EMBEDDINGS)
    return [
        index.similarity_search(query, k=1)[0].page_content for _, query, _ in looked_up
    ]
