from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.documents import Document

from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    MissingExtraError,
    StoreError,
)
from langchain_ralmspec.ralm import Session
from langchain_ralmspec.stores import (
    FaissStore,
    Query,
    faiss_index,
    open_store,
)
from tests.unit_tests.stores.toys import (
    DIMENSION,
    BatchTableEmbeddings,
    BrokenEmbeddings,
    TableEmbeddings,
    best_ids,
    documents,
    table,
)

N_ROWS = 200
N_QUERIES = 7


def make_flat_ip() -> Any:
    return faiss.IndexFlatIP(DIMENSION)


def make_flat_l2() -> Any:
    return faiss.IndexFlatL2(DIMENSION)


def make_hnsw() -> Any:
    index = faiss.IndexHNSWFlat(DIMENSION, 32)
    index.hnsw.efSearch = N_ROWS  # wide enough to be exact here
    return index


def make_ivf() -> Any:
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIMENSION), DIMENSION, 4)
    index.cp.min_points_per_centroid = 1
    index.train(table(N_ROWS))
    index.nprobe = 4  # every list: exact
    return index


KINDS: dict[str, tuple[Callable[[], Any], bool, str]] = {
    "flat_ip": (make_flat_ip, False, "inner_product"),
    "flat_l2": (make_flat_l2, False, "squared_l2"),
    "normalized_l2": (make_flat_l2, True, "cosine"),
    "hnsw": (make_hnsw, False, "squared_l2"),
    "ivf": (make_ivf, False, "squared_l2"),
}


def langchain_faiss(kind: str = "flat_l2", n_rows: int = N_ROWS) -> FAISS:
    make_index, normalize, _ = KINDS[kind]
    vectors = table(n_rows)
    store = FAISS(
        BatchTableEmbeddings(np.vstack([vectors, table(N_QUERIES, seed=1)])),
        make_index(),
        InMemoryDocstore(),
        {},
        normalize_L2=normalize,
    )
    if n_rows:
        store.add_documents(documents(n_rows), ids=[d.id for d in documents(n_rows)])
    return store


def plain_queries(n: int = N_QUERIES) -> list[Query]:
    return [Query(f"q{i}", vector) for i, vector in enumerate(table(n, seed=1))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5, 50])
