from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy
from langchain_core.documents import Document
from langchain_postgres import PGVector
from langchain_postgres.vectorstores import DistanceStrategy

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import InvalidValueError, StoreError
from langchain_ralmspec.stores import GenericStore, PostgresStore, open_store
from tests.integration_tests.stores.one_call import (
    N_ROWS,
    QUERY_TEXTS,
    check_a_batch_is_one_call,
    check_equal_scores_fall_to_the_smaller_id,
    check_it_finds_what_langchain_finds,
    check_refusals,
    check_vectors,
    embeddings,
)
from tests.unit_tests.stores.toys import DIMENSION, documents

SCORES: dict[str, Any] = {
    "squared_l2": lambda distance: -(distance**2),
    "cosine": lambda distance: 1 - distance,
    "inner_product": lambda distance: -distance,
}
METRICS = {
    DistanceStrategy.EUCLIDEAN: "squared_l2",
    DistanceStrategy.COSINE: "cosine",
    DistanceStrategy.MAX_INNER_PRODUCT: "inner_product",
}
# Of each of its language's operators one, and how they are joined.
FILTERS: list[dict[str, Any]] = [
    {},
    {"group": 1},
    {"group": {"$ne": 1}},
    {"group": 1, "row": {"$gte": 20}},
    {"row": {"$between": (10, 30)}},
    {"row": {"$in": [3, 5, 8, 13]}},
    {"row": {"$nin": [3, 5, 8, 13]}},
    {"row": {"$like": "1%"}},
    {"nothing": {"$exists": False}},
    {"$or": [{"group": 0}, {"$and": [{"group": 2}, {"row": {"$lt": 30}}]}]},
    {"$not": {"group": 1}},
    {"group": 9},
]


@pytest.fixture(scope="module")
def engine(postgres: str) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(postgres)
    yield engine
    engine.dispose()


def make(
    engine: sqlalchemy.Engine,
    strategy: DistanceStrategy = DistanceStrategy.COSINE,
    n_rows: int = N_ROWS,
    kind: type[PGVector] = PGVector,
) -> PGVector:
    store = kind(
        embeddings(),
        connection=engine,
        collection_name=f"test-{uuid.uuid4()}",
        distance_strategy=strategy,
    )
    prefix = uuid.uuid4().hex[:8]  # ids are unique in the table, not in a collection
    rows = documents(n_rows)
    if rows:
        store.add_documents(rows, ids=[f"{prefix}-{row.id}" for row in rows])
    return store


@pytest.fixture
def statements(engine: sqlalchemy.Engine) -> Iterator[list[str]]:
    """What the database was asked, as it was asked."""
    made: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        made.append(statement)

    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    yield made
    sqlalchemy.event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("strategy", DistanceStrategy)
def test_finds_what_langchain_finds(
    engine: sqlalchemy.Engine, strategy: DistanceStrategy
) -> None:
    langchains = make(engine, strategy)
    store = open_store(langchains)
    assert isinstance(store, PostgresStore)
    assert store.metric == METRICS[strategy]
    found = check_it_finds_what_langchain_finds(store, langchains, SCORES[store.metric])
    check_vectors(found)
    assert all(hit.id == hit.document.id for hits in found for hit in hits)
    assert (store.count(), store.dimension) == (N_ROWS, DIMENSION)
    assert store.top_k_is_stable


def test_filters_mean_what_they_mean_to_langchain(engine: sqlalchemy.Engine) -> None:
    langchains = make(engine)
    numbers = []
    for condition in FILTERS:
        store = open_store(langchains, filter=condition)
        assert isinstance(store, PostgresStore)
        found = check_it_finds_what_langchain_finds(
            store, langchains, SCORES["cosine"], k=N_ROWS, filter=condition
        )
        numbers.append(len(found[0]))
    assert numbers == [60, 20, 40, 13, 21, 4, 56, 11, 60, 30, 40, 0]


@pytest.mark.parametrize(
    "condition",
    [
        "group",
        lambda _: True,
        {"$nonsense": 1},
        {"a": {"$eq": 1, "$ne": 2}},
        {"a-b": 1},
    ],
)
def test_a_filter_that_is_none_is_refused_before_a_search(
    engine: sqlalchemy.Engine, condition: Any
) -> None:
    with pytest.raises(InvalidValueError, match="a filter of PGVector's is a dict"):
        open_store(make(engine, n_rows=1), filter=condition)


def test_many_queries_are_one_statement(
    engine: sqlalchemy.Engine, statements: list[str]
) -> None:
    check_a_batch_is_one_call(open_store(make(engine)), statements)
    assert "embedding AS" not in statements[-1]


def test_a_verification_is_one_statement(
    engine: sqlalchemy.Engine, statements: list[str]
) -> None:
    session = RaLMSpecRetriever(vectorstore=make(engine)).session()
    session.verify(["v0"])
    statements.clear()
    session.verify(QUERY_TEXTS)
    assert len(statements) == session.stats.store_calls - 1 == 1
    assert session.speculate("v0")


@pytest.mark.parametrize("metric", DistanceStrategy)
def test_equal_documents_come_by_their_ids(
    engine: sqlalchemy.Engine, metric: DistanceStrategy
) -> None:
    langchains = make(engine, metric, n_rows=0)
    ids = [f"{uuid.uuid4()}-{name}" for name in ("b", "A", "é", "a", "_", "B")]
    langchains.add_texts(["v1"] * len(ids), ids=ids)
    store = open_store(langchains)
    assert store.top_k_is_stable
    check_equal_scores_fall_to_the_smaller_id(store, ids)


