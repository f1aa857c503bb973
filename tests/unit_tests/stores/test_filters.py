"""What a filter lets through, whatever it is and whatever metadata holds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import RaLMSpecRetriever, StoreError
from langchain_ralmspec.errors import SetupError
from langchain_ralmspec.stores import open_store
from langchain_ralmspec.stores.filters import require_passing
from tests.unit_tests.fakes import NOT_AVAILABLE
from tests.unit_tests.stores.faiss_toys import langchain_faiss


async def _allowed(_: object) -> bool:
    return False


def awaited(document: object) -> Any:
    """Looks like a function that decides."""
    return _allowed(document)


def in_memory() -> InMemoryVectorStore:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document("red secret"), Document("blue")])
    return store


def generated(_: object) -> Any:
    yield False


async def generated_later(_: object) -> Any:
    yield False


UNDECIDED = {
    "a coroutine": awaited,
    "a generator": generated,
    "an async generator": generated_later,
    "a filter": lambda document: filter(None, [document]),
    "a method": lambda document: document.__str__,
    "a future": lambda _: Future(),
}


@pytest.mark.parametrize("undecided", [*UNDECIDED])
@pytest.mark.parametrize("make", [in_memory, lambda: langchain_faiss(n_rows=3)])
@pytest.mark.filterwarnings("ignore:coroutine '_allowed' was never awaited")
def test_what_is_true_of_every_document_is_no_verdict(
    make: Callable[[], Any], undecided: str
) -> None:
    condition: Any = UNDECIDED[undecided]
    retriever = RaLMSpecRetriever(vectorstore=make(), filter=condition)
    with pytest.raises(StoreError, match="which is true of every document"):
        retriever.invoke("x")
    words = {"filter": condition}
    found = open_store(make().as_retriever(search_type="mmr", search_kwargs=words))
    with pytest.raises(StoreError, match="which is true of every document"):
        found.search(found.encode(["x"]), 1)


@pytest.mark.parametrize(
    ("filter_", "metadata", "passes"),
    [
        ({"price <": 200}, {"price": 100}, True),  # as Databricks writes it
        ({"make NOT": "Ford"}, {"make": "Audi"}, True),
        ({"color LIKE": "red"}, {"color": "dark red"}, True),
        ({"city OR state": ["red", "blue"]}, {"city": "red"}, True),
        ({"price <": 200}, {"price <": 100}, False),  # a name, as it turns out
        ({"some name": "red"}, {"some name": "blue"}, False),
        ({"tenants": "red"}, {"tenants": np.array(["red", "blue"])}, True),
        ({"tenants": "red"}, {"tenants": np.array(["green", "blue"])}, False),
        ({"tenant": "red"}, {"tenant": NOT_AVAILABLE}, False),
        ({"tenant": 3}, {"tenant": np.int64(3)}, True),
    ],
)
def test_what_is_found_is_tested_as_far_as_it_can_be(
    filter_: dict[str, Any], metadata: dict[str, Any], passes: bool
) -> None:
    found = [Document("x", metadata=metadata)]
    if passes:
        require_passing(filter_, found, "Databricks")
        return
    with pytest.raises(StoreError, match=r"which the filter .* keeps back"):
        require_passing(filter_, found, "Databricks")


@pytest.mark.parametrize("filter_", [{1: "a"}, {"$and": [5]}, {"$not": 3}])
def test_a_filter_that_faiss_cannot_read_is_refused(filter_: Any) -> None:
    with pytest.raises(SetupError, match="cannot use the filter"):
        open_store(langchain_faiss(n_rows=3), filter=filter_)


class Colour(Enum):
    """Of a tenant."""

    RED = "red"


ONE = UUID(int=1)


@pytest.mark.parametrize(
    ("value", "same", "other"),
    [
        (ONE, str(ONE), str(UUID(int=2))),
        (ONE, ONE, UUID(int=2)),
        (date(2026, 1, 2), "2026-01-02", "2026-01-03"),
        (Decimal("1.5"), 1.5, 2.5),
        (Colour.RED, "red", "blue"),
        (Colour.RED, Colour.RED, "blue"),
        (np.int64(3), 3, 4),
        (b"red", b"red", b"blue"),
        (None, None, "blue"),
    ],
)
def test_values_of_other_kinds_are_compared(value: Any, same: Any, other: Any) -> None:
    for condition in ({"tenant": value}, {"tenant": {"$eq": value}}):
        require_passing(condition, [Document("x", metadata={"tenant": same})], "S")
        with pytest.raises(StoreError, match="keeps back"):
            require_passing(condition, [Document("x", metadata={"tenant": other})], "S")
