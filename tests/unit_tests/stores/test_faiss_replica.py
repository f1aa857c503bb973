"""The replica that is built of a flat FAISS index, and what may be given as one."""

from __future__ import annotations

import pickle
from typing import Any

import faiss
import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import BM25Store, RaLMSpecRetriever
from langchain_ralmspec.errors import DimensionMismatchError, InvalidValueError
from langchain_ralmspec.ralm import Session
from langchain_ralmspec.speculation import REPLICA
from langchain_ralmspec.stores import (
    FaissStore,
    Hit,
    Query,
    faiss_replica,
    open_replica,
    open_store,
)
from langchain_ralmspec.stores.faiss_replica import FaissReplica
from langchain_ralmspec.stores.replica import StoreReplica
from tests.unit_tests.stores.faiss_toys import langchain_faiss
from tests.unit_tests.stores.toys import TableEmbeddings, table


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build of the smallest index, in several chunks."""
    monkeypatch.setattr(faiss_replica, "FEWEST_NUMBERS", 1)
    monkeypatch.setattr(faiss_replica, "_CHUNK", 64)


def built(store: Any) -> FaissReplica:
    replica = open_replica("auto", store)
    assert isinstance(replica, FaissReplica)
    assert not replica.is_ready
    assert not replica.near(Query("q", table(1)[0]), 3).ids, "nothing before it is"
    replica.prepare()
    assert replica.wait(60)
    return replica


@pytest.mark.parametrize("kind", ["flat_ip", "flat_l2", "normalized_l2"])
def test_it_finds_what_an_exact_search_finds(kind: str) -> None:
    store = FaissStore.from_langchain(langchain_faiss(kind))
    replica, queries = built(store), store.encode([f"v{row}" for row in range(99)])
    found = store.search(queries, 3, with_vectors=True)
    n_right = 0
    for query, hits in zip(queries, found, strict=True):
        near = replica.near(query, 11)
        n_right += {hit.id for hit in hits} <= set(near.ids)
        assert near.vectors is not None
        vectors = dict(zip(near.ids, near.vectors, strict=True))
        for hit in hits:  # but for the rounding to 8 bits
            if hit.id in vectors:
                assert hit.vector is not None
                np.testing.assert_allclose(vectors[hit.id], hit.vector, atol=0.05)
    assert n_right >= 97


def test_documents_that_come_and_go() -> None:
    vectorstore = langchain_faiss("flat_l2", 100)
    encoder: Any = vectorstore.embedding_function
    table_ = encoder.table
    store = FaissStore.from_langchain(vectorstore)
    replica = built(store)

    def nearest(row: int) -> str | None:
        session = Session(store, replica=replica)
        session.usable(["lookup"])
        guess = session.guess(REPLICA, f"v{row}", None)
        return guess.hits[0].document.page_content if guess.hits else None

    assert nearest(7) == "v7"
    vectorstore.add_embeddings([("v105", table_[105].tolist())], ids=["new"])
    with faiss_replica._turn.changing():
        assert nearest(105) != "v105", "it is not in the replica yet"
    assert replica.wait(60)
    assert nearest(105) == "v105"

    index = replica._built.index  # type: ignore[union-attr]
    vectorstore.delete(["id003"])
    with faiss_replica._turn.changing():
        assert nearest(7) == "v7", "rows were renumbered"
        assert nearest(3) not in ("v3", None), "of what is there, the nearest"
    assert replica.wait(60)
    assert replica._built.index is not index  # type: ignore[union-attr]
    assert replica._built.index.ntotal == 100  # type: ignore[union-attr]
    assert nearest(7) == "v7"


def test_the_guess_is_the_stores_own_document() -> None:
    vectorstore = langchain_faiss("flat_l2")
    retriever = RaLMSpecRetriever(vectorstore=vectorstore, replica="auto")
    with faiss_replica._turn.changing():
        session = retriever.session(k=1)  # which begins to build it
    assert retriever._kept_up().replica.wait(60)  # type: ignore[union-attr]
    assert session.speculate("v9") == [], "a session without it stays so"
    (guess,) = retriever.session(k=1).speculate("v9")
    docstore: Any = vectorstore.docstore
    own = docstore.search(guess.id)
    docstore._dict[guess.id] = Document("another", id=guess.id)
    assert guess == own
    (again,) = retriever.session(k=1).speculate("v9")
    assert again.page_content == "another"


@pytest.mark.parametrize("reason", ["small", "no memory"])
def test_it_is_not_built_where_it_does_not_pay(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "small":
        monkeypatch.setattr(faiss_replica, "FEWEST_NUMBERS", 10**6)
    else:
        monkeypatch.setattr(faiss_replica, "has_room", lambda _: False)
    store = FaissStore.from_langchain(langchain_faiss())
    session = Session(store, replica=open_replica("auto", store))
    assert session._replica is not None
    assert not session._replica.wait(60)
    assert session.usable(["lookup", "same"]) == ("lookup", "same")


def test_a_build_that_fails_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> bool:
        raise MemoryError("no more")

    monkeypatch.setattr(faiss_replica, "has_room", fail)
    replica = FaissReplica(FaissStore.from_langchain(langchain_faiss()))
    replica.prepare()
    assert not replica.wait(60)
    with pytest.warns(RuntimeWarning, match="the replica failed: .* no more"):
        replica.prepare()
    replica.prepare()


def test_it_is_built_once_for_all_filters() -> None:
    vectorstore = langchain_faiss()
    docstore: Any = vectorstore.docstore
    for row, document in enumerate(docstore._dict.values()):
        document.metadata["even"] = row % 2 == 0
    retriever = RaLMSpecRetriever(vectorstore=vectorstore, replica="auto")
    replica = retriever._kept_up().replica
    assert replica is not None
    assert retriever.new_session(k=1).wait_for_replica()
    filtered = retriever.model_copy(update={"filter": {"even": True}})
    assert filtered._kept_up().replica is replica
    guess = filtered.session(k=2).speculate("v7")
    assert [document.metadata["even"] for document in guess] == [True, True]
    retriever.invalidate()
    assert retriever._kept_up().replica is not replica


@pytest.mark.parametrize("replica", ["auto", langchain_faiss("hnsw", 20), None])
def test_a_retriever_with_one_is_pickled(replica: Any) -> None:
    retriever = RaLMSpecRetriever(
        vectorstore=langchain_faiss("flat_l2", 20), replica=replica
    )
    copy = pickle.loads(pickle.dumps(retriever))  # noqa: S301  our own
    assert type(copy._kept_up().replica) is type(retriever._kept_up().replica)
    assert copy.invoke("v3") == retriever.invoke("v3")


def flat(dimension: int) -> FaissStore:
    index = faiss.IndexFlatL2(dimension)
    vectors = table(5, dimension)
    index.add(vectors)
    documents = [Document(f"v{row}") for row in range(5)]
    return FaissStore(index, documents, TableEmbeddings(vectors))


def in_memory() -> InMemoryVectorStore:
    return InMemoryVectorStore(DeterministicFakeEmbedding(size=8))


def own_search() -> FaissStore:
    class Own(FaissStore):
        def search(self, *args: Any, **kwargs: Any) -> list[list[Hit]]:
            return [hits[1:] for hits in super().search(*args, **kwargs)]

    store = flat(8)
    return Own(store.parts[0].raw, [Document("x")] * 5, TableEmbeddings(table(5, 8)))


@pytest.mark.parametrize(
    ("vectorstore", "replica", "error", "message"),
    [
        (flat(8), "yes", InvalidValueError, "'auto', a vector store or None, .* 'yes'"),
        (flat(8), 7, InvalidValueError, "int is no vector store"),
        (flat(8), flat(9), DimensionMismatchError, "of 9 numbers and .* of 8"),
        (langchain_faiss("hnsw", 9), "auto", InvalidValueError, "not of IndexHNSW"),
        (in_memory(), "auto", InvalidValueError, "not of GenericStore"),
        (own_search(), "auto", InvalidValueError, "not of Own"),
    ],
)
def test_what_is_no_replica(
    vectorstore: Any, replica: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_replica(replica, open_store(vectorstore))
    with pytest.raises(ValueError, match=message):  # pydantic's
        RaLMSpecRetriever(vectorstore=vectorstore, replica=replica)


def test_any_store_may_be_one_that_can_be_searched_as_the_other_is() -> None:
    texts = [
        Document(f"passage {n}", id=str(n), metadata={"kind": "text"}) for n in "abc"
    ]
    exact = in_memory()
    exact.add_documents(texts)

    def search(query: str) -> list[Document]:
        return [each for each in texts if each.page_content == query]

    words = BM25Store.from_documents(texts)
    others: list[Any] = [words, RunnableLambda(search)]
    for given in (exact, *others):
        replica = open_replica(given, open_store(exact))
        assert isinstance(replica, StoreReplica)
        assert replica.near(Query("passage b"), 1).ids == ["b"]

    def is_b(document: Document) -> bool:
        return document.id == "b"

    replica = open_replica(exact, open_store(exact), is_b)
    assert replica is not None
    assert replica.near(Query("passage a"), 3).ids == ["b"]
    # It would guess what is to be kept from who asks.
    for given in others:
        with pytest.raises(InvalidValueError, match="replica cannot be searched: "):
            open_replica(given, open_store(exact), is_b)
        with pytest.raises(InvalidValueError, match="replica cannot be searched: "):
            open_replica(given, open_store(exact), None, {"namespace": "red"})
