from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_milvus import BM25BuiltInFunction, Milvus
from langchain_milvus.utils.sparse import BaseSparseEmbedding

from langchain_ralmspec.errors import (
    InvalidValueError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.stores import GenericStore, MilvusStore, open_store
from tests.integration_tests.stores.one_call import (
    N_QUERIES,
    N_ROWS,
    QUERY_TEXTS,
    check_a_batch_is_one_call,
    check_a_verification_is_one_call,
    check_it_finds_what_langchain_finds,
    check_refusals,
    check_vectors,
    embeddings,
)
from tests.unit_tests.stores.toys import DIMENSION, documents

METRICS = {"L2": "squared_l2", "COSINE": "cosine", "IP": "inner_product"}
EXPRESSIONS = {
    "group == 1": 20,
    "group != 1 and row < 30": 20,
    "row in [3, 5, 8]": 3,
    'text like "v1%"': 11,
    "not (row >= 10)": 10,
    "group == 9": 0,
}


def score(metric: str) -> Any:
    return (lambda far: -far) if metric == "L2" else float


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("milvus") / "milvus.db")


def make(
    uri: str,
    metric: str = "COSINE",
    index: str = "FLAT",
    n_rows: int = N_ROWS,
    kind: type[Milvus] = Milvus,
    **settings: Any,
) -> Milvus:
    store = kind(
        **{"embedding_function": embeddings()} | settings,
        collection_name=f"test_{uuid.uuid4().hex}",
        connection_args={"uri": uri},
        index_params={"index_type": index, "metric_type": metric},
    )
    if n_rows:
        rows = documents(n_rows)
        store.add_documents(rows, ids=[row.id for row in rows])
    return store


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("index", ["FLAT", "HNSW", "AUTOINDEX"])
def test_finds_what_langchain_finds(uri: str, metric: str, index: str) -> None:
    langchains = make(uri, metric, index)
    store = open_store(langchains)
    assert isinstance(store, MilvusStore)
    assert (store.metric, store.top_k_is_stable) == (METRICS[metric], False)
    found = check_it_finds_what_langchain_finds(store, langchains, score(metric))
    check_vectors(found)
    for hit in (hit for hits in found for hit in hits):
        assert hit.id == hit.document.metadata["pk"]
    assert (store.count(), store.dimension) == (N_ROWS, DIMENSION)


def test_a_store_that_gives_ids_and_keeps_metadata_in_one_field(uri: str) -> None:
    settings: dict[str, Any] = {"enable_dynamic_field": True, "vector_field": "own"}
    langchains = make(uri, n_rows=0, primary_field="number", auto_id=True, **settings)
    langchains.add_texts(["v1", "v2"], [{"row": 1}, {"row": 2, "more": "x"}])
    store = open_store(langchains)
    found = check_it_finds_what_langchain_finds(store, langchains, float)
    check_vectors(found)
    assert found[0][0].id == str(found[0][0].document.metadata["number"])


@pytest.mark.parametrize(("expression", "n_found"), EXPRESSIONS.items())
def test_expressions_mean_what_they_mean_to_langchain(
    uri: str, expression: str, n_found: int
) -> None:
    langchains = make(uri)
    store = open_store(langchains, search_kwargs={"expr": expression})
    assert isinstance(store, MilvusStore)
    found = check_it_finds_what_langchain_finds(
        store, langchains, float, k=N_ROWS, expr=expression
    )
    assert len(found[0]) == n_found


def test_other_words_of_langchains_search(uri: str) -> None:
    langchains = make(uri, index="HNSW")
    param = {"metric_type": "COSINE", "params": {"ef": 64}}
    words: dict[str, Any] = {"param": param, "timeout": 60.0}
    store = open_store(langchains, search_kwargs=words)
    assert isinstance(store, MilvusStore)
    check_it_finds_what_langchain_finds(store, langchains, float, **words)


def test_words_that_are_none_are_refused(uri: str) -> None:
    langchains = make(uri, n_rows=1)
    with pytest.raises(UnknownArgumentError, match="did you mean 'expr'"):
        open_store(langchains, search_kwargs={"exp": "group == 1"})
    with pytest.raises(InvalidValueError, match=r"no argument 'filter'.*expr"):
        open_store(langchains, filter={"group": 1})
    with pytest.raises(InvalidValueError, match=r"expr of Milvus is text.*got \{"):
        open_store(langchains, search_kwargs={"expr": {"group": 1}})


