"""Stores that search in their own way are asked in that way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache, partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import pytest
from langchain_community.vectorstores import OpenSearchVectorSearch, SKLearnVectorStore
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from pydantic import ValidationError

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import (
    InvalidValueError,
    RaLMSpecError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.retrievers import adopt
from langchain_ralmspec.stores import (
    FaissStore,
    GenericStore,
    held,
    open_store,
    searches,
)
from langchain_ralmspec.stores.retriever_store import RetrieverStore, found_by
from langchain_ralmspec.stores.searches import SEARCHES
from tests.unit_tests.stores.faiss_toys import langchain_faiss
from tests.unit_tests.stores.toys import BatchTableEmbeddings, documents, table

N_ROWS = 12
TEXT, VECTOR, SCORE, SCORE_BY_VECTOR = SEARCHES


def in_memory() -> InMemoryVectorStore:
    store = InMemoryVectorStore(BatchTableEmbeddings(table(N_ROWS)))
    store.add_documents(documents(N_ROWS))
    return store


def of_group_one(search: Callable[..., Any]) -> Callable[..., Any]:
    """A search that gives the documents of one tenant alone, looking for all."""

    def restricted(self: Any, asked: Any, k: int = 4, **words: Any) -> Any:
        found = search(self, asked, k=N_ROWS, **words)
        pairs = [each if isinstance(each, tuple) else (each,) for each in found]
        return [
            each
            for each, pair in zip(found, pairs, strict=True)
            if pair[0].metadata["group"] == 1
        ][:k]

    return restricted


def restricted(store: Any, names: tuple[str, ...], how: str) -> Any:
    """A store some of whose searches are overridden, in its class or by its owner."""
    base = type(store)
    own = {name: of_group_one(getattr(base, name)) for name in names}
    mixin = type("Mixin", (object,), own)
    bases = {"subclass": (base,), "mixin": (mixin, base), "object": ()}[how]
    if bases:
        kind = type("Tenants", bases, own if how == "subclass" else {})
        tenants: Any = object.__new__(kind)
        vars(tenants).update(vars(store))
        store = tenants
    else:
        for name, search in own.items():
            setattr(store, name, search.__get__(store))
    return store


@pytest.mark.parametrize("how", ["subclass", "mixin", "object"])
@pytest.mark.parametrize("make", [in_memory, lambda: langchain_faiss(n_rows=N_ROWS)])
@pytest.mark.parametrize(
    "names", [(TEXT,), (TEXT, VECTOR), (SCORE,), (SCORE_BY_VECTOR,), (VECTOR, SCORE)]
)
def test_an_overridden_search_is_not_passed_by(
    make: Callable[[], Any], names: tuple[str, ...], how: str
) -> None:
    vectorstore = restricted(make(), names, how)
    found = {each.id for each in vectorstore.similarity_search("v0", k=3)}
    retriever = RaLMSpecRetriever(vectorstore=vectorstore, k=3)
    assert isinstance(retriever.store, GenericStore)
    assert {each.metadata["group"] for each in retriever.invoke("v0")} == {1}
    assert {each.id for each in retriever.invoke("v0")} == found
    session = retriever.session(k=1)
    session.verify(["v0"])
    assert {each.metadata["group"] for each in session.speculate("v3")} == {1}


@pytest.mark.parametrize("name", ["index", "docstore", "_embed_query"])
def test_a_store_whose_parts_are_overridden_is_asked_by_itself(name: str) -> None:
    assert isinstance(open_store(langchain_faiss(n_rows=3)), FaissStore)
    vectorstore: Any = langchain_faiss(n_rows=3)
    parts = {name: property(lambda self: self.__dict__[name], lambda *_: None)}
    vectorstore.__class__ = type("Own", (FAISS,), parts)
    assert isinstance(open_store(vectorstore), GenericStore)


def test_a_subclass_that_leaves_searches_alone_keeps_the_fast_way() -> None:
    class Renamed(FAISS):
        def add_texts(self, *args: Any, **kwargs: Any) -> list[str]:
            return super().add_texts(*args, **kwargs)

    vectorstore: Any = langchain_faiss(n_rows=3)
    vectorstore.__class__ = Renamed
    assert isinstance(open_store(vectorstore), FaissStore)


@pytest.mark.parametrize("name", [f"a{name}" for name in SEARCHES])
@pytest.mark.parametrize("make", [in_memory, lambda: langchain_faiss(n_rows=3)])
def test_a_search_overridden_for_await_alone_is_refused(
    make: Callable[[], Any], name: str
) -> None:
    vectorstore = make()
    vectorstore.__class__ = type("Own", (type(vectorstore),), {name: lambda *_: None})
    with pytest.raises(InvalidValueError, match=f"Own overrides {name} but not"):
        open_store(vectorstore)


# Filters and other words


def sklearn() -> SKLearnVectorStore:
    store = SKLearnVectorStore(BatchTableEmbeddings(table(N_ROWS)))
    store.add_documents(documents(4))
    return store


def test_a_filter_that_would_be_swallowed_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"SKLearn.* no argument 'filter'"):
        RaLMSpecRetriever(vectorstore=sklearn(), filter={"group": 1})


class Words(VectorStore):
    """Takes its word by text, swallows it by vector, and heeds ``filter`` or not."""

    def __init__(self, *, heeds: bool = True) -> None:
        self.heeds = heeds
        self.words: dict[str, Any] = {}

    @property
    def embeddings(self) -> Any:
        return BatchTableEmbeddings(table(N_ROWS))

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        filter: Any = None,  # noqa: A002  (LangChain's name)
        expr: str = "",
        **_: Any,
    ) -> list[Document]:
        self.words = {"filter": filter, "expr": expr}
        passing = (lambda d: d.metadata["group"] == 1) if self.heeds else bool
        return [each for each in documents(N_ROWS) if passing(each)][:k]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **_: Any
    ) -> list[Document]:
        return documents(k)

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


def _ask(retriever: Any, query: str) -> Any:
    return retriever.invoke(query)


class Service:
    def __init__(self, retriever: Any) -> None:
        self.retriever = retriever

    def ask(self, query: str) -> Any:
        return self.retriever.invoke(query)

    __call__ = ask


def _given(retriever: Any) -> Callable[[str], Any]:
    def ask(query: str, own: Any = retriever) -> Any:
        return own.invoke(query)

    return ask


def _helped(service: Service) -> Callable[[str], Any]:
    def ask(query: str) -> Any:
        return service.ask(query)

    def helper(query: str) -> Any:
        return ask(query)

    return helper


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda r: r,
        lambda r: r.with_config(tags=["x"]),
        lambda r: RunnableLambda(lambda query: r.invoke(query)[:4]),
        lambda r: RunnableLambda(lambda _: r) | list,
        lambda r: RunnableLambda(r.invoke),
        lambda r: RunnableLambda(partial(_ask, r)),
        lambda r: RunnableLambda(Service(r).ask),
        lambda r: RunnableLambda(_given(r)),
        lambda r: RunnableLambda(_helped(Service(r))),
        lambda r: RunnableLambda(Service(r)),
        lambda r: RunnableLambda(cache(r.invoke)),
    ],
)
def test_a_filter_is_not_swallowed_behind_a_retriever(
    search_type: str, wrap: Callable[[Any], Any]
) -> None:
    store = SKLearnVectorStore(BatchTableEmbeddings(table(N_ROWS)))
    store.add_texts(["v0"])
    words = {"filter": {"group": 1}}
    found = wrap(store.as_retriever(search_type=search_type, search_kwargs=words))
    with pytest.raises(InvalidValueError, match=r"SKLearnVectorStore.*keep back"):
        open_store(found)
    with pytest.raises(InvalidValueError, match=r"SKLearnVectorStore.*keep back"):
        found_by(found, "v0")
    with pytest.raises(StoreError, match=r"failed to search: StopIteration"):
        found_by(RunnableLambda(lambda _: next(iter(()))), "v0")


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, query: str) -> Any:
        return self.inner.invoke(query)


class Pair(NamedTuple):
    inner: Any


def _of(holder: Any, query: str) -> Any:
    return holder.inner.invoke(query)


class Asking(BaseRetriever):
    """Asks another one, however it comes by it."""

    def inner(self) -> Any: ...

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        found: list[Document] = self.inner().invoke(query)
        return found


def of_class(inner: Any) -> Any:
    class Own(Asking):
        asked: ClassVar[Any] = {"one": [inner]}

    return Own()


def by_closure(inner: Any) -> Any:
    class Own(Asking):
        def inner(self) -> Any:
            return inner

    return Own()


def by_field(inner: Any) -> Any:
    class Own(Asking):
        holder: Any

    return Own(holder=Pair(Slotted(inner)))


def by_a_call(inner: Any) -> Any:
    class Calling:
        def __call__(self, query: str) -> Any:
            return inner.invoke(query)

    return RunnableLambda(Calling())


def by_methods(inner: Any) -> Any:
    class Service:
        def find(self, query: str) -> Any:
            return self.ask(query)

        def ask(self, query: str) -> Any:
            return inner.invoke(query)

    return RunnableLambda(Service().find)


def by_a_class(inner: Any) -> Any:
    class Holder:
        asked = inner

    def ask(query: str) -> Any:
        return Holder.asked.invoke(query)

    return RunnableLambda(ask)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda r: RunnableLambda(Slotted(r)),
        lambda r: RunnableLambda(partial(_of, Pair(r))),
        lambda r: RunnableLambda(partial(_of, deque([r]))),
        lambda r: RunnableLambda(partial(_of, MappingProxyType({"one": r}))),
        of_class,
        by_closure,
        by_field,
        by_a_class,
        by_a_call,
        by_methods,
    ],
)
def test_a_filter_is_not_swallowed_in_whatever_holds_a_retriever(
    wrap: Callable[[Any], Any],
) -> None:
    found = wrap(sklearn().as_retriever(search_kwargs={"filter": {"group": 1}}))
    for ask in (open_store, lambda each: found_by(each, "v0")):
        with pytest.raises(InvalidValueError, match=r"SKLearnVectorStore.*keep back"):
            ask(found)


def test_what_a_store_holds_is_not_looked_through_for_retrievers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "_MOST_SEEN", 40)
    data = InMemoryVectorStore(BatchTableEmbeddings(table(N_ROWS)))
    data.add_texts([f"v{n % N_ROWS}" for n in range(100)])
    store = SKLearnVectorStore(BatchTableEmbeddings(table(N_ROWS)))
    store.add_texts(["v0"])
    filtered = store.as_retriever(search_kwargs={"filter": {"group": 1}})

    def both(query: str) -> list[Document]:
        return filtered.invoke(query) + data.similarity_search(query)

    with pytest.raises(InvalidValueError, match=r"SKLearnVectorStore.*keep back"):
        found_by(RunnableLambda(both), "v0")


class Ensemble(BaseRetriever):
    """As LangChain's, which is in a package of its own."""

    retrievers: list[Any]

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return [found for each in self.retrievers for found in each.invoke(query)]


