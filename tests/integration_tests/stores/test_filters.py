"""A filter is the store's own, whichever store it is: no caller changes it later."""

from __future__ import annotations

import copy
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import chromadb
import pytest
from chromadb.config import Settings
from langchain_chroma import Chroma
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_ralmspec import ChatRaLMSpec, InvalidValueError, RaLMSpecRetriever
from langchain_ralmspec.assets.models import model_path
from langchain_ralmspec.stores import open_store

EMBEDDINGS = DeterministicFakeEmbedding(size=8)
TENANTS = [Document(t, metadata={"tenant": t}) for t in ("red", "blue")]


def chroma() -> Chroma:
    client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
    name = f"test-{uuid.uuid4()}"
    store = Chroma(name, EMBEDDINGS, client=client)
    store.add_documents(TENANTS)
    return store


def faiss() -> FAISS:
    return FAISS.from_documents(TENANTS, EMBEDDINGS)


def searched(store: Any) -> set[str]:
    found = store.search(store.encode(["?"]), 2)
    return {hit.document.page_content for hit in found[0]}


def of_a_store(made: Any, **words: Any) -> Callable[[], set[str]]:
    opened = open_store(made, **words)
    return lambda: searched(opened)


def of_a_retriever(made: Any, **words: Any) -> Callable[[], set[str]]:
    retriever = RaLMSpecRetriever(vectorstore=made, k=2, **words)
    return lambda: {each.page_content for each in retriever.invoke("?")}


def of_a_session(made: Any, **words: Any) -> Callable[[], set[str]]:
    session = RaLMSpecRetriever(vectorstore=made, k=2, **words).session()
    return lambda: {each.page_content for each in session.verify(["?"])[0]}


GGUF = str(model_path("smollm2-135m"))


def of_a_chat(made: Any, **words: Any) -> Callable[[], set[str]]:
    """As ``as_retriever()`` gives it, whose dicts are the caller's."""
    given = words.get("search_kwargs", {}) | {"filter": words["filter"]}
    langchains = made.as_retriever(search_kwargs=given)
    retriever = ChatRaLMSpec(model_path=GGUF, retriever=langchains).retriever
    return lambda: searched(retriever.store)


@pytest.mark.parametrize("make", [chroma, faiss])
@pytest.mark.parametrize("door", [of_a_store, of_a_retriever, of_a_session, of_a_chat])
@pytest.mark.parametrize("by_own_search", [False, True])
@pytest.mark.parametrize(
    ("condition", "change"),
    [
        ({"tenant": "red"}, lambda f: f.update(tenant="blue")),
        ({"tenant": {"$in": ["red"]}}, lambda f: f["tenant"]["$in"].append("blue")),
        (
            OrderedDict(tenant={"$in": ["red"]}),
            lambda f: f["tenant"].update({"$in": ["blue"]}),
        ),
    ],
)
def test_what_is_done_to_a_filter_later_has_no_effect(
    make: Any, door: Any, by_own_search: bool, condition: Any, change: Any
) -> None:
    condition, made = copy.deepcopy(condition), make()
    words: dict[str, Any] = {"filter": condition}
    if by_own_search:
        own = {"where_document": {"$not_contains": "x"}}
        words["search_kwargs"] = own if make is chroma else {"fetch_k": 2}
    found = door(made, **words)
    assert found() == {"red"}
    change(condition)
    assert found() == {"red"}


def test_what_is_done_to_search_kwargs_later_has_no_effect() -> None:
    within: dict[str, Any] = {"$contains": "red"}
    found = of_a_retriever(chroma(), search_kwargs={"where_document": within})
    assert found() == {"red"}
    within["$contains"] = "blue"
    assert found() == {"red"}


def test_a_function_is_no_filter_of_chromas() -> None:
    words = {"where_document": {"$contains": "red"}}
    for given in ({}, words):
        with pytest.raises(InvalidValueError, match=r"a dict such as .*got <built-in"):
            open_store(chroma(), filter=callable, search_kwargs=given)
