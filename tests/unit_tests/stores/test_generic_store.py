from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    StoreError,
)
from langchain_ralmspec.ralm import Session
from langchain_ralmspec.stores import GenericStore, Query, generic_store, open_store
from tests.unit_tests.stores.toys import (
    DIMENSION,
    BatchTableEmbeddings,
    best_ids,
    documents,
    table,
)

N_ROWS = 40


class TextOnlyStore(VectorStore):
    """Searches by text, tells nothing else; its order is that of its list."""

    def __init__(
        self, docs: list[Document], embeddings: Embeddings | None = None
    ) -> None:
        self.docs = docs
        self.own_embeddings = embeddings
        self.calls: list[tuple[str, int, dict[str, Any]]] = []

    @property
    def embeddings(self) -> Embeddings | None:
        return self.own_embeddings

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        filter: Any = None,  # noqa: A002  (LangChain's name)
        **kwargs: Any,
    ) -> list[Document]:
        given = kwargs if filter is None else {**kwargs, "filter": filter}
        self.calls.append((query, k, given))
        if query == "die":
            raise TimeoutError("no answer")
        if query == "stop":
            raise StopIteration
        return self.docs[:k]

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> TextOnlyStore:
        raise NotImplementedError


def by_vector(embeddings: Embeddings) -> GenericStore:
    """A store that is asked by vector, and tells none."""
    langchains = FAISS.from_documents(documents(3), embeddings)
    store = open_store(langchains, search_kwargs={"fetch_k": 9})
    assert isinstance(store, GenericStore)
    return store


def in_memory() -> InMemoryVectorStore:
    store = InMemoryVectorStore(BatchTableEmbeddings(table(N_ROWS + 5)))
    store.add_documents(documents(N_ROWS))
    return store


def test_in_memory_store_against_brute_force() -> None:
    store = open_store(in_memory())
    assert isinstance(store, GenericStore)
    queries = store.encode([f"v{N_ROWS + i}" for i in range(5)])
    found = store.search(queries, 6, with_vectors=True)
    vectors = table(N_ROWS + 5)
    ids = [f"id{row:03d}" for row in range(N_ROWS)]
    for number, hits in enumerate(found):
        query = vectors[N_ROWS + number]
        expected = best_ids(query, vectors[:N_ROWS], ids, 6, "cosine")
        assert [hit.id for hit in hits] == expected
        for hit in hits:
            stored = vectors[int(hit.id[2:])]
            cosine = query @ stored / np.linalg.norm(query) / np.linalg.norm(stored)
            np.testing.assert_array_equal(hit.vector, stored)
            assert hit.score == pytest.approx(float(cosine), rel=1e-5)
    assert (store.metric, store.top_k_is_stable) == ("cosine", False)
    assert (store.count(), store.dimension) == (N_ROWS, DIMENSION)


def test_queries_are_embedded_together_where_hits_have_scores() -> None:
    vectorstore = in_memory()
    store = open_store(vectorstore)
    assert isinstance(vectorstore.embedding, BatchTableEmbeddings)
    vectorstore.embedding.calls.clear()
    queries = store.encode(["v1", "v2", "v3"])
    assert vectorstore.embedding.calls == [["v1", "v2", "v3"]]
    assert all(query.batched for query in queries)
    for hits in store.search(queries, 3):  # by which a near tie is told
        assert hits[0].score == pytest.approx(1)
        assert 1 > hits[1].score > hits[2].score > 0
    embeddings = BatchTableEmbeddings(table(4))
    unscored = by_vector(embeddings)
    embeddings.calls.clear()
    assert not any(query.batched for query in unscored.encode(["v1", "v2", "v3"]))
    assert sorted(embeddings.calls) == [["v1"], ["v2"], ["v3"]]