def test_finds_what_brute_force_finds(kind: str, k: int) -> None:
    store = open_store(langchain_faiss(kind))
    texts = [f"v{N_ROWS + i}" for i in range(N_QUERIES)]
    found = store.search(store.encode(texts), k)
    ids = [f"id{row:03d}" for row in range(N_ROWS)]
    expected = [
        best_ids(query, table(N_ROWS), ids, k, KINDS[kind][2])
        for query in table(N_QUERIES, seed=1)
    ]
    assert [[hit.id for hit in hits] for hits in found] == expected
    assert [hit.document.page_content for hit in found[0]] == [
        f"v{int(hit.id[2:])}" for hit in found[0]
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_vectors_are_those_of_the_metric(kind: str) -> None:
    store = open_store(langchain_faiss(kind))
    query = store.encode([f"v{N_ROWS}"])[0]
    assert isinstance(query.vector, np.ndarray)
    hits = store.search([query], 5, with_vectors=True)[0]
    assert [hit.score for hit in hits] == sorted(
        (hit.score for hit in hits), reverse=True
    )
    for hit in hits:
        expected = table(N_ROWS)[int(hit.id[2:])]
        if kind == "normalized_l2":
            expected = expected / np.linalg.norm(expected)
        assert isinstance(hit.vector, np.ndarray)
        np.testing.assert_allclose(hit.vector, expected, rtol=1e-6)
        if store.metric == "inner_product":
            score = float(np.dot(expected, query.vector))
        else:
            score = -float(np.linalg.norm(expected - query.vector) ** 2)
        assert hit.score == pytest.approx(score, rel=1e-5)
    assert all(hit.vector is None for hit in store.search([query], 5)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_top_hit_is_langchains(kind: str) -> None:
    vectorstore = langchain_faiss(kind)
    store = open_store(vectorstore)
    texts = [f"v{N_ROWS + i}" for i in range(N_QUERIES)]
    ours = [hits[0].id for hits in store.search(store.encode(texts), 1)]
    theirs = [vectorstore.similarity_search(text, k=1)[0].id for text in texts]
    assert ours == theirs


def test_vectors_do_not_keep_the_whole_answer_alive() -> None:
    store = open_store(langchain_faiss())
    hit = store.search(plain_queries(1), 1, with_vectors=True)[0][0]
    assert isinstance(hit.vector, np.ndarray)
    assert hit.vector.base is None


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("metric", ["inner_product", "squared_l2"])
def test_batch_equals_each_alone_with_duplicates(
    metric: str, data: st.DataObject
) -> None:
    seed = data.draw(st.integers(0, 2**31))
    n_distinct = data.draw(st.integers(1, 12))
    n_rows = data.draw(st.integers(1, 80))
    n_queries = data.draw(st.integers(1, 24))
    k = data.draw(st.integers(1, 40))
    generator = np.random.default_rng(seed)
    distinct = generator.standard_normal((n_distinct, 8)).astype(np.float32)
    vectors = distinct[generator.integers(0, n_distinct, n_rows)]
    # Ids in an order of their own, so that row order cannot pass for id order.
    ids = [f"{number:03d}" for number in generator.permutation(n_rows)]
    index = (faiss.IndexFlatIP if metric == "inner_product" else faiss.IndexFlatL2)(8)
    index.add(vectors)
    docs = [Document(page_content=id_) for id_ in ids]
    store = FaissStore(index, docs, TableEmbeddings(vectors), ids=ids)
    queries = [
        Query(str(i), vector)
        for i, vector in enumerate(
            generator.standard_normal((n_queries, 8)).astype(np.float32)
        )
    ]
    together = store.search(queries, k)
    for query, hits in zip(queries, together, strict=True):
        alone = store.search([query], k)[0]
        assert [(h.id, h.score) for h in hits] == [(h.id, h.score) for h in alone]
        assert isinstance(query.vector, np.ndarray)
        groups = {hit.score for hit in hits}
        assert len(groups) <= n_distinct
        assert [h.id for h in hits] == best_ids(query.vector, vectors, ids, k, metric)


def test_ties_wider_than_the_margin_fall_to_the_smallest_ids() -> None:
    index = make_flat_ip()
    index.add(np.ones((100, DIMENSION), dtype=np.float32))
    ids = [f"{99 - row:02d}" for row in range(100)]
    docs = [Document(page_content=id_) for id_ in ids]
    store = FaissStore(index, docs, TableEmbeddings(table(1)), ids=ids)
    hits = store.search(plain_queries(1), 3)[0]
    assert [hit.id for hit in hits] == ["00", "01", "02"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_hnsw_are_nested(kind: str) -> None:
    assert open_store(langchain_faiss(kind)).is_nested == (kind != "hnsw")


def test_asking_an_ivf_index_for_more_keeps_the_first() -> None:
    vectors = table(3000)
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIMENSION), DIMENSION, 16)
    index.train(vectors)
    index.nprobe = 2
    index.add(vectors)
    exact = make_flat_l2()
    exact.add(vectors)
    docs = [Document(page_content=str(row)) for row in range(3000)]
    queries = plain_queries(100)

    def first_hits(over: Any, asked: int) -> list[str]:
        store = FaissStore(over, docs, TableEmbeddings(vectors))
        return [hits[0].id for hits in store.search(queries, asked)]

    first = first_hits(index, 1)
    for asked in (4, 20, 1000):
        assert first_hits(index, asked) == first
    # Else the index would be exact here, and the above could not fail.
    assert first_hits(exact, 1) != first


def test_where_ranking_is_by_codes_hits_are_not_nested() -> None:
    index = faiss.IndexPQ(DIMENSION, 4, 4)
    index.train(table(N_ROWS))
    index.add(table(N_ROWS))
    store = FaissStore(index, documents(N_ROWS), TableEmbeddings(table(N_ROWS)))
    assert not store.is_nested
    assert len(store.search(plain_queries(), 3)[0]) == 3


FILTERS: list[Any] = [
    {"group": 1},
    {"$and": [{"group": {"$gte": 1}}, {"group": {"$lt": 2}}]},
    {"group": [1]},
    lambda metadata: metadata["group"] == 1,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("condition", FILTERS)
def test_filter_finds_the_best_that_pass(kind: str, condition: Any) -> None:
    store = open_store(langchain_faiss(kind), filter=condition)
    queries = store.encode([f"v{N_ROWS + i}" for i in range(N_QUERIES)])
    rows = [row for row in range(N_ROWS) if row % 3 == 1]
    ids = [f"id{row:03d}" for row in rows]
    for query, hits, raw in zip(
        queries,
        store.search(queries, 4, with_vectors=True),
        table(N_QUERIES, seed=1),
        strict=True,
    ):
        expected = best_ids(raw, table(N_ROWS)[rows], ids, 4, KINDS[kind][2])
        assert [hit.id for hit in hits] == expected
        alone = store.search([query], 4)[0]
        assert [(h.id, h.score) for h in alone] == [(h.id, h.score) for h in hits]


def test_filter_that_admits_few_still_finds_them() -> None:
    def accept_last(metadata: dict[str, Any]) -> bool:
        return bool(metadata["row"] == N_ROWS - 1)

    store = open_store(langchain_faiss(), filter=accept_last)
    for hits in store.search(plain_queries(), 3):
        assert [hit.id for hit in hits] == [f"id{N_ROWS - 1:03d}"]


def test_filter_sees_additions_and_deletions() -> None:
    vectorstore = langchain_faiss(n_rows=9)
    asked: list[int] = []

    def accepts(metadata: dict[str, Any]) -> bool:
        asked.append(metadata["row"])
        return bool(metadata["group"] == 1)

    store = open_store(vectorstore, filter=accepts)
    assert {h.id for h in store.search(plain_queries(1), 9)[0]} == {
        "id001",
        "id004",
        "id007",
    }
    store.search(plain_queries(1), 9)
    assert len(asked) == 9  # evaluated once while nothing changes
    vectorstore.delete(["id000", "id004"])
    assert {h.id for h in store.search(plain_queries(1), 9)[0]} == {"id001", "id007"}
    vectorstore.add_documents(
        [Document(page_content="v4", metadata={"group": 1, "row": 4})], ids=["new"]
    )
    assert {h.id for h in store.search(plain_queries(1), 9)[0]} == {
        "id001",
        "id007",
        "new",
    }


def test_filter_sees_a_replacement_that_keeps_the_number_of_rows() -> None:
    vectorstore = langchain_faiss(n_rows=9)
    store = open_store(vectorstore, filter={"group": 1})
    store.search(plain_queries(1), 9)
    vectorstore.delete(["id000"])
    vectorstore.add_documents([documents(1)[0]], ids=["id000"])
    hits = store.search(plain_queries(1), 9)[0]
    assert {hit.id for hit in hits} == {"id001", "id004", "id007"}


def test_unusable_filter_is_refused_with_its_text() -> None:
    with pytest.raises(InvalidValueError, match=r"\$nonsense"):
        open_store(langchain_faiss(), filter={"$nonsense": 1})


def test_filtered_search_on_an_index_without_selectors_says_so() -> None:
    index = faiss.IndexPQ(DIMENSION, 4, 4)
    index.train(table(N_ROWS))
    vectorstore = FAISS(TableEmbeddings(table(N_ROWS)), index, InMemoryDocstore(), {})
    vectorstore.add_documents(documents(N_ROWS))
    store = open_store(vectorstore, filter={"group": 1})
    with pytest.raises(StoreError, match="invalid search params") as caught:
        store.search(plain_queries(1), 1)
    assert caught.value.__cause__ is not None


def test_deletion_renumbers_rows_but_not_hits() -> None:
    vectorstore = langchain_faiss()
    store = open_store(vectorstore)
    before = store.search(plain_queries(), 3)
    gone = before[0][0].id
    vectorstore.delete([gone])
    after = store.search(plain_queries(), 3)
    assert store.count() == N_ROWS - 1
    assert [hit.id for hit in after[0][:2]] == [hit.id for hit in before[0][1:]]
    assert after[0][0].document == before[0][1].document


@pytest.mark.parametrize("kind", ["flat_ip", "flat_l2"])
def test_no_vector_exceeds_the_extent(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "_ROWS_MEASURED", 7)
    vectorstore = langchain_faiss(kind)
    store = FaissStore.from_langchain(vectorstore)
    length = float(np.linalg.norm(table(N_ROWS), axis=1).max())

    def longest() -> float:
        extent = store.extent()
        assert extent is store.extent(), "nothing has changed"
        assert extent is not None
        return extent.longest

    assert length < longest() < 1.001 * length
    before = store.extent()

    near = [0.1] * DIMENSION
    vectorstore.add_embeddings([("near", near)], ids=["near"])
    assert longest() < 1.001 * length
    assert store.extent() is not before, "there is a new row"
    vectorstore.add_embeddings([("far", [50.0] * DIMENSION)], ids=["far"])
    assert longest() > 50 * DIMENSION**0.5

    vectorstore.delete(["far"])
    assert length < longest() < 1.001 * length

    vectorstore.add_embeddings([("nowhere", [np.nan] * DIMENSION)], ids=["nan"])
    assert store.extent() is None


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_where_the_nearest_may_be_missed_there_is_no_extent(kind: str) -> None:
    assert FaissStore.from_langchain(langchain_faiss(kind)).extent() is None


def test_an_empty_store_has_no_extent() -> None:
    assert FaissStore.from_langchain(langchain_faiss(n_rows=0)).extent() is None


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["flat_ip", "flat_l2", "normalized_l2"]),
    is_filtered=st.booleans(),
    depth=st.integers(1, 3),
    prefetch_k=st.sampled_from([1, 5, 40, 400]),
    step=st.sampled_from([0.0, 0.02, 0.2]),
    seed=st.integers(0, 999),
)
def test_what_a_session_has_proven_is_what_the_store_says(
    *,
    kind: str,
    is_filtered: bool,
    depth: int,
    prefetch_k: int,
    step: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    condition = (lambda metadata: metadata["row"] % 3 > 0) if is_filtered else None
    store = FaissStore.from_langchain(langchain_faiss(kind), condition)
    session = Session(store, depth=depth, prefetch_k=prefetch_k)
    session.measure()
    vector = table(N_ROWS)[seed % N_ROWS] + 0.1 * rng.normal(size=DIMENSION)

    def encode(texts: Sequence[str]) -> list[Query]:
        units = store._index.normalized(vector[np.newaxis].astype(np.float32))
        mine = units[0] if kind == "normalized_l2" else vector.astype(np.float32)
        return [Query(text, mine) for text in texts]

    store.encode = encode  # type: ignore[method-assign]
    (current,) = session.verify(["q"], [None])
    for number in range(12):
        vector = vector + step * rng.normal(size=DIMENSION)
        guess = session.guess("lookup", f"q{number}", current)
        (current,) = session.retrieve(f"q{number}").truth
        if guess.is_proven:
            assert [h.id for h in guess.hits] == [h.id for h in current]
        else:
            (current,) = session.verify([f"q{number}"], [None])


@pytest.mark.parametrize("kind", ["flat_ip", "flat_l2", "normalized_l2"])
def test_a_session_proves_what_it_has_asked(kind: str) -> None:
    store = FaissStore.from_langchain(langchain_faiss(kind))
    store.encode = lambda texts: [plain_queries()[0] for _ in texts]  # type: ignore[method-assign]
    session = Session(store, prefetch_k=40)
    session.measure()
    (current,) = session.verify(["q0"], [None])
    assert session.guess("lookup", "q0", current).is_proven


def test_unfiltered_ivf_search_leaves_deletion_possible() -> None:
    vectorstore = langchain_faiss("ivf")
    open_store(vectorstore).search(plain_queries(), 3)
    # With a direct map FAISS would refuse this.
    assert vectorstore.index.remove_ids(np.array([N_ROWS - 1])) == 1


@pytest.fixture
def threshold() -> Any:
    name = "distance_compute_blas_threshold"
    earlier = getattr(faiss.cvar, name)
    faiss.cvar.distance_compute_blas_threshold = 12345
    yield lambda: getattr(faiss.cvar, name)
    faiss.cvar.distance_compute_blas_threshold = earlier


def spied(*, fails: bool = False) -> tuple[list[tuple[int, int]], FaissStore]:
    """A store, and a list of (threshold, number of threads) of each search."""
    seen: list[tuple[int, int]] = []

    class SpyIndex(faiss.IndexFlatL2):
        def search_and_reconstruct(self, x: Any, k: int, **kwargs: Any) -> Any:
            threshold = faiss.cvar.distance_compute_blas_threshold
            seen.append((threshold, faiss.omp_get_max_threads()))
            if fails:
                raise MemoryError("no room")
            return super().search_and_reconstruct(x, k, **kwargs)

    index = SpyIndex(DIMENSION)
    index.add(table(N_ROWS))
    return seen, FaissStore(index, documents(N_ROWS), TableEmbeddings(table(N_ROWS)))


@pytest.fixture
def two_threads() -> Iterator[None]:
    earlier = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(earlier)


@pytest.mark.usefixtures("two_threads")
def test_route_of_a_scan_depends_on_its_size(
    threshold: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, store = spied()
    store.search(plain_queries(8), 1)  # small
    monkeypatch.setattr(faiss_index, "SMALL_SCAN", 0)
    store.search(plain_queries(1), 1)
    store.search(plain_queries(8), 1)
    assert seen == [(12345, 1), (12345, 1), (12345, 2)]
    assert (threshold(), faiss.omp_get_max_threads()) == (12345, 2)


@pytest.mark.usefixtures("two_threads")
def test_settings_are_restored_when_the_search_raises(
    threshold: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "SMALL_SCAN", 0)
    seen, store = spied(fails=True)
    for n_queries in (1, 8):
        with pytest.raises(StoreError, match="FAISS failed to search: MemoryError"):
            store.search(plain_queries(n_queries), 1)
    assert seen == [(12345, 1), (12345, 2)]
    assert (threshold(), faiss.omp_get_max_threads()) == (12345, 2)


def test_threads_searching_at_once_get_their_own_answers(
    threshold: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "SMALL_SCAN", 0)
    store = open_store(langchain_faiss())
    queries = plain_queries(40)
    expected = [[h.id for h in hits] for hits in store.search(queries, 5)]
    wrong: list[object] = []

    def work() -> None:
        for _ in range(20):
            found = [[h.id for h in hits] for hits in store.search(queries, 5)]
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert threshold() == 12345


@pytest.mark.parametrize("kind", ["flat_l2", "hnsw", "ivf"])
def test_asking_for_more_than_there_is(kind: str) -> None:
    store = open_store(langchain_faiss(kind, n_rows=5))
    assert [len(hits) for hits in store.search(plain_queries(2), 50)] == [5, 5]


def test_rows_that_were_not_found_are_skipped() -> None:
    vectorstore = langchain_faiss("ivf")
    vectorstore.index.nprobe = 1
    store = open_store(vectorstore)
    found = store.search(plain_queries(), N_ROWS)
    assert all(0 < len(hits) < N_ROWS for hits in found)
    assert all(hit.id.startswith("id") for hits in found for hit in hits)


def test_empty_store_answers_every_query_with_nothing() -> None:
    store = open_store(langchain_faiss(n_rows=0))
    assert store.count() == 0
    assert store.search(plain_queries(3), 2) == [[], [], []]
    assert store.search([], 2) == []


def test_document_without_metadata_or_id() -> None:
    index = make_flat_l2()
    index.add(table(2))
    nothing: Any = None
    bare = Document.model_construct(page_content="bare", metadata=nothing, id=None)
    store = FaissStore(
        index, [bare, Document(page_content="x")], TableEmbeddings(table(2))
    )
    hits = {hit.id: hit.document for hit in store.search(plain_queries(1), 2)[0]}
    assert hits == {
        "0": Document(id="0", page_content="bare", metadata={}),
        "1": Document(id="1", page_content="x"),
    }
    assert bare.metadata is None  # the caller's object is not changed


def test_missing_document_is_named() -> None:
    vectorstore = langchain_faiss()
    store = open_store(vectorstore)
    top = store.search(plain_queries(1), 1)[0][0].id
    vectorstore.docstore.delete([top])
    with pytest.raises(StoreError, match=top):
        store.search(plain_queries(1), 1)


def test_row_without_id_is_named() -> None:
    vectorstore = langchain_faiss()
    store = open_store(vectorstore)
    vectorstore.index_to_docstore_id = {}
    with pytest.raises(StoreError, match="stand for no document"):
        store.search(plain_queries(1), 1)


def test_wrong_dimension_quotes_both() -> None:
    store = open_store(langchain_faiss())
    query = Query("q", np.zeros(3, dtype=np.float32))
    with pytest.raises(DimensionMismatchError, match=rf"\(3,\).* {DIMENSION}"):
        store.search([query], 1)


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(InvalidValueError, match=f"got {k}"):
        open_store(langchain_faiss()).search(plain_queries(1), k)


def test_query_without_vector_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="'hello' has no vector"):
        open_store(langchain_faiss()).search([Query("hello")], 1)


def test_constructor_refuses_what_does_not_fit() -> None:
    index = make_flat_l2()
    index.add(table(3))
    embeddings = TableEmbeddings(table(3))
    with pytest.raises(InvalidValueError, match="3 rows for 2 documents"):
        FaissStore(index, documents(2), embeddings)
    with pytest.raises(InvalidValueError, match="2 ids for 3 documents"):
        FaissStore(index, documents(3), embeddings, ids=["a", "b"])
    with pytest.raises(InvalidValueError, match="'a' more than once"):
        FaissStore(index, documents(3), embeddings, ids=["a", "b", "a"])
    other = faiss.IndexFlat(DIMENSION, faiss.METRIC_L1)
    with pytest.raises(InvalidValueError, match=f"metric_type {faiss.METRIC_L1}"):
        FaissStore(other, [], embeddings)


def test_broken_encoder_is_a_store_error() -> None:
    vectorstore = langchain_faiss()
    vectorstore.embedding_function = BrokenEmbeddings()
    with pytest.raises(StoreError, match=r"BrokenEmbeddings .*encoder is down") as info:
        open_store(vectorstore).encode(["v1"])
    assert isinstance(info.value.__cause__, ConnectionError)


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


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, ["a"], "index must be a FAISS index, got a list"),
        (1, ["a text"], "must be LangChain Documents, got 'a text'"),
        (2, "minilm", "must be LangChain Embeddings, got 'minilm'"),
        (2, None, "must be LangChain Embeddings, got None"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    place: int, wrong: object, message: str
) -> None:
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(table(1))
    arguments: list[Any] = [index, documents(1), TableEmbeddings(table(1))]
    arguments[place] = wrong
    with pytest.raises(InvalidValueError, match=message):
        FaissStore(*arguments)
