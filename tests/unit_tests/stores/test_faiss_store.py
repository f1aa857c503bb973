from __future__ import annotations

import math
import sys
from typing import Any

import faiss
import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    MissingExtraError,
    StoreError,
)
from langchain_ralmspec.stores import FaissStore, Query, open_store
from tests.unit_tests.stores.faiss_toys import (
    IDS,
    KINDS,
    N_QUERIES,
    N_ROWS,
    langchain_faiss,
    make_flat_ip,
    make_flat_l2,
    store_over,
)
from tests.unit_tests.stores.toys import (
    DIMENSION,
    TableEmbeddings,
    best_ids,
    documents,
    some_queries,
    table,
)

NUMBER: Any = 7  # where a text belongs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5, 50])
def test_finds_what_brute_force_and_langchain_find(kind: str, k: int) -> None:
    vectorstore = langchain_faiss(kind)
    store = open_store(vectorstore)
    texts = [f"v{N_ROWS + i}" for i in range(N_QUERIES)]
    found = store.search(store.encode(texts), k)
    expected = [
        best_ids(query, table(N_ROWS), IDS, k, KINDS[kind][2])
        for query in table(N_QUERIES, seed=1)
    ]
    assert [[hit.id for hit in hits] for hits in found] == expected
    theirs = [vectorstore.similarity_search(text, k=1)[0].id for text in texts]
    assert [ids[0] for ids in expected] == theirs
    for hit in found[0]:
        assert hit.document.page_content == f"v{int(hit.id[2:])}"


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_vectors_are_those_of_the_metric(kind: str) -> None:
    store = open_store(langchain_faiss(kind))
    assert store.top_k_is_stable == (kind != "hnsw")
    query = store.encode([f"v{N_ROWS}"])[0]
    assert isinstance(query.vector, np.ndarray)
    hits = store.search([query], 5, with_vectors=True)[0]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    for hit in hits:
        expected = table(N_ROWS)[int(hit.id[2:])]
        if kind == "normalized_l2":
            expected = expected / np.linalg.norm(expected)
        assert isinstance(hit.vector, np.ndarray)
        assert hit.vector.base is None, "it keeps no whole answer alive"
        np.testing.assert_allclose(hit.vector, expected, rtol=1e-6)
        if store.metric == "inner_product":
            score = float(np.dot(expected, query.vector))
        else:
            score = -float(np.linalg.norm(expected - query.vector) ** 2)
        assert hit.score == pytest.approx(score, rel=1e-5)
    assert all(hit.vector is None for hit in store.search([query], 5)[0])


def test_ties_wider_than_the_margin_fall_to_the_smallest_ids() -> None:
    ids = [f"{99 - row:02d}" for row in range(100)]
    store = store_over(make_flat_ip(), np.ones((100, DIMENSION), np.float32), ids)
    hits = store.search(some_queries(1), 3)[0]
    assert [hit.id for hit in hits] == ["00", "01", "02"]


def test_asking_an_ivf_index_for_more_keeps_the_first() -> None:
    vectors = table(3000)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIMENSION), DIMENSION, 16)
    index.train(vectors)
    index.nprobe = 2
    queries = some_queries(100)

    def first_hits(store: FaissStore, asked: int) -> list[str]:
        return [hits[0].id for hits in store.search(queries, asked)]

    store = store_over(index, vectors)
    first = first_hits(store, 1)
    for asked in (4, 20, 1000):
        assert first_hits(store, asked) == first
    # Else the index would be exact here, and the above could not fail.
    assert first_hits(store_over(make_flat_l2(), vectors), 1) != first


def test_where_ranking_is_by_codes_the_top_k_is_not_stable() -> None:
    index = faiss.index_factory(DIMENSION, "IVF1,PQ4x4")
    index.train(table(N_ROWS))
    store = store_over(index, table(N_ROWS))
    assert not store.top_k_is_stable
    assert len(store.search(some_queries(N_QUERIES), 3)[0]) == 3


def test_deletion_renumbers_rows_but_not_hits() -> None:
    vectorstore = langchain_faiss()
    store = open_store(vectorstore)
    before = store.search(some_queries(N_QUERIES), 3)
    gone = before[0][0].id
    vectorstore.delete([gone])
    after = store.search(some_queries(N_QUERIES), 3)
    assert store.count() == N_ROWS - 1
    assert [hit.id for hit in after[0][:2]] == [hit.id for hit in before[0][1:]]
    assert after[0][0].document == before[0][1].document


def test_unfiltered_ivf_search_leaves_deletion_possible() -> None:
    vectorstore = langchain_faiss("ivf")
    open_store(vectorstore).search(some_queries(N_QUERIES), 3)
    # With a direct map FAISS would refuse this.
    assert vectorstore.index.remove_ids(np.array([N_ROWS - 1])) == 1