def test_searches_are_out_at_once_unless_they_compute_here() -> None:
    barrier = threading.Barrier(3)  # opens when all of them are inside

    def meet(*_: Any, **__: Any) -> list[Document]:
        barrier.wait(30)
        return documents(1)

    queries = [Query(text) for text in "abc"]
    remote = TextOnlyStore([])
    remote.similarity_search = meet  # type: ignore[method-assign]
    store = open_store(remote)
    assert [[hit.id for hit in hits] for hits in store.search(queries, 1)] == [
        ["id000"]
    ] * 3
    answer = Session(store).ask(queries, with_vectors=False)
    assert (answer.n_calls, answer.n_queries) == (3, 3)
    threads: set[str] = set()

    class Watched(TextOnlyStore):
        def similarity_search(self, *_: Any, **__: Any) -> list[Document]:
            threads.add(threading.current_thread().name)
            return []

    local = type("SQLiteVec", (Watched,), {})([])
    for vectorstore, most in ((local, 8), (Watched([]), 1)):
        open_store(vectorstore, max_concurrency=most).search(queries, 1)
    assert threads == {threading.current_thread().name}


def test_nothing_is_embedded_that_nobody_needs() -> None:
    embeddings = BatchTableEmbeddings(table(8))
    by_text = open_store(TextOnlyStore(documents(3), embeddings))
    stores: Any = ((by_text, []), (by_vector(embeddings), [["v7"]]))
    for store, embedded in stores:
        embeddings.calls.clear()
        session = Session(store)
        assert session.usable(["lookup", "same"]) == ("same",)
        (hits,) = session.verify([Query("v7")])
        assert session.guess("same", "v6", hits).hits == hits
        session.verify([Query("v7")])
        assert embeddings.calls == embedded, "once, and no document"
        assert (store.metric, hits[0].vector) == (None, None)


def test_scores_without_vectors_are_ranks() -> None:
    store = open_store(in_memory())
    hits = store.search(store.encode(["v1"]), 3)[0]
    assert [(hit.score, hit.vector) for hit in hits] == [
        (0.0, None),
        (-1.0, None),
        (-2.0, None),
    ]


def test_filter_is_handed_to_the_store() -> None:
    def in_group_one(document: Document) -> bool:
        return bool(document.metadata["group"] == 1)

    store = open_store(in_memory(), filter=in_group_one)
    hits = store.search(store.encode(["v0"]), N_ROWS)[0]
    assert {hit.document.metadata["row"] for hit in hits} == set(range(1, N_ROWS, 3))
    texts = TextOnlyStore(documents(2))
    open_store(texts, filter={"group": 0}).search([Query("q")], 1)
    assert texts.calls == [("q", 1, {"filter": {"group": 0}})]


def test_text_store_keeps_its_order_and_is_asked_by_text() -> None:
    vectorstore = TextOnlyStore(list(reversed(documents(4))))
    store = open_store(vectorstore)
    found = store.search(store.encode(["a", "b"]), 3, with_vectors=True)
    assert [[hit.id for hit in hits] for hits in found] == [
        ["id003", "id002", "id001"]
    ] * 2
    assert vectorstore.calls == [("a", 3, {}), ("b", 3, {})]
    assert all(hit.vector is None for hit in found[0])
    assert (store.count(), store.dimension) == (-1, None)


def test_documents_are_embedded_once_for_their_vectors() -> None:
    embeddings = BatchTableEmbeddings(table(8))
    vectorstore = TextOnlyStore(documents(3), embeddings)
    store = open_store(vectorstore, embed_found_documents=True)
    queries = store.encode(["v7"])
    embeddings.calls.clear()
    for _ in range(2):
        hits = store.search(queries, 3, with_vectors=True)[0]
        for row, hit in enumerate(hits):
            np.testing.assert_array_equal(hit.vector, table(8)[row])
    assert embeddings.calls == [["v0", "v1", "v2"]]
    query, first = table(8)[7], table(8)[0]
    cosine = query @ first / np.linalg.norm(query) / np.linalg.norm(first)
    assert hits[0].score == pytest.approx(float(cosine), rel=1e-5)