class Wordless(Ensemble):
    """Takes no words, so that LangChain leaves out what is bound to it."""

    def _get_relevant_documents(  # type: ignore[override]  # needs no more
        self, query: str, *, run_manager: Any
    ) -> list[Document]:
        return super()._get_relevant_documents(query)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda r: r.bind(filter={"group": 1}),
        lambda r: r.bind(filter={"group": 1}).with_config(tags=["x"]) | list,
        lambda r: Wordless(retrievers=[r]).bind(filter={"group": 1}),
        lambda r: (
            r.configurable_fields(search_kwargs=ConfigurableField("words"))
            .with_config(configurable={"words": {"filter": {"group": 1}}})
            .bind()
        ),
    ],
)
def test_a_filter_bound_to_a_retriever_is_not_swallowed(
    wrap: Callable[[Any], Any],
) -> None:
    found = wrap(sklearn().as_retriever())
    for ask in (open_store, lambda each: found_by(each, "v0")):
        with pytest.raises(RaLMSpecError, match=r"has no argument 'filter'"):
            ask(found)


@pytest.mark.parametrize("heeds", [True, False])
def test_what_a_retriever_gives_is_tested_against_a_bound_filter(heeds: bool) -> None:
    found = Words(heeds=heeds).as_retriever().bind(filter={"group": 1})
    store = open_store(found)
    if heeds:
        assert len(store.search(store.encode(["v0"]), 3)[0]) == 3
        return
    with pytest.raises(StoreError, match=r"gave the document 'id000' .*'group'"):
        store.search(store.encode(["v0"]), 3)


