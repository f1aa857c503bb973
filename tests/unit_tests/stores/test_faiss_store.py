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
from numpy.typing import NDArray

from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    MissingExtraError,
    StoreError,
)
from langchain_ralmspec.ralm import Session
from langchain_ralmspec.stores import FaissStore, Hit, Query, faiss_index, open_store
from tests.unit_tests.stores.toys import (
    DIMENSION,
    BatchTableEmbeddings,
    BrokenEmbeddings,
    TableEmbeddings,
    best_ids,
    documents,
    some_queries,
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


def store_over(
    index: Any, vectors: NDArray[np.float32], ids: Sequence[str] | None = None
) -> FaissStore:
    """A store whose index takes these vectors, with documents of the same texts."""
    index.add(vectors)
    return FaissStore(index, documents(len(vectors)), TableEmbeddings(vectors), ids=ids)


def pairs(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


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
        assert hit.vector.base is None, "it keeps no whole answer alive"
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
    kind = faiss.IndexFlatIP if metric == "inner_product" else faiss.IndexFlatL2
    store = store_over(kind(8), vectors, ids)
    asked = generator.standard_normal((n_queries, 8)).astype(np.float32)
    queries = [Query(str(i), vector) for i, vector in enumerate(asked)]
    together = store.search(queries, k, with_vectors=True)
    arrays = store.find(queries, k, depth=2, with_vectors=True)
    for query, hits, found in zip(queries, together, arrays, strict=True):
        assert pairs(hits) == pairs(store.search([query], k)[0])
        assert query.vector is not None
        groups = {hit.score for hit in hits}
        assert len(groups) <= n_distinct
        assert [h.id for h in hits] == best_ids(query.vector, vectors, ids, k, metric)
        # The same, as arrays.
        assert pairs(hits) == list(zip(found.ids, found.scores, strict=True))
        assert list(found.hits) == hits[:2]
        assert found.vectors is not None
        np.testing.assert_array_equal(found.vectors, [hit.vector for hit in hits])


def test_ties_wider_than_the_margin_fall_to_the_smallest_ids() -> None:
    ids = [f"{99 - row:02d}" for row in range(100)]
    store = store_over(make_flat_ip(), np.ones((100, DIMENSION), np.float32), ids)
    hits = store.search(some_queries(1), 3)[0]
    assert [hit.id for hit in hits] == ["00", "01", "02"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_hnsw_have_a_stable_top_k(kind: str) -> None:
    assert open_store(langchain_faiss(kind)).top_k_is_stable == (kind != "hnsw")


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
    index = faiss.IndexPQ(DIMENSION, 4, 4)
    index.train(table(N_ROWS))
    store = store_over(index, table(N_ROWS))
    assert not store.top_k_is_stable
    assert len(store.search(some_queries(N_QUERIES), 3)[0]) == 3


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
        assert pairs(store.search([query], 4)[0]) == pairs(hits)


def test_filter_that_admits_few_still_finds_them() -> None:
    def accept_last(metadata: dict[str, Any]) -> bool:
        return bool(metadata["row"] == N_ROWS - 1)

    store = open_store(langchain_faiss(), filter=accept_last)
    for hits in store.search(some_queries(N_QUERIES), 3):
        assert [hit.id for hit in hits] == [f"id{N_ROWS - 1:03d}"]


def test_filter_sees_additions_and_deletions() -> None:
    vectorstore = langchain_faiss(n_rows=9)
    asked: list[int] = []

    def accepts(metadata: dict[str, Any]) -> bool:
        asked.append(metadata["row"])
        return bool(metadata["group"] == 1)

    store = open_store(vectorstore, filter=accepts)

    def found() -> set[str]:
        return {hit.id for hit in store.search(some_queries(1), 9)[0]}

    assert found() == found() == {"id001", "id004", "id007"}
    assert len(asked) == 9  # evaluated once while nothing changes
    vectorstore.delete(["id000"])  # a replacement that keeps the number of rows
    vectorstore.add_documents([documents(1)[0]], ids=["id000"])
    assert found() == {"id001", "id004", "id007"}
    vectorstore.delete(["id000", "id004"])
    assert found() == {"id001", "id007"}
    vectorstore.add_documents(
        [Document(page_content="v4", metadata={"group": 1, "row": 4})], ids=["new"]
    )
    assert found() == {"id001", "id007", "new"}


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
        store.search(some_queries(1), 1)
    assert caught.value.__cause__ is not None


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


@pytest.mark.parametrize("kind", ["flat_ip", "flat_l2"])
def test_no_vector_exceeds_the_max_norm(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "_ROWS_MEASURED", 7)
    vectorstore = langchain_faiss(kind)
    store = FaissStore.from_langchain(vectorstore)
    length = float(np.linalg.norm(table(N_ROWS), axis=1).max())

    def longest() -> float:
        known = store.max_norm()
        assert known is store.max_norm(), "nothing has changed"
        assert known is not None
        return known.longest

    assert length < longest() < 1.001 * length
    before = store.max_norm()

    near = [0.1] * DIMENSION
    vectorstore.add_embeddings([("near", near)], ids=["near"])
    assert longest() < 1.001 * length
    assert store.max_norm() is not before, "there is a new row"
    vectorstore.add_embeddings([("far", [50.0] * DIMENSION)], ids=["far"])
    assert longest() > 50 * DIMENSION**0.5

    vectorstore.delete(["far"])
    assert length < longest() < 1.001 * length

    vectorstore.add_embeddings([("nowhere", [np.nan] * DIMENSION)], ids=["nan"])
    assert store.max_norm() is None


@pytest.mark.parametrize(("kind", "n_rows"), [("hnsw", 9), ("ivf", 9), ("flat_l2", 0)])
def test_where_the_nearest_may_be_missed_there_is_no_max_norm(
    kind: str, n_rows: int
) -> None:
    assert FaissStore.from_langchain(langchain_faiss(kind, n_rows)).max_norm() is None


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
    (current,) = session.verify([Query("q")])
    for number in range(12):
        vector = vector + step * rng.normal(size=DIMENSION)
        guess = session.guess("lookup", f"q{number}", current)
        (current,) = session.retrieve(f"q{number}").truth
        if guess.is_proven:
            assert [h.id for h in guess.hits] == [h.id for h in current]
        else:
            (current,) = session.verify([Query(f"q{number}")])


@pytest.mark.parametrize("kind", ["flat_ip", "flat_l2", "normalized_l2"])
def test_a_session_proves_what_it_has_asked(kind: str) -> None:
    store = FaissStore.from_langchain(langchain_faiss(kind))
    store.encode = lambda texts: [some_queries(N_QUERIES)[0] for _ in texts]  # type: ignore[method-assign]
    session = Session(store, prefetch_k=40)
    session.measure()
    (current,) = session.verify([Query("q0")])
    assert session.guess("lookup", "q0", current).is_proven


def session_at_q0(store: Any, *, prefetch_k: int) -> tuple[Session, Any]:
    """A session that looks up ``"q1"`` while ``"q0"``'s documents are shown."""
    vectors = dict(zip(("q0", "q1"), some_queries(2), strict=True))
    store.encode = lambda texts: [vectors[text] for text in texts]
    session = Session(store, prefetch_k=prefetch_k)
    _, current = session.verify([Query("q1"), Query("q0")])
    return session, current


def test_only_documents_that_are_shown_are_looked_up() -> None:
    vectorstore = langchain_faiss()
    asked: list[str] = []
    look_up = vectorstore.docstore.search
    vectorstore.docstore.search = lambda search: asked.append(search) or look_up(search)  # type: ignore[method-assign,func-returns-value]
    store = FaissStore.from_langchain(vectorstore)
    session, current = session_at_q0(store, prefetch_k=40)
    assert len(asked) == 2
    assert len(session._cache) > 40
    (truth,) = session.retrieve("q1").truth
    asked.clear()
    guess = session.guess("lookup", "q1", current)
    assert [hit.document for hit in guess.hits] == [hit.document for hit in truth]
    assert asked == [truth[0].id]


def test_a_guess_shows_what_the_store_has_now() -> None:
    vectorstore = langchain_faiss()
    session, current = session_at_q0(
        FaissStore.from_langchain(vectorstore), prefetch_k=40
    )
    best = session.guess("lookup", "q1", current).hits[0]
    text = best.document.page_content
    vectorstore.delete([best.id])
    guess = session.guess("lookup", "q1", current)
    assert (guess.policy, guess.hits, guess.margin) == ("same", current, None)
    changed = Document(page_content=text, metadata={"is": "new"})
    vectorstore.add_documents([changed], ids=[best.id])
    guess = session.guess("lookup", "q1", current)
    assert guess.hits[0].document.metadata == {"is": "new"}
    assert guess.hits[0].document == session.retrieve("q1").truth[0][0].document


def test_a_search_of_a_subclass_is_not_passed_by() -> None:
    class Reversed(FaissStore):
        def search(
            self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
        ) -> list[list[Hit]]:
            found = super().search(queries, k, with_vectors=with_vectors)
            return [hits[::-1] for hits in found]

    store = Reversed.from_langchain(langchain_faiss())
    (best,) = store.find(some_queries(1), 5, depth=5, with_vectors=False)
    session, current = session_at_q0(store, prefetch_k=5)
    assert [hit.id for hit in current] == [best.ids[-1]]
    assert len(session._hits) == len(session._cache) > 0


def test_unfiltered_ivf_search_leaves_deletion_possible() -> None:
    vectorstore = langchain_faiss("ivf")
    open_store(vectorstore).search(some_queries(N_QUERIES), 3)
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

    return seen, store_over(SpyIndex(DIMENSION), table(N_ROWS))


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
    store.search(some_queries(8), 1)  # small
    monkeypatch.setattr(faiss_index, "SMALL_SCAN", 0)
    store.search(some_queries(1), 1)
    store.search(some_queries(8), 1)
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
            store.search(some_queries(n_queries), 1)
    assert seen == [(12345, 1), (12345, 2)]
    assert (threshold(), faiss.omp_get_max_threads()) == (12345, 2)


def test_threads_searching_at_once_get_their_own_answers(
    threshold: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "SMALL_SCAN", 0)
    store = open_store(langchain_faiss())
    queries = some_queries(40)
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