def spied(langchains: Milvus, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What its client is asked."""
    asked: list[dict[str, Any]] = []
    client: Any = langchains.client
    for name in ("search", "query", "describe_collection", "has_collection"):

        def note(*given: Any, name: str = name, **words: Any) -> Any:
            asked.append(words)
            return getattr(type(client), name)(client, *given, **words)

        patch.setattr(client, name, note)
    return asked


def test_many_queries_are_one_request(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    langchains = make(uri)
    store = open_store(langchains)
    asked = spied(langchains, monkeypatch)
    check_a_batch_is_one_call(store, asked)
    assert "vector" not in asked[-1]["output_fields"]


def test_a_verification_is_one_request(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    langchains = make(uri)
    check_a_verification_is_one_call(langchains, spied(langchains, monkeypatch))


@pytest.mark.parametrize("metric", METRICS)
def test_equal_documents_come_in_a_batch_as_they_come_alone(
    uri: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milvus Lite's matrix products give equal rows scores of other last bits."""
    langchains = make(uri, metric, n_rows=0)
    langchains.add_texts(["v1"] * 30, ids=[f"{number:02}" for number in range(30)])
    store = open_store(langchains)
    asked = spied(langchains, monkeypatch)
    queries = store.encode(QUERY_TEXTS)
    together = store.search(queries, 20)
    assert [len(each["data"]) for each in asked] == [N_QUERIES] + [1] * N_QUERIES
    for query, hits in zip(queries, together, strict=True):
        assert store.search([query], 20)[0] == hits
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))


def test_bad_arguments_and_dimensions(uri: str) -> None:
    check_refusals(open_store(make(uri)), DIMENSION)


def test_a_store_without_documents_and_their_first(uri: str) -> None:
    langchains = make(uri, "IP", n_rows=0)
    store = open_store(langchains)
    assert isinstance(store, MilvusStore)
    assert store.metric == "inner_product"
    assert store.search(store.encode(QUERY_TEXTS), 2) == [[]] * len(QUERY_TEXTS)
    assert (store.count(), store.dimension) == (0, None)
    langchains.add_texts(["v1", "v2", "v3"], ids=["a", "b", "c"])
    assert len(store.search(store.encode(QUERY_TEXTS), 9)[0]) == 3


def test_a_collection_that_is_gone_is_a_store_error(uri: str) -> None:
    langchains = make(uri)
    store = open_store(langchains)
    queries = store.encode(QUERY_TEXTS)
    langchains.client.drop_collection(langchains.collection_name)
    with pytest.raises(StoreError, match=r"Milvus collection 'test_.*failed to search"):
        store.search(queries, 2)
    with pytest.raises(StoreError, match="failed to count"):
        store.count()


def test_a_bad_expression_is_a_store_error(uri: str) -> None:
    store = open_store(make(uri), search_kwargs={"expr": "group =="})
    with pytest.raises(StoreError, match="failed to search: MilvusException"):
        store.search(store.encode(QUERY_TEXTS), 2)


def test_a_server_that_is_gone_is_a_store_error(tmp_path: Path) -> None:
    from milvus_lite.server_manager import server_manager_instance

    langchains = make(str(tmp_path / "own.db"))
    store = open_store(langchains, search_kwargs={"timeout": 5.0})
    queries = store.encode(QUERY_TEXTS)
    server_manager_instance.release_server(str(tmp_path / "own.db"))
    with pytest.raises(StoreError, match=r"Milvus collection 'test_.*failed to search"):
        store.search(queries, 2)


class Sparse(BaseSparseEmbedding):
    def embed_query(self, query: str) -> dict[int, float]:
        return {int(query[1:]) % 7: 1.0}

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        return [self.embed_query(text) for text in texts]


def inverted(metric: str) -> dict[str, Any]:
    """An index of sparse vectors, which Milvus Lite has too."""
    return {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": metric}


def searched(metric: str) -> dict[str, Any]:
    """Search parameters that are no others than Milvus Lite knows."""
    return {"metric_type": metric, "params": {}}


@pytest.mark.filterwarnings("ignore:The 'ranker_type':DeprecationWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {
            "embedding_function": Sparse(),
            "index_params": inverted("IP"),
            "search_params": searched("IP"),
        },
        {
            "embedding_function": None,
            "builtin_function": BM25BuiltInFunction(output_field_names="terms"),
            "vector_field": "terms",
            "index_params": inverted("BM25"),
            "search_params": searched("BM25"),
        },
        {
            "embedding_function": [embeddings(), embeddings()],
            "vector_field": ["one", "other"],
        },
    ],
)
def test_other_vectors_than_one_dense_one_are_asked_query_by_query(
    uri: str, settings: dict[str, Any]
) -> None:
    langchains = Milvus(
        **settings,
        collection_name=f"test_{uuid.uuid4().hex}",
        connection_args={"uri": uri},
    )
    rows = documents(20)
    langchains.add_documents(rows, ids=[row.id for row in rows])
    store = open_store(langchains)
    assert isinstance(store, GenericStore)
    for text in QUERY_TEXTS:
        (hits,) = store.search(store.encode([text]), 5)
        assert [hit.document for hit in hits] == langchains.similarity_search(text, 5)


class Tenants(Milvus):
    def similarity_search_with_score(
        self, query: str, k: int = 4, *_: Any, **words: Any
    ) -> list[tuple[Document, float]]:
        return super().similarity_search_with_score(query, k, expr="group == 1")


def test_a_subclass_that_keeps_documents_back_is_asked_by_itself(uri: str) -> None:
    store = open_store(make(uri, kind=Tenants))
    assert isinstance(store, GenericStore)
    (hits,) = store.search(store.encode(QUERY_TEXTS[:1]), 9)
    assert {hit.document.metadata["group"] for hit in hits} == {1}