@pytest.mark.parametrize("search_type", ["mmr", "similarity_score_threshold"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda r: r,
        lambda r: r.with_config(tags=["x"]),
        lambda r: r.with_fallbacks([r]),
        lambda r: Ensemble(retrievers=[r]),
        lambda r: Ensemble(retrievers=[r]) | RunnableLambda(lambda found: found),
    ],
)
def test_words_are_not_swallowed_behind_any_retriever(
    search_type: str, wrap: Callable[[Any], Any]
) -> None:
    store = langchain_faiss(n_rows=3)
    words = {"filters": {"group": 1}, "score_threshold": 0.1}
    found = wrap(store.as_retriever(search_type=search_type, search_kwargs=words))
    for ask in (open_store, lambda each: found_by(each, "v0")):
        with pytest.raises(UnknownArgumentError, match="'filters'; did you mean 'filt"):
            ask(found)


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: r.with_config(tags=["x"])])
def test_what_a_retriever_gives_is_tested_against_its_filter(
    wrap: Callable[[Any], Any], heeds: bool
) -> None:
    class Varied(Words):
        def max_marginal_relevance_search(  # type: ignore[override]  # needs no more
            self, query: str, **_: Any
        ) -> list[Document]:
            return self.similarity_search(query)

    words = {"filter": {"group": 1}}
    found = Varied(heeds=heeds).as_retriever(search_type="mmr", search_kwargs=words)
    store = open_store(wrap(found))
    if heeds:
        assert len(store.search(store.encode(["v0"]), 3)[0]) == 3
        assert len(found_by(wrap(found), "v0")) == 4
        return
    with pytest.raises(StoreError, match=r"gave the document 'id000' .*'group'"):
        store.search(store.encode(["v0"]), 3)
    with pytest.raises(StoreError, match=r"gave the document 'id000' .*'group'"):
        found_by(wrap(found), "v0")