@pytest.mark.parametrize(
    ("kind", "n_rows"), [("flat_l2", 5), ("hnsw", 5), ("ivf", 5), ("flat_l2", 0)]
)
def test_asking_for_more_than_there_is(kind: str, n_rows: int) -> None:
    store = open_store(langchain_faiss(kind, n_rows))
    assert store.count() == n_rows
    assert [len(hits) for hits in store.search(some_queries(2), 50)] == [n_rows] * 2
    assert store.search([], 2) == []


def test_rows_that_were_not_found_are_skipped() -> None:
    vectorstore = langchain_faiss("ivf")
    vectorstore.index.nprobe = 1
    store = open_store(vectorstore)
    found = store.search(some_queries(N_QUERIES), N_ROWS)
    assert all(0 < len(hits) < N_ROWS for hits in found)
    assert all(hit.id.startswith("id") for hits in found for hit in hits)


def test_document_without_metadata_or_id() -> None:
    index = make_flat_l2()
    index.add(table(2))
    nothing: Any = None
    bare = Document.model_construct(page_content="bare", metadata=nothing, id=None)
    store = FaissStore(
        index, [bare, Document(page_content="x")], TableEmbeddings(table(2))
    )
    hits = {hit.id: hit.document for hit in store.search(some_queries(1), 2)[0]}
    assert hits == {
        "0": Document(id="0", page_content="bare", metadata={}),
        "1": Document(id="1", page_content="x"),
    }
    assert bare.metadata is None  # the caller's object is not changed


def test_a_row_without_document_or_id_is_named() -> None:
    vectorstore = langchain_faiss()
    store = open_store(vectorstore)
    top = store.search(some_queries(1), 1)[0][0].id
    vectorstore.docstore.delete([top])
    with pytest.raises(StoreError, match=top):
        store.search(some_queries(1), 1)
    vectorstore.index_to_docstore_id = {}
    with pytest.raises(StoreError, match="stand for no document"):
        store.search(some_queries(1), 1)


@pytest.mark.parametrize(
    ("query", "k", "error", "message"),
    [
        (
            Query("q", np.zeros(3, np.float32)),
            1,
            DimensionMismatchError,
            r"\(3,\).* 16",
        ),
        (some_queries(1)[0], 0, InvalidValueError, "got 0"),
        (some_queries(1)[0], -3, InvalidValueError, "got -3"),
        (Query("hello"), 1, InvalidValueError, "'hello' has no vector"),
    ],
)
def test_bad_searches_are_refused(
    query: Query, k: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_store(langchain_faiss()).search([query], k)


def test_missing_faiss_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    vectorstore = langchain_faiss()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"langchain-ralmspec\[faiss\]"):
        open_store(vectorstore)


def test_normalised_store_encodes_unit_vectors() -> None:
    store = open_store(langchain_faiss("normalized_l2"))
    first, second = store.encode(["v1", "v2"])
    for query in (first, second):
        assert isinstance(query.vector, np.ndarray)
        assert np.linalg.norm(query.vector) == pytest.approx(1.0)
        assert query.batched
    assert store.encode([]) == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"documents": documents(2)}, "3 rows for 2 documents"),
    ({"ids": ["a", "b"]}, "2 ids for 3 documents"),
    ({"ids": ["a", "b", "a"]}, "'a' more than once"),
    (
        {"index": faiss.IndexFlat(DIMENSION, faiss.METRIC_L1), "documents": []},
        f"metric_type {faiss.METRIC_L1}",
    ),
    ({"index": ["a"]}, "index must be a FAISS index, got a list"),
    ({"documents": ["a text"]}, "must be LangChain Documents, got 'a text'"),
    (
        {"documents": [Document.model_construct(page_content=NUMBER, id="a")]},
        "must be a string, got 7 in the document 'a'",
    ),
    ({"embeddings": "minilm"}, "must be LangChain Embeddings, got 'minilm'"),
    ({"embeddings": None}, "must be LangChain Embeddings, got None"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_constructor_refuses_what_does_not_fit(
    changes: dict[str, Any], message: str
) -> None:
    index = make_flat_l2()
    index.add(table(3))
    arguments = {"documents": documents(3), "embeddings": TableEmbeddings(table(3))}
    with pytest.raises(InvalidValueError, match=message):
        FaissStore(**{"index": index} | arguments | changes)


def test_a_stored_vector_that_is_near_to_everything_is_named() -> None:
    """As an encoder makes one whose numbers overflow."""
    vectorstore = langchain_faiss("flat_ip")
    queries = some_queries(1)
    endless = np.copysign(math.inf, table(1, seed=1)[0]).tolist()
    vectorstore.add_embeddings([("endless", endless)], ids=["endless"])
    store = FaissStore.from_langchain(vectorstore)
    with pytest.raises(StoreError, match="the document 'endless' the score inf: its"):
        store.search(queries, 2)