def test_an_index_on_vectors_may_miss_some(
    postgres: str, engine: sqlalchemy.Engine
) -> None:
    with engine.connect() as outside:  # of the table that the other tests share
        alone = outside.execution_options(isolation_level="AUTOCOMMIT")
        alone.execute(sqlalchemy.text("CREATE DATABASE indexed"))
    own = sqlalchemy.create_engine(
        sqlalchemy.make_url(postgres).set(database="indexed")
    )
    langchains = make(own)
    assert open_store(langchains).top_k_is_stable
    with own.connect() as connection:
        table, index = "langchain_pg_embedding", "hnsw (embedding vector_cosine_ops)"
        kind = f"ALTER TABLE {table} ALTER embedding TYPE vector({DIMENSION})"
        for statement in (kind, f"CREATE INDEX ON {table} USING {index}"):
            connection.execute(sqlalchemy.text(statement))
        connection.commit()
    store = open_store(langchains)
    assert not store.top_k_is_stable
    check_it_finds_what_langchain_finds(store, langchains, SCORES["cosine"])
    own.dispose()


def test_bad_arguments_and_dimensions(engine: sqlalchemy.Engine) -> None:
    check_refusals(open_store(make(engine)), DIMENSION)


def test_an_empty_collection(engine: sqlalchemy.Engine) -> None:
    store = open_store(make(engine, n_rows=0))
    queries = store.encode(QUERY_TEXTS)
    assert store.search(queries, 2) == [[]] * len(queries)
    assert (store.count(), store.dimension) == (0, None)


def test_a_collection_made_anew_with_longer_vectors(engine: sqlalchemy.Engine) -> None:
    langchains = make(engine)
    store = open_store(langchains)
    assert len(store.search(store.encode(["v0"]), 1)) == 1
    langchains.delete_collection()
    with pytest.raises(StoreError, match=r"PGVector collection 'test-.*is not there"):
        store.search(store.encode(["v0"]), 1)
    langchains.create_collection()
    vectors = [[1.0] * DIMENSION + [float(row)] for row in range(2)]
    langchains.add_embeddings(["a", "b"], vectors)
    langchains.embedding_function.table = np.array(vectors[1:])  # type: ignore[attr-defined]
    (hits,) = store.search(store.encode(["v0"]), 1)
    assert [hit.document.page_content for hit in hits] == ["b"]


def test_a_lost_connection_is_a_store_error_and_the_next_call_works(
    postgres: str, engine: sqlalchemy.Engine
) -> None:
    own = sqlalchemy.create_engine(postgres, pool_size=1)
    langchains = make(own)
    store = open_store(langchains)
    queries = store.encode(QUERY_TEXTS)
    with own.connect() as connection:
        number = connection.scalar(sqlalchemy.text("SELECT pg_backend_pid()"))
    with engine.connect() as connection:
        end = sqlalchemy.text("SELECT pg_terminate_backend(:number, 60000)")
        assert connection.scalar(end, {"number": number})
    with pytest.raises(StoreError, match=r"PGVector collection 'test-.*failed to") as e:
        store.search(queries, 2)
    assert e.value.__cause__ is not None
    assert len(store.search(queries, 2)[0]) == 2
    own.dispose()


def test_a_server_that_is_not_there_is_a_store_error(engine: sqlalchemy.Engine) -> None:
    langchains = make(engine)
    store = open_store(langchains)
    queries = store.encode(QUERY_TEXTS)
    nowhere = sqlalchemy.create_engine("postgresql+psycopg://@/x?host=/nowhere")
    langchains.session_maker.remove()  # type: ignore[union-attr]
    langchains.session_maker.configure(bind=nowhere)
    for ask, what in (
        (lambda: store.search(queries, 2), "search"),
        (store.count, "count"),
        (lambda: store.dimension, "give its dimension"),
        (lambda: store.top_k_is_stable, "tell its indexes"),
    ):
        with pytest.raises(StoreError, match=f"failed to {what}"):
            ask()


def test_a_store_that_can_only_be_awaited_is_refused(postgres: str) -> None:
    langchains = PGVector(embeddings(), connection=postgres, async_mode=True)
    with pytest.raises(InvalidValueError, match=r"'langchain' is in async_mode"):
        open_store(langchains)


class Tenants(PGVector):
    def similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Any = None,  # noqa: A002  (LangChain's name)
    ) -> list[tuple[Document, float]]:
        search = super().similarity_search_with_score_by_vector
        return search(embedding, k, {"group": 1})


class Filters(PGVector):
    def _create_filter_clause(self, filters: Any) -> Any:
        return super()._create_filter_clause({"group": 1})


@pytest.mark.parametrize("kind", [Tenants, Filters])
def test_a_subclass_that_keeps_documents_back_is_asked_by_itself(
    engine: sqlalchemy.Engine, kind: type[PGVector]
) -> None:
    store = open_store(make(engine, kind=kind), filter={"row": {"$gte": 0}})
    assert isinstance(store, GenericStore)
    (hits,) = store.search(store.encode(QUERY_TEXTS[:1]), 9)
    assert {hit.document.metadata["group"] for hit in hits} == {1}


def test_a_record_without_a_text_is_named(engine: sqlalchemy.Engine) -> None:
    langchains = make(engine, n_rows=3)
    own = langchains.EmbeddingStore
    with langchains._make_sync_session() as session:
        of_collection = own.collection_id == langchains.get_collection(session).uuid
        session.query(own).filter(of_collection).update({"document": None})
        session.commit()
    store = open_store(langchains)
    with pytest.raises(StoreError, match=r"has the record '.*', which is no document"):
        store.search(store.encode(QUERY_TEXTS[:1]), 1)
