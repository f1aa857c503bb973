from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_qdrant import QdrantVectorStore, SparseEmbeddings
from langchain_qdrant.qdrant import RetrievalMode
from langchain_qdrant.sparse_embeddings import SparseVector
from qdrant_client import QdrantClient, models

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.base.restricted import RestrictedRetrievers
from langchain_ralmspec.errors import (
    InvalidValueError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.retrievers import adopt
from langchain_ralmspec.stores import GenericStore, QdrantStore, lock_of, open_store
from tests.integration_tests.stores.one_call import (
    N_ROWS,
    QUERY_TEXTS,
    check_a_batch_is_one_call,
    check_a_verification_is_one_call,
    check_equal_scores_fall_to_the_smaller_id,
    check_it_finds_what_langchain_finds,
    check_refusals,
    check_vectors,
    embeddings,
)
from tests.unit_tests.stores.toys import DIMENSION, documents

METRICS = {"Cosine": "cosine", "Euclid": "squared_l2", "Dot": "inner_product"}


def score(distance: str) -> Any:
    return (lambda far: -(far**2)) if distance == "Euclid" else float


def where(key: str, **condition: Any) -> models.Filter:
    of_rows = models.FieldCondition(key=f"metadata.{key}", **condition)
    return models.Filter(must=[of_rows])


GROUP_1 = where("group", match=models.MatchValue(value=1))
FILTERS = [
    GROUP_1,
    where("row", range=models.Range(gte=20, lt=30)),
    models.Filter(must_not=[GROUP_1]),
    models.Filter(should=[where("row", match=models.MatchAny(any=[3, 5])), GROUP_1]),
    where("group", match=models.MatchValue(value=9)),
]


@pytest.fixture(params=["memory", "folder"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantClient]:
    in_memory = request.param == "memory"
    client = QdrantClient(":memory:") if in_memory else QdrantClient(path=str(tmp_path))
    yield client
    client.close()


@pytest.fixture
def local() -> QdrantClient:
    return QdrantClient(":memory:")


def make(
    client: QdrantClient,
    distance: str = "Cosine",
    name: str = "",
    n_rows: int = N_ROWS,
    kind: type[QdrantVectorStore] = QdrantVectorStore,
) -> QdrantVectorStore:
    collection, kind_of = f"test-{uuid.uuid4()}", models.Distance(distance)
    size = models.VectorParams(size=DIMENSION, distance=kind_of)
    other = models.VectorParams(size=2, distance=models.Distance.DOT)
    named = {name: size, "other": other}
    client.create_collection(collection, vectors_config=named if name else size)
    store = kind(client, collection, embeddings(), distance=kind_of, vector_name=name)
    # Ids of both kinds.
    ids: list[Any] = [row if row % 2 else str(uuid.UUID(int=row)) for row in range(60)]
    if n_rows:
        store.add_documents(documents(n_rows), ids=ids[:n_rows])
    return store


@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize("name", ["", "text"])
def test_finds_what_langchain_finds(
    client: QdrantClient, distance: str, name: str
) -> None:
    langchains = make(client, distance, name)
    store = open_store(langchains)
    assert isinstance(store, QdrantStore)
    assert (store.metric, store.top_k_is_stable) == (METRICS[distance], False)
    found = check_it_finds_what_langchain_finds(store, langchains, score(distance))
    check_vectors(found, normalized=distance == "Cosine")
    for hit in (hit for hits in found for hit in hits):
        assert hit.id == str(hit.document.metadata["_id"])
    assert (store.count(), store.dimension) == (N_ROWS, DIMENSION)


@pytest.mark.parametrize(
    ("filter_", "n_found"), [*zip(FILTERS, (20, 10, 40, 22, 0), strict=True)]
)
def test_filters_mean_what_they_mean_to_langchain(
    local: QdrantClient, filter_: models.Filter, n_found: int
) -> None:
    langchains = make(local)
    store = open_store(langchains, filter=filter_)
    assert isinstance(store, QdrantStore)
    found = check_it_finds_what_langchain_finds(
        store, langchains, float, k=N_ROWS, filter=filter_
    )
    assert len(found[0]) == n_found


@pytest.mark.parametrize("words", [{}, {"hybrid_fusion": None}])
def test_a_filter_changed_in_place_counts_from_the_next_request_on(
    local: QdrantClient, words: dict[str, Any]
) -> None:
    langchains, filter_ = make(local), GROUP_1.model_copy(deep=True)
    whole = RaLMSpecRetriever(vectorstore=langchains, search_kwargs=words)
    own = RaLMSpecRetriever(vectorstore=langchains, filter=filter_, search_kwargs=words)
    given = langchains.as_retriever(search_kwargs={"filter": filter_, **words})
    restricted, adopted = RestrictedRetrievers(), adopt(given)
    before = restricted.of(whole, {"filter": filter_})

    def groups(retriever: RaLMSpecRetriever) -> set[int]:
        return {each.metadata["group"] for each in retriever.invoke("v0")}

    for group in (1, 2):
        filter_.must[0].match.value = group  # type: ignore[index, union-attr]
        now = restricted.of(whole, {"filter": filter_})
        assert now is restricted.of(whole, {"filter": filter_.model_copy(deep=True)})
        assert groups(now) == groups(adopt(adopted)) == {group}
        assert groups(before) == groups(own) == {1}, "copies, as of a dict"
    own.filter.must[0].match.value = 2
    assert groups(own) == {2}


@pytest.mark.parametrize("condition", [{"group": 1}, {"must": []}, callable])
@pytest.mark.parametrize("words", [{}, {"hybrid_fusion": None}])
def test_a_filter_that_is_none_is_refused_before_a_search(
    local: QdrantClient, condition: Any, words: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValueError, match=r"is a qdrant_client\.models\.Filter"):
        open_store(make(local), filter=condition, search_kwargs=words)


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
@pytest.mark.parametrize(
    "words",
    [
        {"score_threshold": 0.2},
        {"offset": 3},
        {"search_params": models.SearchParams(exact=True), "consistency": 1},
    ],
)
def test_other_words_of_langchains_search(
    local: QdrantClient, words: dict[str, Any]
) -> None:
    langchains = make(local)
    store = open_store(langchains, search_kwargs=words, filter=GROUP_1)
    assert isinstance(store, QdrantStore)
    found = check_it_finds_what_langchain_finds(
        store, langchains, float, filter=GROUP_1, **words
    )
    assert any(found)


def test_a_word_that_is_none_is_refused(local: QdrantClient) -> None:
    with pytest.raises(UnknownArgumentError, match="did you mean 'score_threshold'"):
        open_store(make(local), search_kwargs={"score_treshold": 0.5})


def spied(langchains: QdrantVectorStore, patch: pytest.MonkeyPatch) -> list[Any]:
    """What its client is asked."""
    asked: list[Any] = []
    client: Any = langchains.client
    for name in ("query_batch_points", "query_points", "get_collection"):

        def note(*given: Any, name: str = name, **words: Any) -> Any:
            asked.append((given, words))
            return getattr(QdrantClient, name)(client, *given, **words)

        patch.setattr(client, name, note)
    return asked


def test_many_queries_are_one_request(
    local: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    langchains = make(local)
    store = open_store(langchains)
    asked = spied(langchains, monkeypatch)
    check_a_batch_is_one_call(store, asked)
    assert not asked[-1][0][1][0].with_vector


def test_a_verification_is_one_request(
    local: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    langchains = make(local)
    check_a_verification_is_one_call(langchains, spied(langchains, monkeypatch))


@pytest.mark.parametrize("distance", METRICS)
def test_equal_documents_come_by_their_ids(local: QdrantClient, distance: str) -> None:
    langchains = make(local, distance, n_rows=0)
    ids = [str(uuid.UUID(int=number)) for number in (4, 1, 5, 2, 3)]
    langchains.add_texts(["v1"] * len(ids), ids=ids)
    check_equal_scores_fall_to_the_smaller_id(open_store(langchains), ids)


def test_bad_arguments_and_dimensions(local: QdrantClient) -> None:
    check_refusals(open_store(make(local)), DIMENSION)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_vector_that_is_near_to_nothing_is_not_found_first(
    local: QdrantClient,
) -> None:
    """As an encoder makes one whose numbers overflow; its scores are none."""
    langchains = make(local)
    store = open_store(langchains)
    point = models.PointStruct(id=999, vector=[float("inf")] * DIMENSION, payload={})
    local.upsert(langchains.collection_name, [point])
    with pytest.raises(StoreError, match="the document '999' the score nan: its stor"):
        store.search(store.encode(["v0"]), 1)


def test_an_empty_collection(local: QdrantClient) -> None:
    store = open_store(make(local, n_rows=0))
    assert store.search(store.encode(QUERY_TEXTS), 2) == [[]] * len(QUERY_TEXTS)
    assert (store.count(), store.dimension) == (0, DIMENSION)


def test_a_collection_that_is_gone_is_a_store_error(local: QdrantClient) -> None:
    langchains = make(local)
    store = open_store(langchains)
    queries = store.encode(QUERY_TEXTS)
    local.delete_collection(langchains.collection_name)
    with pytest.raises(StoreError, match=r"Qdrant collection 'test-.*failed to search"):
        store.search(queries, 2)
    with pytest.raises(StoreError, match="failed to count"):
        store.count()


def test_a_distance_that_is_not_the_collections_is_told(local: QdrantClient) -> None:
    name = make(local, "Euclid").collection_name
    langchains = QdrantVectorStore(
        local, name, embeddings(), validate_collection_config=False
    )
    store = open_store(langchains)
    with pytest.raises(StoreError, match="does not rank by Cosine"):
        store.search(store.encode(QUERY_TEXTS), 2)


def test_a_server_that_fails_and_one_that_is_gone() -> None:
    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500, "out of order")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Failing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    langchains = QdrantVectorStore(
        QdrantClient(port=server.server_port, check_compatibility=False),
        "books",
        embeddings(),
        validate_collection_config=False,
        validate_embeddings=False,
    )
    store = open_store(langchains)
    queries = store.encode(QUERY_TEXTS)
    message = r"Qdrant collection 'books' failed to search: .*"
    try:
        with pytest.raises(StoreError, match=message + "500") as caught:
            store.search(queries, 2)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert caught.value.__cause__ is not None
    with pytest.raises(StoreError, match=message):
        store.search(queries, 2)
    langchains.client.close()


class Sparse(SparseEmbeddings):
    def embed_query(self, text: str) -> SparseVector:
        return SparseVector(indices=[int(text[1:]) % 7], values=[1.0])

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        return [self.embed_query(text) for text in texts]


@pytest.mark.parametrize("mode", [RetrievalMode.SPARSE, RetrievalMode.HYBRID])
def test_sparse_and_hybrid_stores_are_asked_query_by_query(mode: RetrievalMode) -> None:
    langchains = QdrantVectorStore.construct_instance(
        embeddings() if mode == RetrievalMode.HYBRID else None,
        mode,
        Sparse(),
        client_options={"location": ":memory:"},
    )
    langchains.add_documents(documents(20), ids=list(range(20)))
    store = open_store(langchains, filter=GROUP_1)
    assert isinstance(store, GenericStore)
    (hits,) = store.search(store.encode(["v8"]), 1)
    assert hits[0].document.metadata["row"] == 1
    for text in QUERY_TEXTS:  # the words count as well as the dense vectors
        (hits,) = store.search(store.encode([text]), 5)
        theirs = langchains.similarity_search(text, 5, filter=GROUP_1)
        assert [hit.document for hit in hits] == theirs
    langchains.client.close()


def test_a_distance_that_no_cache_compares_by_goes_query_by_query(
    local: QdrantClient,
) -> None:
    langchains = make(local, "Manhattan")
    store = open_store(langchains)
    assert isinstance(store, GenericStore)
    (hits,) = store.search(store.encode(["v0"]), 3)
    theirs = langchains.similarity_search("v0", 3)
    assert [hit.document for hit in hits] == theirs


def test_changes_and_searches_in_the_process_share_a_lock(local: QdrantClient) -> None:
    langchains = make(local)
    assert lock_of(langchains) is lock_of(langchains)
    remote = make(local)
    remote._client = QdrantClient(port=1, check_compatibility=False)
    assert lock_of(remote) is not lock_of(remote)
    remote._client.close()


class Tenants(QdrantVectorStore):
    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Any = None,  # noqa: A002  (LangChain's name)
        *_: Any,
        **words: Any,
    ) -> list[tuple[Document, float]]:
        search = super().similarity_search_with_score
        return search(query, k, filter=GROUP_1)


def test_a_subclass_that_keeps_documents_back_is_asked_by_itself(
    local: QdrantClient,
) -> None:
    store = open_store(make(local, kind=Tenants))
    assert isinstance(store, GenericStore)
    (hits,) = store.search(store.encode(QUERY_TEXTS[:1]), 9)
    assert {hit.document.metadata["group"] for hit in hits} == {1}


@pytest.mark.parametrize("payload", [{"page_content": None}, {"metadata": ["a"]}])
def test_a_record_that_is_no_document_is_named(
    local: QdrantClient, payload: dict[str, Any]
) -> None:
    langchains = make(local, n_rows=0)
    vector = embeddings().embed_query(QUERY_TEXTS[0])
    record = models.PointStruct(id=77, vector=vector, payload=payload)
    local.upsert(langchains.collection_name, [record])
    store = open_store(langchains)
    with pytest.raises(StoreError, match="has the record '77', which is no document"):
        store.search(store.encode(QUERY_TEXTS[:1]), 1)
