"""What stores embed by themselves is looked at."""

from __future__ import annotations

import math
import pickle
import threading
from typing import Any

import pytest
from langchain_classic.retrievers import EnsembleRetriever
from langchain_community.vectorstores import SKLearnVectorStore
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.retrievers import adopt
from langchain_ralmspec.stores import open_store
from langchain_ralmspec.stores.retriever_store import found_by
from langchain_ralmspec.stores.sharing import lock_of
from langchain_ralmspec.stores.watching import watched_within
from tests.unit_tests.stores.toys import BatchTableEmbeddings, documents, table

N_ROWS = 12


class Blind(BatchTableEmbeddings):
    """Gives what was set, for queries."""

    vector: tuple[float, ...] = (0.0,)

    def embed_query(self, text: str) -> list[float]:
        return [*self.vector] * self.table.shape[1]


class Overriding(InMemoryVectorStore):
    """Searches by text in its own way."""

    def similarity_search(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[Document]:
        return super().similarity_search(query, k, **kwargs)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e30])
@pytest.mark.parametrize("kind", [SKLearnVectorStore, Overriding])
def test_a_store_that_embeds_by_itself_is_asked_nothing_that_it_cannot_compare(
    kind: Any, value: float
) -> None:
    vectorstore = kind(Blind(table(N_ROWS)))
    vectorstore.add_documents(documents(4))
    encoder = vectorstore.embeddings
    encoder.vector = (value,)
    mmr = adopt(vectorstore.as_retriever(search_type="mmr"))
    for asked in (RaLMSpecRetriever(vectorstore=vectorstore), mmr):
        with pytest.raises(StoreError, match=r"Blind.*of length .* for 'v2'"):
            asked.invoke("v2")
    assert vectorstore.embeddings is encoder


@pytest.mark.parametrize(
    "wrap",
    [
        lambda r: r.with_config(tags=["x"]),
        lambda r: r | RunnableLambda(lambda found: found[:1]),
        lambda r: r.with_fallbacks([]),
        lambda r: EnsembleRetriever(retrievers=[r, r], weights=[0.5, 0.5]),
        lambda r: RunnableParallel(found=r) | RunnableLambda(lambda d: d["found"]),
    ],
)
def test_a_store_is_asked_nothing_that_it_cannot_compare_behind_any_retriever(
    wrap: Any,
) -> None:
    encoder = Blind(table(N_ROWS))
    vectorstore = InMemoryVectorStore(encoder)
    vectorstore.add_documents(documents(4))
    encoder.vector = (math.nan,)
    retriever = wrap(vectorstore.as_retriever())
    store = open_store(retriever)
    for ask in (
        lambda: store.search(store.encode(["v2"]), 1),
        lambda: found_by(retriever, "v2"),
    ):
        with pytest.raises(StoreError, match=r"Blind.*of length nan for 'v2'"):
            ask()


def test_a_store_that_computes_here_is_searched_by_the_thread_that_asks() -> None:
    seen: list[threading.Thread] = []

    class HuggingFaceEmbeddings(BatchTableEmbeddings):
        """Known to compute here."""

        def embed_query(self, text: str) -> list[float]:
            seen.append(threading.current_thread())
            return super().embed_query(text)

    vectorstore = InMemoryVectorStore(HuggingFaceEmbeddings(table(N_ROWS)))
    vectorstore.add_documents(documents(4))
    found = found_by(vectorstore.as_retriever(), "v2", store_timeout=20)
    assert len(found) == 4
    assert seen == [threading.current_thread()]


def test_what_a_retriever_holds_in_numbers_is_data() -> None:
    store = InMemoryVectorStore(Blind(table(N_ROWS)))
    found = RunnableLambda(lambda found: found)
    few, many = ([store.as_retriever()] * n for n in (2, 200))
    assert watched_within(few) is not few
    assert watched_within(many) is many
    circle: dict[str, Any] = {}
    circle["itself"] = circle
    assert watched_within(circle) is circle
    assert watched_within(found) is found


def test_traces_show_the_encoder_itself() -> None:
    store = InMemoryVectorStore(Blind(table(N_ROWS)))
    shown = watched_within(store.as_retriever())._get_ls_params()
    assert shown == store.as_retriever()._get_ls_params()
    assert shown["ls_embedding_provider"] == "Blind"


def test_a_search_by_itself_holds_changes_up() -> None:
    class HuggingFaceEmbeddings(BatchTableEmbeddings):
        """Known to compute here."""

    seen: list[int] = []

    class Counting(InMemoryVectorStore):
        def max_marginal_relevance_search(self, *_: Any, **__: Any) -> list[Document]:
            seen.append(lock_of(vectorstore)._n_searches)
            return []

    vectorstore = Counting(HuggingFaceEmbeddings(table(N_ROWS)))
    mmr = adopt(vectorstore.as_retriever(search_type="mmr"))
    mmr.invoke("v2")
    mmr.model_copy().invoke("v2")
    assert seen == [1, 1]


def test_what_becomes_of_such_a_store_is_seen() -> None:
    vectorstore = Overriding(Blind(table(N_ROWS)))
    retriever = RaLMSpecRetriever(vectorstore=vectorstore, k=9)
    vectorstore.add_documents(documents(4))
    mmr = adopt(vectorstore.as_retriever(search_type="mmr"))
    for asked in (retriever, mmr):
        with pytest.raises(StoreError, match="of length 0"):
            pickle.loads(pickle.dumps(asked)).invoke("v2")  # noqa: S301
    vectorstore.embedding = BatchTableEmbeddings(table(N_ROWS))
    assert retriever.invoke("v2")[0].page_content == "v2"
    vectorstore.store = {}
    assert retriever.invoke("v2") == []
    vectorstore.embedding = Blind(table(N_ROWS))
    with pytest.raises(StoreError, match="of length 0"):
        retriever.invoke("v2")