class Waiting:
    async def __call__(self, document: Document) -> bool:
        return True


async def waiting(document: Document) -> bool:
    return True


@pytest.mark.parametrize("condition", [waiting, Waiting(), partial(waiting)])
@pytest.mark.parametrize("make", [in_memory, lambda: langchain_faiss(n_rows=3), Words])
def test_a_filter_that_is_awaited_would_pass_everything(
    make: Callable[[], Any], condition: Any
) -> None:
    with pytest.raises(InvalidValueError, match=r"called without await, got .*aiting"):
        open_store(make(), filter=condition)
    found = make().as_retriever(search_type="mmr", search_kwargs={"filter": condition})
    with pytest.raises(InvalidValueError, match=r"called without await, got .*aiting"):
        open_store(found)


def test_other_words_reach_the_search_that_names_them() -> None:
    store = Words()
    retriever = RaLMSpecRetriever(vectorstore=store, search_kwargs={"expr": "x > 1"})
    retriever.invoke("v1")
    assert store.words == {"filter": None, "expr": "x > 1"}
    retriever.invoke("v1", expr="x > 2", filter={"group": 1})
    assert store.words == {"filter": {"group": 1}, "expr": "x > 2"}
    retriever.batch(["v1"], filter=None)
    assert store.words == {"filter": None, "expr": "x > 1"}
    with pytest.raises(UnknownArgumentError, match="'exp'; did you mean 'expr'"):
        RaLMSpecRetriever(vectorstore=store, search_kwargs={"exp": "x > 1"})
    with pytest.raises(UnknownArgumentError, match="'exp'; did you mean 'expr'"):
        retriever.invoke("v1", exp="x > 1")
    with pytest.raises(ValidationError, match=r"'k' in search_kwargs .*give k="):
        RaLMSpecRetriever(vectorstore=store, search_kwargs={"k": 3})


def test_a_filter_of_a_call_takes_the_place_of_the_retrievers() -> None:
    retriever = RaLMSpecRetriever(
        vectorstore=langchain_faiss(n_rows=N_ROWS), filter={"group": 1}
    )
    for group in (0, 2):
        (found,) = retriever.batch(["v0"], filter={"group": group})
        assert {each.metadata["group"] for each in found} == {group}
    assert {each.metadata["group"] for each in retriever.invoke("v0")} == {1}
    assert {d.metadata["group"] for d in retriever.invoke("v0", filter=None)} == {1}


