"""Any LangChain retriever: whatever turns a query into a list of documents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from reprlib import repr as shortened
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_ralmspec.errors import InvalidValueError, StoreError
from langchain_ralmspec.stores.arguments import check_k
from langchain_ralmspec.stores.base import Hit, Query
from langchain_ralmspec.stores.concurrency import MAX_CONCURRENCY, Calls
from langchain_ralmspec.stores.configuring import configuration_of, configured
from langchain_ralmspec.stores.encoding import computes_here
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.filters import require_passing
from langchain_ralmspec.stores.generic_store import distinct
from langchain_ralmspec.stores.searches import (
    filter_of,
    refuse_awaited_alone,
    refuse_swallowed_words,
    searched_by,
)
from langchain_ralmspec.stores.sharing import lock_of, original
from langchain_ralmspec.stores.waiting import Waiting
from langchain_ralmspec.stores.watching import watched_within


class RetrieverStore:
    """A retriever that is asked one query a call, many calls at once.

    Its order is kept, and what it does not find is not there. How it ranks is not
    known, so documents are not compared with queries here: a guess can only repeat the
    last documents.

    Args:
        retriever: any ``Runnable`` from a string to a list of ``Document``: a
            retriever, one with a config, one piped into a reranker.
        max_concurrency: calls at once; 1 makes them one after the other.

    Attributes:
        metric: None, since there are no vectors.
        dimension: None.
        top_k_is_stable: True: it is never told how many are wanted.
        one_call_a_query: True: each query is counted as a call.
        reads_shared_memory: True, since it may.

    Raises:
        InvalidValueError: ``retriever`` is no ``Runnable``, or overrides a search for
            ``await`` alone, or has a filter that its store would swallow, or
            ``max_concurrency`` is below 1.
        UnknownArgumentError: it has another word that its store would swallow.
    """

    metric = None
    dimension = None
    top_k_is_stable = True
    one_call_a_query = True
    reads_shared_memory = True

    def __init__(
        self,
        retriever: Runnable[str, list[Document]],
        max_concurrency: int = MAX_CONCURRENCY,
    ) -> None:
        if not isinstance(retriever, Runnable):
            kind = type(retriever).__name__
            msg = f"{kind} is no Runnable; put a function into RunnableLambda(…)"
            raise InvalidValueError(msg)
        refuse_awaited_alone(retriever)
        refuse_swallowed_words(retriever)
        self._retriever = retriever
        self._calls = Calls(max_concurrency)
        self._name = retriever.get_name()

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries, which the retriever is asked as text."""
        return [Query(text) for text in texts]

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the first ``k`` documents that the retriever gives for every query.

        Each document comes once. The score is ordinal only: minus the rank.

        Raises:
            InvalidValueError: ``k`` is below 1.
            StoreError: the retriever raised, cannot be called without ``await``, or
                gave no list of documents. Calls that run are waited for.
        """
        check_k(k)
        texts = [query.text for query in queries]
        # Not its own batch(), which may find other documents than invoke() does.
        return [self._hits(found, k) for found in self._calls.map(self._ask, texts)]

    def count(self) -> int:
        """-1: a retriever does not tell how many documents there are."""
        return -1

    def _ask(self, text: str) -> Sequence[Document]:
        retriever = self._retriever
        if values := configuration_of(retriever):
            retriever = configured(retriever, values)
            refuse_awaited_alone(retriever)
        with reported_as_store_error(self._name, "search"):
            retriever = watched_within(retriever)
            try:
                with _searching(retriever):
                    found: Any = retriever.invoke(text)
            except (NotImplementedError, TypeError) as error:
                if isinstance(error, TypeError) and "synchronously" not in str(error):
                    raise
                raise StoreError(
                    f"{self._name} failed to search: {type(error).__name__}: {error}; "
                    "it is called without await here: if it can only be awaited, give "
                    "it a synchronous _get_relevant_documents, or function, too"
                ) from error
        if not isinstance(found, list | tuple) or not all(
            isinstance(each, Document) for each in found
        ):
            raise StoreError(
                f"{self._name} must give a list of Documents, but gave "
                f"{type(found).__name__} {shortened(found)} for the query "
                f"{shortened(text)}; leave out what makes a text of documents: how one "
                "is shown is said by document_prompt"
            )
        require_passing(filter_of(retriever), found, self._name)
        return found

    def _hits(self, found: Sequence[Document], k: int) -> list[Hit]:
        hits = [
            Hit(id_, document, float(-rank))
            for rank, (id_, document) in enumerate(distinct(found).items())
        ]
        return hits[:k]


def found_by(
    retriever: Runnable[Any, Any],
    query: str,
    config: RunnableConfig | None = None,
    *,
    store_timeout: float | None = None,
) -> Any:
    """What a retriever that is asked once finds, whatever that is.

    Args:
        retriever: any.
        query: that it is asked.
        config: of the call.
        store_timeout: how many seconds it may take; None waits for ever.

    Raises:
        StoreTimeoutError: it does not answer in time.
        InvalidValueError: its store would swallow its filter, or it or its store
            searches otherwise where it is awaited.
        UnknownArgumentError: its store would swallow another word.
        StoreError: it fails, or gives what its filter keeps back.
    """
    if values := configuration_of(retriever):
        retriever = configured(retriever, values)
    refuse_awaited_alone(retriever)
    refuse_swallowed_words(retriever)
    name, filter_ = retriever.get_name(), filter_of(retriever)

    def find() -> Any:
        watched = watched_within(retriever)
        with _searching(retriever):
            found = watched.invoke(query, config)
        if filter_ is not None and isinstance(found, list):
            require_passing(filter_, found, name)
        return found

    with (
        reported_as_store_error(name, "search"),
        closing(Waiting(retriever, store_timeout)) as waiting,
    ):
        return waiting.call(find)


def _searching(retriever: Runnable[Any, Any]) -> AbstractContextManager[None]:
    """Search in this block, while no retriever of this package changes the store.

    Not where embedding may wait: nobody else could search it meanwhile.
    """
    store = original(searched_by(retriever))
    is_quick = store is not None and computes_here(store.embeddings)
    return lock_of(store).searching() if is_quick else nullcontext()
