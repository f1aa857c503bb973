import uuid
from pathlib import Path
from typing import Any, Literal, cast

import chromadb
import numpy as np
import pytest
from chromadb.api.collection_configuration import CreateHNSWConfiguration
from chromadb.config import Settings
from langchain_chroma import Chroma
from langchain_core.documents import Document

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.bench.servers.chroma import ChromaServer
from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    StoreError,
)
from langchain_ralmspec.stores import ChromaStore, Query, open_store
from tests.unit_tests.stores.toys import (
    DIMENSION,
    BatchTableEmbeddings,
    TableEmbeddings,
    best_ids,
    documents,
    table,
)

N_ROWS = 60
N_QUERIES = 6
METRICS = {"l2": "squared_l2", "cosine": "cosine", "ip": "inner_product"}
QUERY_TEXTS = [f"v{N_ROWS + i}" for i in range(N_QUERIES)]


def settings() -> Settings:
    # Anew for every client: HttpClient writes its port into what it is given.
    return Settings(anonymized_telemetry=False)


@pytest.fixture(params=["ephemeral", "persistent", "server"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "ephemeral":
        return chromadb.EphemeralClient(settings())
    if request.param == "persistent":
        return chromadb.PersistentClient(tmp_path / "files", settings())
    server: ChromaServer = request.getfixturevalue("chroma_server")
    return chromadb.HttpClient(server.host, server.port, settings=settings())


def make(
    client: Any,
    space: Literal["l2", "cosine", "ip"] = "l2",
    n_rows: int = N_ROWS,
    hnsw: CreateHNSWConfiguration | None = None,
) -> Chroma:
    # Wide enough for hnswlib to be exact on so few rows.
    exact = CreateHNSWConfiguration(space=space, ef_search=200, ef_construction=200)
    store = Chroma(
        collection_name=f"test-{uuid.uuid4()}",
        embedding_function=BatchTableEmbeddings(table(N_ROWS + N_QUERIES)),
        client=client,
        collection_configuration={"hnsw": exact if hnsw is None else hnsw},
    )
    if n_rows:
        store.add_documents(documents(n_rows))
    return store


@pytest.fixture
def local() -> Any:
    return chromadb.EphemeralClient(settings())


class CollectionSpy:
    """Passes everything on to the real collection and counts the queries."""

    def __init__(self, collection: Any) -> None:
        self._real = collection
        self.queries: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def query(self, **arguments: Any) -> Any:
        self.queries.append(arguments)
        return self._real.query(**arguments)


def spy_on(vectorstore: Chroma) -> CollectionSpy:
    spy = CollectionSpy(vectorstore._collection)
    vectorstore._chroma_collection = spy  # type: ignore[assignment]
    return spy


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_finds_what_brute_force_finds(
    client: Any, space: Literal["l2", "cosine", "ip"]
) -> None:
    store = open_store(make(client, space))
    assert isinstance(store, ChromaStore)
    assert store.metric == METRICS[space]
    vectors, ids = table(N_ROWS), [f"id{row:03d}" for row in range(N_ROWS)]
    raw = table(N_ROWS + N_QUERIES)[N_ROWS:]
    found = store.search(store.encode(QUERY_TEXTS), 5, with_vectors=True)
    for query, hits in zip(raw, found, strict=True):
        assert [hit.id for hit in hits] == best_ids(
            query, vectors, ids, 5, METRICS[space]
        )
        for hit in hits:
            stored = vectors[int(hit.id[2:])]
            assert isinstance(hit.vector, np.ndarray)
            np.testing.assert_allclose(hit.vector, stored, rtol=1e-6)
            assert hit.score == pytest.approx(score(query, stored, space), rel=1e-4)
            assert hit.document == documents(N_ROWS)[int(hit.id[2:])]


def score(query: Any, stored: Any, space: str) -> float:
    if space == "l2":
        return -float(np.linalg.norm(query - stored) ** 2)
    dot = float(query @ stored)
    if space == "ip":
        return dot
    return dot / float(np.linalg.norm(query) * np.linalg.norm(stored))


def test_many_queries_are_one_request_and_answer_as_alone(client: Any) -> None:
    vectorstore = make(client)
    store = open_store(vectorstore)
    spy = spy_on(vectorstore)
    queries = store.encode(QUERY_TEXTS)
    together = store.search(queries, 3)
    assert len(spy.queries) == 1
    alone = [store.search([query], 3)[0] for query in queries]
    assert [[(h.id, h.score) for h in hits] for hits in together] == [
        [(h.id, h.score) for h in hits] for hits in alone
    ]


def test_vectors_travel_only_when_asked_for(local: Any) -> None:
    vectorstore = make(local)
    store = open_store(vectorstore)
    spy = spy_on(vectorstore)
    queries = store.encode(QUERY_TEXTS[:1])
    assert store.search(queries, 1)[0][0].vector is None
    assert "embeddings" not in spy.queries[0]["include"]
    assert store.search(queries, 1, with_vectors=True)[0][0].vector is not None
    assert "embeddings" in spy.queries[1]["include"]


def test_top_hit_is_langchains(local: Any) -> None:
    vectorstore = make(local)
    store = open_store(vectorstore)
    ours = [hits[0].document for hits in store.search(store.encode(QUERY_TEXTS), 1)]
    theirs = [vectorstore.similarity_search(text, k=1)[0] for text in QUERY_TEXTS]
    assert ours == theirs


def test_filter(client: Any) -> None:
    store = open_store(make(client), filter={"group": {"$eq": 1}})
    hits = store.search(store.encode(QUERY_TEXTS[:1]), N_ROWS)[0]
    assert {hit.document.metadata["row"] for hit in hits} == set(range(1, N_ROWS, 3))
    nobody = open_store(make(client), filter={"group": 9})
    assert nobody.search(nobody.encode(QUERY_TEXTS), 3) == [[]] * N_QUERIES


def test_filters_of_two_stores_over_one_collection_stay_apart(local: Any) -> None:
    vectorstore = make(local)
    stores = [open_store(vectorstore, filter={"group": group}) for group in (0, 1)]
    queries = stores[0].encode(QUERY_TEXTS)
    for group, store in enumerate(stores):
        for hits in store.search(queries, 4):
            assert {hit.document.metadata["group"] for hit in hits} == {group}


def test_records_without_metadata_or_text(client: Any) -> None:
    vectorstore = make(client, n_rows=0)
    vectors = table(3)
    vectorstore._collection.add(ids=["bare"], embeddings=vectors[:1], documents=["x"])
    vectorstore._collection.add(ids=["empty"], embeddings=vectors[1:2])
    store = open_store(vectorstore)
    (hits,) = store.search([Query("q", vectors[1])], 3)
    assert [(hit.id, hit.document.page_content) for hit in hits] == [("bare", "x")]
    assert hits[0].document.metadata == {}


def test_ties_fall_to_the_smaller_id(local: Any) -> None:
    vectorstore = make(local, n_rows=0)
    same = np.ones((4, DIMENSION), dtype=np.float32)
    vectorstore._collection.add(
        ids=["d", "b", "c", "a"], embeddings=same, documents=["x"] * 4
    )
    store = open_store(vectorstore)
    for k in (1, 2, 4):
        (hits,) = store.search([Query("q", table(1)[0])], k)
        assert [hit.id for hit in hits] == ["a", "b", "c", "d"][:k]


def test_asking_for_more_than_there_is(client: Any) -> None:
    store = open_store(make(client, n_rows=3))
    found = store.search(store.encode(QUERY_TEXTS), 50)
    assert [len(hits) for hits in found] == [3] * N_QUERIES


def test_empty_collection(client: Any) -> None:
    store = open_store(make(client, n_rows=0))
    assert store.search(store.encode(QUERY_TEXTS), 2) == [[]] * N_QUERIES
    assert store.search([], 2) == []
    assert (store.count(), store.dimension) == (0, None)


def test_count_and_dimension_follow_the_collection(local: Any) -> None:
    vectorstore = make(local)
    store = open_store(vectorstore)
    assert (store.count(), store.dimension) == (N_ROWS, DIMENSION)
    vectorstore.delete(["id000"])
    assert store.count() == N_ROWS - 1
    vectorstore.reset_collection()
    vectorstore._collection.add(
        ids=["a"], embeddings=table(1, dimension=2), documents=["x"]
    )
    assert (store.count(), store.dimension) == (1, 2)


def test_wrong_dimension_quotes_both(client: Any) -> None:
    store = open_store(make(client, n_rows=2))
    with pytest.raises(DimensionMismatchError, match=rf"\(3,\).*{DIMENSION}"):
        store.search([Query("q", np.zeros(3, dtype=np.float32))], 1)


def test_bad_arguments(local: Any) -> None:
    store = open_store(make(local, n_rows=2))
    with pytest.raises(InvalidValueError, match="got 0"):
        store.search(store.encode(QUERY_TEXTS), 0)
    with pytest.raises(InvalidValueError, match="no vector"):
        store.search([Query("q")], 1)


def test_embeddings_without_a_batch_method_give_unbatched_queries(local: Any) -> None:
    vectorstore = make(local, n_rows=0)
    vectorstore._embedding_function = TableEmbeddings(table(3))
    assert not any(q.batched for q in open_store(vectorstore).encode(["v0", "v1"]))


def test_bad_filter_is_a_store_error(local: Any) -> None:
    store = open_store(make(local), filter={"$nonsense": 1})
    with pytest.raises(StoreError, match="Invalid where clause"):
        store.search(store.encode(QUERY_TEXTS), 1)


def test_more_results_than_sqlite_takes_at_once(local: Any) -> None:
    vectorstore = make(local, n_rows=0)
    ids = [f"{row:04d}" for row in range(2000)]
    vectorstore._collection.add(ids=ids, embeddings=table(2000), documents=ids)
    store = open_store(vectorstore)
    spy = spy_on(vectorstore)
    queries = [Query("q", vector) for vector in table(40, seed=5)]
    found = store.search(queries, 1000)
    assert len(spy.queries) == 2
    assert len(found) == 40
    for query, hits in zip(queries, found, strict=True):
        assert isinstance(query.vector, np.ndarray)
        assert [hit.id for hit in hits[:3]] == best_ids(
            query.vector, table(2000), ids, 3, "squared_l2"
        )


def test_dead_server_is_a_store_error_that_names_the_collection(
    chroma_server: ChromaServer,
) -> None:
    client = chromadb.HttpClient(
        chroma_server.host, chroma_server.port, settings=settings()
    )
    vectorstore = make(client)
    store = open_store(vectorstore)
    queries = store.encode(QUERY_TEXTS)
    assert len(store.search(queries, 2)) == N_QUERIES
    chroma_server.stop()
    name = vectorstore._collection.name
    with pytest.raises(StoreError, match=f"'{name}' failed to search") as caught:
        store.search(queries, 2)
    assert caught.value.__cause__ is not None
    with pytest.raises(StoreError, match="failed to count"):
        store.count()


def test_a_subclass_that_keeps_documents_back_is_asked_by_itself(local: Any) -> None:
    class Tenants(Chroma):
        def similarity_search_with_score(  # type: ignore[override]  # ours alone calls
            self, query: str, k: int = 4, **_: Any
        ) -> list[tuple[Document, float]]:
            group: Any = {"group": 1}
            return super().similarity_search_with_score(query, k, filter=group)

    vectorstore = make(local)
    vectorstore.__class__ = Tenants
    retriever = RaLMSpecRetriever(vectorstore=vectorstore, k=9)
    assert {d.metadata["group"] for d in retriever.invoke(QUERY_TEXTS[0])} == {1}


def test_k_may_be_a_number_of_numpy(local: Any) -> None:
    store = ChromaStore(make(local))
    queries = store.encode(QUERY_TEXTS[:2])
    found = store.search(queries, np.int64(3))  # type: ignore[arg-type]
    assert [len(hits) for hits in found] == [3, 3]


def test_words_of_chromas_own_search(local: Any) -> None:
    words = {"where_document": {"$contains": "v7"}}
    retriever = RaLMSpecRetriever(vectorstore=make(local), search_kwargs=words)
    assert [d.id for d in retriever.invoke(QUERY_TEXTS[0])] == ["id007"]


def test_a_collection_made_anew_by_another_client_is_found_again(
    chroma_server: ChromaServer,
) -> None:
    ours, theirs = (
        chromadb.HttpClient(chroma_server.host, chroma_server.port, settings=settings())
        for _ in "ab"
    )
    vectorstore = make(ours)
    retriever = RaLMSpecRetriever(vectorstore=vectorstore, k=1)
    name = vectorstore._collection.name
    theirs.delete_collection(name)
    with pytest.raises(StoreError, match=name):
        retriever.invoke("v0")
    with pytest.raises(StoreError, match=f"'{name}' failed to be found again"):
        retriever.invalidate()
    anew = theirs.create_collection(name, embedding_function=None)
    anew.add(ids=["new"], embeddings=table(1), documents=["new"])
    retriever.invalidate()
    assert [d.id for d in retriever.invoke("v0")] == ["new"]
    vectorstore.delete_collection()
    with pytest.raises(StoreError, match=f"'{name}' failed to be found again"):
        retriever.invalidate()


@pytest.mark.parametrize("policy", ["lookup", "same"])
def test_an_encoder_that_changes_its_dimension_is_told_before_the_search(
    local: Any, policy: Literal["lookup", "same"]
) -> None:
    vectorstore = make(local)
    session = RaLMSpecRetriever(vectorstore=vectorstore).session(guess_policy=policy)
    session.verify(["v0"])
    cast("Any", vectorstore)._embedding_function.table = table(9, dimension=3)
    with pytest.raises(DimensionMismatchError, match=rf"\(3,\).*{DIMENSION}"):
        session.verify([f"v{len(session.speculate('v1'))}"])
