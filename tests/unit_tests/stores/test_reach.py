"""A filter that a store would swallow is refused wherever its retriever is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_community.vectorstores import SKLearnVectorStore
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda
from pydantic import PrivateAttr

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.stores import open_store
from langchain_ralmspec.stores.retriever_store import found_by
from tests.unit_tests.stores.faiss_toys import langchain_faiss
from tests.unit_tests.stores.toys import BatchTableEmbeddings, table

N_ROWS = 4


class Finder:
    """An object of an application, that has a retriever."""

    def __init__(self, retriever: Any) -> None:
        self.retriever = retriever

    def find(self, query: str) -> Any:
        return self._ask(query)

    def __call__(self, query: str) -> Any:
        return self._ask(query)

    def _ask(self, query: str) -> Any:
        return self.retriever.invoke(query)


class Slotted:
    __slots__ = ("retriever",)

    def __init__(self, retriever: Any) -> None:
        self.retriever = retriever

    def __call__(self, query: str) -> Any:
        return self.retriever.invoke(query)


class Plain(Runnable[str, Any]):
    """A runnable without pydantic's fields."""

    def __init__(self, retriever: Any) -> None:
        self._retriever = retriever

    def invoke(self, query: str, config: Any = None, **_: Any) -> Any:  # type: ignore[override]  # a string is enough
        return self._retriever.invoke(query)


class Private(BaseRetriever):
    _inner: Any = PrivateAttr()

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return list(self._inner.invoke(query))


class Held(BaseRetriever):
    held: Any

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return list(self.held(query))


def private(retriever: Any) -> Private:
    made = Private()
    made._inner = retriever
    return made


def by_helper(retriever: Any) -> Any:
    def helper(query: str) -> Any:
        return retriever.invoke(query)

    def found(query: str) -> Any:
        return helper(query)[:4]

    return found


def with_default(retriever: Any) -> Any:
    def found(query: str, asked: Any = retriever) -> Any:
        return asked.invoke(query)

    return found


def decorated(retriever: Any) -> Any:
    @wraps(by_helper)
    def found(query: str) -> Any:
        return retriever.invoke(query)

    return found


def without_source(retriever: Any) -> Any:
    names = {"retriever": retriever}
    source = "def find(query):\n    return (lambda: retriever)().invoke(query)"
    exec(source, names)  # noqa: S102  as a notebook does
    return names["find"]


def generator(retriever: Any) -> Any:
    def found(queries: Iterator[str]) -> Iterator[Any]:
        yield from (retriever.invoke(query) for query in queries)

    return RunnableGenerator(found)


def ask(retriever: Any, query: str) -> Any:
    return retriever.invoke(query)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda r: RunnableLambda(r.invoke),
        lambda r: RunnableLambda(partial(ask, r)),
        lambda r: RunnableLambda(with_default(r)),
        lambda r: RunnableLambda(
            partial(lambda tenants, query: tenants["red"].invoke(query), {"red": r})
        ),
        lambda r: RunnableLambda(Finder(r).find),
        lambda r: RunnableLambda(Finder(r)),
        lambda r: RunnableLambda(Slotted(r)),
        lambda r: RunnableLambda(
            partial(lambda app, query: ask(app.found, query), SimpleNamespace(found=r))
        ),
        lambda r: RunnableLambda(by_helper(r)),
        lambda r: RunnableLambda(decorated(r)),
        lambda r: RunnableLambda(without_source(r)),
        lambda r: Plain(r) | RunnableLambda(list),
        lambda r: Held(held=r.invoke),
        lambda r: Held(held=Finder(r)),
        private,
        generator,
    ],
)
def test_wherever_a_retriever_is_held_its_filter_is_not_swallowed(
    wrap: Callable[[Any], Any],
) -> None:
    store = SKLearnVectorStore(BatchTableEmbeddings(table(N_ROWS)))
    store.add_texts(["v0"], metadatas=[{"tenant": "blue"}])
    words = {"filter": {"tenant": "red"}}
    found = wrap(store.as_retriever(search_kwargs=words))
    for door in (open_store, lambda each: found_by(each, "v0")):
        with pytest.raises(InvalidValueError, match=r"SKLearnVectorStore.*keep back"):
            door(found)
    heeds = langchain_faiss(n_rows=N_ROWS).as_retriever(search_kwargs=words)
    open_store(wrap(heeds))
    assert found_by(wrap(heeds), "v0") == []


def test_what_a_function_does_not_name_is_not_looked_at() -> None:
    store = SKLearnVectorStore(BatchTableEmbeddings(table(N_ROWS)))
    swallows = store.as_retriever(search_kwargs={"filter": {"tenant": "red"}})
    good = langchain_faiss(n_rows=N_ROWS).as_retriever()
    names = {"good": good, "swallows": swallows, "loop": None}
    exec("def loop(query):\n    return good.invoke(query) or loop(query)", names)  # noqa: S102
    found: Any = names["loop"]
    open_store(RunnableLambda(found))
    assert len(found_by(RunnableLambda(found), "v0")) == 4
