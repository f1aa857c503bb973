"""What a filter keeps back, while documents and their metadata change."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import faiss
import numpy as np
import pytest
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.documents import Document

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import InvalidValueError, SetupError, StoreError
from langchain_ralmspec.stores import FaissStore, Hit, Store, faiss_store, open_store
from langchain_ralmspec.stores.faiss_index import FaissIndex
from langchain_ralmspec.stores.faiss_rows import FixedRows
from langchain_ralmspec.text import sha256_of
from tests.unit_tests.stores.faiss_toys import (
    IDS,
    KINDS,
    N_QUERIES,
    N_ROWS,
    langchain_faiss,
)
from tests.unit_tests.stores.toys import (
    DIMENSION,
    TableEmbeddings,
    best_ids,
    documents,
    some_queries,
    table,
)


def pairs(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in hits]


FILTERS: list[tuple[Any, slice]] = [
    ({"group": 1}, slice(1, None, 3)),
    ({"$and": [{"group": {"$gte": 1}}, {"group": {"$lt": 2}}]}, slice(1, None, 3)),
    ({"group": [1]}, slice(1, None, 3)),
    (lambda metadata: metadata["group"] == 1, slice(1, None, 3)),
    (lambda metadata: metadata["row"] == N_ROWS - 1, slice(N_ROWS - 1, None)),
]


@pytest.mark.parametrize("most_tried", [0, 10_000])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("condition", "rows"), FILTERS)
def test_filter_finds_the_best_that_pass(
    kind: str,
    condition: Any,
    rows: slice,
    most_tried: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faiss_store, "_MOST_TRIED", most_tried)
    store = open_store(langchain_faiss(kind), filter=condition)
    queries = store.encode([f"v{N_ROWS + i}" for i in range(N_QUERIES)])
    found = store.search(queries, 4, with_vectors=True)
    for query, hits, raw in zip(queries, found, table(N_QUERIES, seed=1), strict=True):
        expected = best_ids(raw, table(N_ROWS)[rows], IDS[rows], 4, KINDS[kind][2])
        assert [hit.id for hit in hits] == expected
        assert pairs(store.search([query], 4)[0]) == pairs(hits)


def found_ids(store: Store, k: int = 9) -> set[str]:
    return {hit.id for hit in store.search(some_queries(1), k)[0]}


@pytest.mark.parametrize("most_tried", [0, 10_000])
@pytest.mark.parametrize("condition", [{"group": 1}, lambda m: m["group"] == 1])
def test_filter_heeds_additions_deletions_and_metadata_as_it_is(
    condition: Any, most_tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_store, "_MOST_TRIED", most_tried)
    vectorstore = langchain_faiss(n_rows=9)
    store = open_store(vectorstore, filter=condition)
    assert isinstance(store, FaissStore)
    assert found_ids(store) == {"id001", "id004", "id007"}
    vectorstore.delete(["id000"])  # a replacement that keeps the number of rows
    vectorstore.add_documents([documents(1)[0]], ids=["id000"])
    assert found_ids(store) == {"id001", "id004", "id007"}
    vectorstore.delete(["id000", "id004"])
    assert found_ids(store) == {"id001", "id007"}
    vectorstore.add_documents(
        [Document(page_content="v4", metadata={"group": 1, "row": 4})], ids=["new"]
    )
    assert found_ids(store) == {"id001", "id007", "new"}
    document_of(vectorstore, "id001").metadata["group"] = 2
    document_of(vectorstore, "id002").metadata["group"] = 1
    assert found_ids(store) == {"id002", "id007", "new"}
    assert store.document("id002").page_content == "v2"
    with pytest.raises(StoreError, match="filter keeps the document 'id001' back"):
        store.document("id001")


def test_what_a_function_decided_is_asked_again_and_proves_nothing() -> None:
    current = ContextVar("current", default=0)
    vectorstore = langchain_faiss(n_rows=9)
    store = open_store(vectorstore, filter=lambda m: m["group"] == current.get())
    assert isinstance(store, FaissStore)
    for group in (0, 1, 2, 0):
        current.set(group)
        assert found_ids(store) == {f"id{row:03d}" for row in range(group, 9, 3)}
    assert store.max_norm() is None
    pure = open_store(vectorstore, filter={"group": 1})
    assert isinstance(pure, FaissStore)
    assert pure.max_norm() is not None


@pytest.mark.parametrize("is_loose", [True, False])
def test_a_filter_that_fails_far_away_keeps_no_near_document_back(
    is_loose: bool,
) -> None:
    vectorstore = langchain_faiss(n_rows=N_ROWS)
    found = vectorstore.similarity_search("v0", k=N_ROWS)
    near = [str(each.id) for each in found]
    del document_of(vectorstore, near[-1]).metadata["group"]
    store = FaissStore.from_langchain(vectorstore, lambda m: m["group"] >= 0)
    store._is_loose = is_loose  # as earlier searches have left it
    queries = store.encode(["v0"])
    assert [hit.id for hit in store.search(queries, 5)[0]] == near[:5]
    with pytest.raises(StoreError, match=f"fails on the document {near[-1]!r}"):
        store.search(queries, N_ROWS)


def test_a_pickled_store_keeps_its_filter() -> None:
    vectorstore = langchain_faiss(n_rows=9)
    store = open_store(vectorstore, filter={"group": 1})
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert found_ids(again) == found_ids(store) == {"id001", "id004", "id007"}


@pytest.mark.parametrize("filter_", [None, {"group": 0}, lambda m: m["group"] == 0])
def test_a_document_without_an_id_is_found_beside_those_that_have_one(
    filter_: Any,
) -> None:
    """LangChain keeps None as its id, which is neither compared nor looked up."""
    name = sha256_of("NoneType None")  # in every process
    ids = ["a", None, "#None", "b"]
    given = [Document("v1", id=id_, metadata={"group": 0}) for id_ in ids]
    vectorstore = FAISS.from_documents(given, TableEmbeddings(table(4)))
    store = open_store(vectorstore, filter=filter_)
    assert isinstance(store, FaissStore)
    (hits,) = store.search(store.encode(["v1"]), 4)
    assert [hit.id for hit in hits] == sorted(["#None", "a", "b", name])
    assert [hit.document.id for hit in hits] == [hit.id for hit in hits]
    assert store.document(name).page_content == "v1"
    with pytest.raises(StoreError, match="no document '##None'"):
        store.document("##None")


def test_the_name_of_a_document_without_an_id_stays_whatever_is_added() -> None:
    given = [Document("v1", id="a"), Document("v2")]
    vectorstore = FAISS.from_documents(given, TableEmbeddings(table(4)))
    store = open_store(vectorstore)
    ((before, *_),) = store.search(store.encode(["v2"]), 1)
    vectorstore.add_documents([Document("v3", id="#None")])
    ((after, *_),) = store.search(store.encode(["v2"]), 1)
    assert (after.id, after.document.page_content) == (before.id, "v2")


def document_of(vectorstore: FAISS, id_: str) -> Document:
    found = vectorstore.docstore.search(id_)
    assert isinstance(found, Document)
    return found


def _delete(vectorstore: FAISS) -> None:
    vectorstore.delete(["id000"])


def _begin_to_delete(vectorstore: FAISS) -> None:
    """What LangChain has done when it has not renumbered the rows yet."""
    vectorstore.index.remove_ids(np.array([0]))


def _begin_to_add(vectorstore: FAISS) -> None:
    vector: Any = some_queries(1)[0].vector
    vectorstore.index.add(vector[np.newaxis])


def _finish(vectorstore: FAISS) -> None:
    docstore: Any = vectorstore.docstore
    names = sorted(docstore._dict)
    if vectorstore.index.ntotal < len(names):
        docstore.delete(["id000"])
        del names[0]
    else:
        names.append("new")
        docstore.add({"new": Document("new", metadata={"group": 1})})
    vectorstore.index_to_docstore_id = dict(enumerate(names))


@pytest.mark.parametrize("change", [_delete, _begin_to_delete, _begin_to_add])
@pytest.mark.parametrize("condition", [None, {"group": 1}])
def test_a_search_that_another_thread_overtakes_is_made_again(
    change: Any, condition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectorstore = langchain_faiss()
    store = open_store(vectorstore, filter=condition)
    candidates, changes = FaissIndex.candidates, [change]

    def overtaken(index: FaissIndex, *args: Any) -> Any:
        found = candidates(index, *args)
        if changes:
            changes.pop()(vectorstore)
        return found

    monkeypatch.setattr(FaissIndex, "candidates", overtaken)
    if change is not _delete:
        finish = partial(_finish, vectorstore)
        monkeypatch.setattr(time, "sleep", lambda _pause: finish())
    found = store.search(some_queries(N_QUERIES), 5, with_vectors=True)
    assert not changes
    for hits in found:
        for hit in hits:
            if hit.id != "new":
                row = int(hit.id[2:])
                np.testing.assert_array_equal(hit.vector, table(N_ROWS)[row])
            assert condition is None or hit.document.metadata["group"] == 1
            assert hit.id != "id000" or change is _begin_to_add
    assert (found[0][0].id == "new") == (change is _begin_to_add)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"$nonsense": 1}, r"\$nonsense"),
        # LangChain ignores the group here.
        ({"$or": [{"row": 1}], "group": 1}, r"would heed '\$or' alone"),
        ({"$not": {"$and": [], "group": 1}}, r"would heed '\$and' alone"),
        ("group", "cannot use the filter 'group'"),
    ],
)
def test_unusable_filter_is_refused_with_its_text(condition: Any, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        open_store(langchain_faiss(), filter=condition)


@pytest.mark.parametrize(
    "factory",
    ["PQ4x4", "IVF4,PQ4x4fs", "RR4,IVF4,Flat", "PCAW4,Flat", "IVF4,Flat,RFlat", "LSH"],
)
@pytest.mark.parametrize("condition", [None, {"group": 1}])
def test_an_index_that_gives_no_vectors_is_searched_as_langchain_does(
    factory: str, condition: Any
) -> None:
    index = faiss.index_factory(DIMENSION, factory)
    index.train(table(N_ROWS))
    vectorstore = FAISS(TableEmbeddings(table(N_ROWS)), index, InMemoryDocstore(), {})
    vectorstore.add_documents(documents(N_ROWS))
    retriever = RaLMSpecRetriever(vectorstore=vectorstore, filter=condition, k=2)
    queries = [f"v{n}" for n in range(8)]
    wanted = [
        vectorstore.similarity_search(query, k=2, filter=condition) for query in queries
    ]
    assert retriever.batch(queries) == wanted
    assert [retriever.invoke(query) for query in queries] == wanted
    with pytest.raises(InvalidValueError, match="a FaissStore does not search a Index"):
        FaissStore.from_langchain(vectorstore)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", None], "an id must be a string, got None for the row 1"),
        ([1, 2], "an id must be a string, got 1 for the row 0"),
        (np.arange(2), "an id must be a string, got .* for the row 0"),
        ("ab", "ids must be a list of strings, got 'ab'"),
        (["a"], "got 1 ids for 2 documents"),
    ],
)
def test_ids_of_rows_are_strings(ids: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        FixedRows([Document("v0"), Document("v1")], ids)


def test_a_document_goes_by_the_id_of_its_row() -> None:
    given = [Document("v0", id="1"), Document("v1")]
    store = FaissStore(faiss_index(2), given, TableEmbeddings(table(2)), ids=["0", "1"])
    (hits,) = store.search(store.encode(["v0"]), 2)
    assert {hit.document.id: hit.document.page_content for hit in hits} == {
        "0": "v0",
        "1": "v1",
    }
    assert given[0].id == "1"


def faiss_index(n_rows: int) -> Any:
    index = faiss.IndexFlatL2(DIMENSION)
    index.add(table(n_rows))
    return index