@pytest.mark.parametrize(
    "condition",
    [
        {"group": 1},
        {"group": 1, "$and": []},
        {"nowhere": "x"},
        {"group": {"$eq": 1}},
        {"group": {"$in": [1, 2], "$gt": 0}},
        {"group": [1, 2]},
        {"group": {"$ne": 0}},
        {"group": {"$nin": [2, 0.0]}},
        {"group": {"$nin": {0}}},
        {"group": {"$gt": 0}},
        {"group": {"$gte": 0.5, "$lt": 2}},
        {"$and": [{"group": {"$lte": -1}}]},
        {"$and": [{"group": 1}, {"nowhere": {"$exists": False}}]},
        {"$or": [{"group": 1}, {"$and": [{"group": {"$in": ("1",)}}]}]},
        lambda document: document.metadata["group"] == 1,
        lambda metadata: metadata["group"] == 1,
    ],
)
def test_a_document_that_a_filter_keeps_back_is_never_passed_on(condition: Any) -> None:
    store = open_store(Words(heeds=False), filter=condition)
    with pytest.raises(StoreError, match=r"Words gave the document 'id000' .*'group'"):
        store.search(store.encode(["v0"]), 3)


@pytest.mark.parametrize(
    "condition",
    [
        {"group": 1},
        {"group": "1"},  # some stores keep text alone
        {"group": 1.0},
        {"group": {"$gt": 0}},
        {"$or": [{"group": 7}, {"group": {"$gt": 0}}]},
        {"$not": {"group": 1}, "$and": "x", "$or": [lambda: 0]},
        {"group": {"$ne": 7, "$in": []}, "other": [{}], "none": None},
        {"group": {"$ne": True, "$nin": ["1", None], "$lt": "0"}},
        {"group": {"$ne": [1]}, "nowhere": {"$ne": None, "$nin": [None]}},
        {"group": {"$lte": 1 - 1e-8}},  # as stores of 32 bits find it
        {"metadata.group": 7},
        "group == 1",
        lambda document: document.metadata["group"] == 1,
    ],
)
def test_filters_that_pass_or_cannot_be_tested_are_the_stores(condition: Any) -> None:
    store = open_store(Words(), filter=condition)
    assert len(store.search(store.encode(["v0"]), 3)[0]) == 3


@pytest.mark.parametrize(
    "made",
    [partial(Words, heeds=False), in_memory, partial(langchain_faiss, n_rows=N_ROWS)],
)
def test_a_function_that_fails_on_a_document_names_it(made: Any) -> None:
    def fails(given: Any) -> bool:
        metadata = getattr(given, "metadata", given)
        if metadata["row"] == 3:
            raise ValueError("no 4 of it")  # which is no refusal of a width
        return True

    store = open_store(made(), filter=fails)
    message = r"the filter fails on the document 'id003' with .*no 4 of it"
    for k in (4, N_ROWS):
        with pytest.raises(StoreError, match=message):
            store.search(store.encode(["v3"]), k)


# Fewer documents than are asked for


@pytest.mark.parametrize("k", [1, 4, 5, 20, 1000])
def test_a_store_that_refuses_so_many_gives_all_that_it_has(k: int) -> None:
    vectorstore = sklearn()
    retriever = RaLMSpecRetriever(vectorstore=vectorstore, k=k)
    for _ in range(2):
        assert len(retriever.invoke("v1")) == min(k, 4)
    vectorstore.add_documents(documents(7)[4:])
    assert len(retriever.invoke("v1")) == min(k, 7)


class Refusing(Words):
    """Holds so many documents, and is not asked for more."""

    n_held = 4

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def similarity_search(  # type: ignore[override]  # needs no more
        self, query: str, k: int = 4, **_: Any
    ) -> list[Document]:
        self.asked.append(k)
        if k > self.n_held:
            raise ValueError(k)
        return documents(k)


