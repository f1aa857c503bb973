from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.stores import ChromaStore, GenericStore, open_store
from tests.unit_tests.stores.faiss_toys import langchain_faiss
from tests.unit_tests.stores.toys import BatchTableEmbeddings, documents, table


class Chroma:
    """What ChromaStore reads of langchain-chroma's class when it is made."""

    __module__ = "langchain_chroma.vectorstores"

    def __init__(self, configuration: dict[str, Any], embeddings: Any) -> None:
        self._client = object()
        self._embedding_function = embeddings
        self._collection = SimpleNamespace(
            name="books", configuration_json=configuration
        )


def chroma(configuration: dict[str, Any]) -> Chroma:
    return Chroma(configuration, BatchTableEmbeddings(table(1)))


def test_own_store_comes_back_as_it_is() -> None:
    store = GenericStore(InMemoryVectorStore(BatchTableEmbeddings(table(1))))
    assert open_store(store) is store


@pytest.mark.parametrize("missing", ["metric", "top_k_is_stable"])
def test_own_store_that_lacks_a_trait_is_refused_by_its_name(missing: str) -> None:
    traits = {"metric": "cosine", "top_k_is_stable": False}
    del traits[missing]
    parts = dict.fromkeys(("encode", "search", "count"), lambda *_: None)
    own = type("Own", (), traits | parts)()
    with pytest.raises(InvalidValueError, match=f"Own has no '{missing}'"):
        open_store(own)


def test_filter_cannot_be_added_to_an_own_store() -> None:
    store = GenericStore(InMemoryVectorStore(BatchTableEmbeddings(table(1))))
    with pytest.raises(InvalidValueError, match=r"\{'a': 1\}.*GenericStore"):
        open_store(store, filter={"a": 1})


@pytest.mark.parametrize("thing", ["a string", 3, None, GenericStore])
def test_anything_else_is_refused_by_type(thing: object) -> None:
    with pytest.raises(InvalidValueError, match=f"{type(thing).__name__} is no vector"):
        open_store(thing)


@pytest.mark.parametrize(
    ("configuration", "metric"),
    [
        ({}, "squared_l2"),
        ({"hnsw": {"space": "cosine", "ef_search": 50}}, "cosine"),
        ({"hnsw": {"space": "ip", "ef_search": 2}}, "inner_product"),
        ({"hnsw": None, "spann": {"space": "cosine"}}, "cosine"),
    ],
)
def test_chroma_is_recognised_by_name(
    configuration: dict[str, Any], metric: str
) -> None:
    store = open_store(chroma(configuration))
    assert isinstance(store, ChromaStore)
    assert (store.metric, store.top_k_is_stable) == (metric, False)


@pytest.mark.parametrize("name", ["PGVector", "Milvus"])
def test_older_classes_of_the_same_names_are_other_stores(name: str) -> None:
    module = {"__module__": f"langchain_community.vectorstores.{name.lower()}"}
    older = type(name, (InMemoryVectorStore,), module)
    assert isinstance(open_store(older(BatchTableEmbeddings(table(1)))), GenericStore)


@pytest.mark.parametrize("module", ["langchain_app", "langchains.stores", "app"])
def test_a_class_of_somebody_elses_is_asked_by_its_own_search(module: str) -> None:
    def search(store: Any, *args: Any, **words: Any) -> Any:
        return InMemoryVectorStore.similarity_search_with_score(
            store, *args, filter=lambda d: d.page_content == "v2", **words
        )

    words = {"__module__": module, "similarity_search_with_score": search}
    words["similarity_search"] = lambda *a, **w: [d for d, _ in search(*a, **w)]
    own: Any = type("InMemoryVectorStore", (InMemoryVectorStore,), words)
    filled = own.from_documents(documents(9), BatchTableEmbeddings(table(9)))
    store = open_store(filled)
    (hits,) = store.search(store.encode(["v4"]), 3)
    assert [hit.document.page_content for hit in hits] == ["v2"]


def test_chroma_without_embeddings_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"'books'.*embedding_function"):
        open_store(Chroma({}, None))


class Tenants(InMemoryVectorStore):
    """Has a language of its own."""

    def _similarity_search_with_score_by_vector(self, *args: Any, **words: Any) -> Any:
        wanted = words.pop("filter")
        search: Any = super()._similarity_search_with_score_by_vector
        return search(*args, filter=lambda d: d.metadata == wanted, **words)


in_memory, tenants = (
    kind.from_documents(documents(3), BatchTableEmbeddings(table(3)))
    for kind in (InMemoryVectorStore, Tenants)
)


@pytest.mark.parametrize(
    ("store", "filter_", "words", "message"),
    [
        (chroma({}), "tenant", {}, "a dict such as .*got 'tenant'"),
        (in_memory, {"group": 1}, {}, r"function .* lambda .*got \{'group': 1\}"),
        (langchain_faiss(n_rows=3), "tenant", {"fetch_k": 2}, "filter 'tenant'"),
        (
            langchain_faiss(n_rows=3),
            {"$and": [{"group": 1}], "row": 1},
            {"fetch_k": 2},
            "heed '.and' alone",
        ),
    ],
)
def test_a_filter_of_another_kind_is_refused_before_a_search(
    store: Any, filter_: Any, words: Any, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        open_store(store, filter=filter_, search_kwargs=words)
    with pytest.raises(ValidationError, match=message):
        RaLMSpecRetriever(vectorstore=store, filter=filter_, search_kwargs=words)


def test_a_store_with_a_search_of_its_own_may_take_any_filter() -> None:
    store = open_store(tenants, filter={"group": 1, "row": 1})
    (hits,) = store.search(store.encode(["v0"]), 2)
    assert [hit.document.metadata["row"] for hit in hits] == [1]