def test_cached_vectors_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generic_store, "MAX_CACHED_VECTORS", 2)
    embeddings = BatchTableEmbeddings(table(8))
    vectorstore = TextOnlyStore(documents(3), embeddings)
    store = open_store(vectorstore, embed_found_documents=True)
    query = Query("q")
    store.search([query], 3, with_vectors=True)
    assert isinstance(store, GenericStore)
    assert list(store._vectors) == [("id001", "v1"), ("id002", "v2")]
    embeddings.calls.clear()
    store.search([query], 3, with_vectors=True)
    assert embeddings.calls == [["v0"]]


def test_documents_without_id_get_a_stable_one() -> None:
    def docs() -> list[Document]:
        return [
            Document(page_content="same", metadata={"a": 1, "b": 2}),
            Document(page_content="same", metadata={"b": 2, "a": 1}),
            Document(page_content="same", metadata={"a": 2}),
            Document(page_content="other", metadata={"a": 2}),
        ]

    first = open_store(TextOnlyStore(docs())).search([Query("q")], 4)[0]
    again = open_store(TextOnlyStore(docs())).search([Query("q")], 4)[0]
    assert [hit.id for hit in first] == [hit.id for hit in again]
    assert [hit.document.metadata for hit in first] == [
        {"b": 2, "a": 1},
        {"a": 2},
        {"a": 2},
    ]
    assert len({hit.id for hit in first}) == 3


def test_two_documents_under_one_id_are_two() -> None:
    class Pieces(InMemoryVectorStore):
        def similarity_search(self, *_: Any, **__: Any) -> list[Document]:
            return [Document(text, id="1") for text in ("a", "b", "a", "b")]

    store = GenericStore(Pieces(BatchTableEmbeddings(table(3))))
    (hits,) = store.search(store.encode(["v0"]), 4)
    assert [hit.document.page_content for hit in hits] == ["a", "b"]
    assert hits[0].id == "1" != hits[1].id


def test_metadata_that_cannot_be_sorted_gets_an_id_too() -> None:
    odd = Document.model_construct(page_content="\ud835", metadata={1: "a", "b": 2})
    (hits,) = open_store(TextOnlyStore([odd])).search([Query("q")], 1)
    assert len(hits[0].id) == 64


def test_dying_store_is_a_store_error_that_names_it() -> None:
    store = open_store(TextOnlyStore([]))
    with pytest.raises(StoreError, match=r"TextOnlyStore .*no answer") as caught:
        store.search([Query("die")], 1)
    assert isinstance(caught.value.__cause__, TimeoutError)
    with pytest.raises(StoreError, match=r"TextOnlyStore .*StopIteration"):
        store.search([Query("stop")], 1)


@pytest.mark.parametrize("kind", [ValueError, IndexError])
def test_a_document_that_is_broken_is_an_error_and_no_end(kind: Any) -> None:
    class Broken(TextOnlyStore):
        def similarity_search(self, query: str, k: int = 4, *_: Any, **__: Any) -> Any:
            found = super().similarity_search(query, k)
            if k >= 7:
                msg = f"Could not find document for id {found[6].id}, got None"
                raise kind(msg)
            return found

    store = GenericStore(Broken(documents(30)[::-1]))
    assert len(store.search([Query("v0")], 6)[0]) == 6
    with pytest.raises(StoreError, match="Could not find document"):
        store.search([Query("v0")], 8)


def test_bad_arguments() -> None:
    store = open_store(in_memory())
    with pytest.raises(InvalidValueError, match="got 0"):
        store.search([], 0)
    with pytest.raises(InvalidValueError, match="no vector"):
        store.search([Query("q")], 1)
    assert store.dimension == DIMENSION
    with pytest.raises(DimensionMismatchError, match=r"\(3,\)"):
        store.search([Query("q", np.ones(3, dtype=np.float32))], 1)


def test_empty_store() -> None:
    store = open_store(InMemoryVectorStore(BatchTableEmbeddings(table(3))))
    assert store.search(store.encode(["v0", "v1"]), 2) == [[], []]
    assert store.count() == 0