class Saying(Refusing):
    """Refuses a wider search by this error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def similarity_search(  # type: ignore[override]  # needs no more
        self, query: str, k: int = 4, **_: Any
    ) -> list[Document]:
        if k > self.n_held:
            raise self.error
        return documents(k)


def test_what_a_store_granted_is_remembered_until_it_grants_more() -> None:
    # Not for a number of searches: sequential and speculative make unlike numbers.
    vectorstore = Refusing()
    store = open_store(vectorstore)

    def asked(k: int) -> tuple[int, list[int]]:
        vectorstore.asked.clear()
        (hits,) = store.search(store.encode(["v0"]), k)
        return len(hits), vectorstore.asked[:]

    assert asked(9)[0] == 4
    assert [asked(9) for _ in range(3)] == [(4, [5, 4])] * 3
    assert asked(3) == (3, [3])  # what is not refused is not changed
    vectorstore.n_held = 2
    n_found, widths = asked(9)
    assert (n_found, widths[:4]) == (2, [5, 4, 9, 9])
    assert asked(9) == (2, [3, 2])
    vectorstore.n_held = 20
    assert asked(9) == (9, [3, 9])
    assert asked(9) == (9, [9])


@pytest.mark.parametrize("kind", [ValueError, IndexError, AssertionError])
def test_a_search_that_fails_once_is_made_again(kind: type[Exception]) -> None:
    vectorstore = Saying(kind("no embedding data received"))
    vectorstore.n_held = 0
    store = open_store(vectorstore)
    search = type(vectorstore).similarity_search

    def recovering(*given: Any, **words: Any) -> list[Document]:
        try:
            return search(vectorstore, *given, **words)
        finally:
            vectorstore.n_held = 9

    vectorstore.similarity_search = recovering  # type: ignore[method-assign]
    for _ in range(2):
        assert len(store.search(store.encode(["v0"]), 4)[0]) == 4


@pytest.mark.parametrize(
    "message",
    [
        "Cannot return the results in a contiguous 2D array. Probably ef is too small",
        "the number of requested results is greater than the number of elements",
        "selected index k out of range",  # torch's
        "failed to create query: [num_candidates] cannot be less than [k]",
        '"numCandidates" must be greater than or equal to "limit"',
        "invalid pagination params: query maximum results exceeded",
        "Only up to 250 hits can be fetched per page",
        "Number of neighbors exceeds what is allowed",
        "page_size must not exceed 5",
    ],
)
def test_a_refusal_may_speak_of_results(message: str) -> None:  # as hnswlib's does
    store = open_store(Saying(RuntimeError(message)))
    assert len(store.search(store.encode(["v0"]), 9)[0]) == 4


@pytest.mark.parametrize(("status", "n_found"), [("response", 4), ("code", 4), ("", 0)])
def test_a_server_that_answers_may_refuse_a_width(status: str, n_found: int) -> None:
    error = OSError("top_k must be at most 4")
    if status:
        setattr(error, status, 400)
    store = open_store(Saying(error))
    if n_found:
        assert len(store.search(store.encode(["v0"]), 9)[0]) == n_found
        return
    with pytest.raises(StoreError, match="top_k must be at most 4"):
        store.search(store.encode(["v0"]), 9)


@pytest.mark.parametrize(
    "address", ["for http://store/s?k={}", "with url: /s?limit={}"]
)
def test_an_address_that_quotes_the_width_is_no_refusal(address: str) -> None:
    vectorstore = Saying(RuntimeError(f"503 unavailable {address.format(9)}"))
    store = open_store(vectorstore)
    with pytest.raises(StoreError, match="503 unavailable"):
        store.search(store.encode(["v0"]), 9)
    vectorstore.n_held = 9
    assert len(store.search(store.encode(["v0"]), 9)[0]) == 9


def test_a_refusal_of_any_class_quotes_the_width_and_holds_until_documents_come() -> (
    None
):
    class Quoting(Refusing):
        def similarity_search(  # type: ignore[override]  # needs no more
            self, query: str, k: int = 4, **_: Any
        ) -> list[Document]:
            if k > self.n_held:
                raise RuntimeError(f"limit [{k}] is larger than the index")
            return documents(k)

        def add_documents(self, documents: list[Document], **_: Any) -> list[str]:
            self.n_held += len(documents)
            return []

    class Naming(Refusing):
        def similarity_search(  # type: ignore[override]  # needs no more
            self, query: str, k: int = 4, **_: Any
        ) -> list[Document]:
            if k > self.n_held:
                raise RuntimeError(f"top_k exceeds the {self.n_held} rows")
            return documents(k)

    class Failing(Quoting):
        """Its server is away for a moment, and says so in numbers."""

        def similarity_search(  # type: ignore[override]  # needs no more
            self, query: str, k: int = 4, **_: Any
        ) -> list[Document]:
            if failures:
                raise RuntimeError(failures.pop())
            return documents(k)

    failures = ["rpc error 9", "UNAVAILABLE 10.0.9.4:19530"]
    retriever = RaLMSpecRetriever(vectorstore=Failing(), k=9)
    with pytest.raises(StoreError, match="19530"):
        retriever.invoke("v0")
    for _ in range(3):  # the second try finds all
        assert len(retriever.invoke("v0")) == 9
    retriever = RaLMSpecRetriever(vectorstore=Quoting(), k=9)
    assert len(retriever.invoke("v0")) == 4
    own_words = Naming()
    assert len(RaLMSpecRetriever(vectorstore=own_words, k=9).invoke("v0")) == 4
    retriever.add_documents(documents(5))
    assert len(retriever.invoke("v0")) == 9


@pytest.mark.parametrize(
    ("error", "n_calls"),
    [
        (ValueError("no such query"), 2),
        (TimeoutError("gone"), 1),
        (ConnectionError("no answer of 10.0.0.20"), 1),
        (RuntimeError("gone"), 1),
    ],
)
def test_a_store_that_fails_otherwise_says_why(error: Exception, n_calls: int) -> None:
    class Failing(Words):
        calls = 0

        def similarity_search(self, *_: Any, **__: Any) -> list[Document]:
            self.calls += 1
            raise error

    vectorstore = Failing()
    store = open_store(vectorstore)
    with pytest.raises(StoreError, match=str(error)):
        store.search(store.encode(["v0"]), 20)
    assert vectorstore.calls == n_calls


def test_words_that_a_search_heeds_without_naming_them_are_taken() -> None:
    store = langchain_faiss(n_rows=9)
    words = {"score_threshold": 1e-6}  # a distance: the same text alone
    for retriever in (
        RaLMSpecRetriever(vectorstore=store, k=3, search_kwargs=words),
        adopt(store.as_retriever(search_kwargs={"k": 3, **words})),
    ):
        found = [each.page_content for each in retriever.invoke("v2")]
        assert found == [
            each.page_content
            for each in store.similarity_search("v2", k=3, score_threshold=1e-6)
        ]
        assert len(found) == 1


def test_opensearch_is_given_its_filter_and_no_filter_that_it_may_ignore() -> None:
    store = object.__new__(OpenSearchVectorSearch)
    where = {"term": {"metadata.tenant": "red"}}
    assert searches.search_for(store, {"filter": where}, may_embed=True) == TEXT
    for word in ("pre_filter", "efficient_filter", "search_type"):
        with pytest.raises(UnknownArgumentError, match=word):
            searches.search_for(store, {word: where}, may_embed=True)


class Lazy:
    __slots__ = ("cache", "inner")  # one is filled later

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def find(self, query: str) -> Any:
        return self.inner.invoke(query)


class Endless(list[Any]):
    def __iter__(self) -> Any:
        raise AssertionError("nobody is to read it")


def test_looking_for_a_filter_runs_nothing_of_what_it_looks_through() -> None:
    endless = Endless([1])

    def find(query: str) -> Any:
        return [query, endless]

    RetrieverStore(RunnableLambda(find))
    RetrieverStore(RunnableLambda(Lazy(in_memory().as_retriever()).find))


def test_a_filter_is_found_beside_a_large_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "_MOST_SEEN", 60)
    names = [f"f{n}" for n in range(100)]
    client = type("Client", (), {name: lambda self: self for name in names})()

    class Own(Asking):
        asked: Any
        client: Any

    swallowing = sklearn().as_retriever(search_kwargs={"filter": {"group": 1}})
    with pytest.raises(InvalidValueError, match=r"SKLearnVectorStore.*keep back"):
        open_store(Own(asked=swallowing, client=client))
