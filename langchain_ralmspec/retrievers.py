"""A drop-in retriever whose batches are one store call, and its sessions."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import signature
from typing import Any, Self, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManager,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, run_in_executor
from pydantic import Field, PrivateAttr

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.arguments import StrictArguments
from langchain_ralmspec.errors import InvalidValueError, UnknownArgumentError
from langchain_ralmspec.ralm.session import Guess, Hits, Session, text_of
from langchain_ralmspec.ralm.writer import texts_of
from langchain_ralmspec.speculation import GUESS_POLICIES
from langchain_ralmspec.stores import (
    BM25Store,
    FaissStore,
    GenericStore,
    Hit,
    Query,
    Store,
    open_store,
)
from langchain_ralmspec.stores.faiss_rows import FixedRows


class RetrieverSession:
    """One session over a retriever's store; its cache is shared with nobody.

    :meth:`RaLMSpecRetriever.session` opens one.

    Example:
        .. code-block:: python

            session = retriever.session()
            truth = session.verify([first_query])  # fills the cache
            guess = session.speculate(next_query)  # no search
            truth = session.verify([next_query])   # one store call for all queries
            if guess != truth[0]: ...              # roll back what relied on it
    """

    def __init__(self, session: Session, guess_policy: str) -> None:
        self._session = session
        (self._policy,) = session.usable([guess_policy])
        self._current: Hits = ()
        self._guesses: dict[str, Guess] = {}  # since the last verification

    @property
    def stats(self) -> SpeculationStats:
        """Counts and seconds of this session so far."""
        return self._session.stats

    def speculate(self, query: str) -> list[Document]:
        """Guess what :meth:`verify` would return, without a search.

        Over FAISS the guessed documents are looked up in the docstore by their ids.

        Returns:
            As many documents as the last verification returned; none before that.
        """
        guess = self._session.guess(self._policy, query, self._current)
        self._guesses[query] = guess
        return _documents(guess.hits)

    def verify(self, queries: Sequence[str]) -> list[list[Document]]:
        """Retrieve the true documents of all queries in one store call.

        Generation is taken to go on under the true documents of the first query whose
        guess was wrong, else of the last one: those are what ``"same"`` guesses next.

        Raises:
            EmptyStoreError: the store found nothing.
            StoreError: the store failed.
        """
        if not queries:
            return []
        guesses = [self._guesses.get(query) for query in queries]
        pairs = zip(queries, guesses, strict=True)
        known = [guess.query if guess else Query(text) for text, guess in pairs]
        looks_up = GUESS_POLICIES[self._policy].needs_vector
        truth = self._session.verify(known, with_vectors=looks_up)
        self._guesses.clear()
        judged = zip(guesses, truth, strict=True)
        wrong = (t for g, t in judged if g and texts_of(g.hits) != texts_of(t))
        self._current = next(wrong, truth[-1])
        return [_documents(hits) for hits in truth]


def _documents(hits: Hits) -> list[Document]:
    return [hit.document for hit in hits]


class RaLMSpecRetriever(StrictArguments, BaseRetriever):
    """Retrieves from Chroma, FAISS or any LangChain ``VectorStore``.

    ``batch`` sends all queries to the store in one call, and :meth:`session` gives
    guess / verify to code that generates on its own. ``RaLMSpecLLM`` and
    ``ChatRaLMSpec`` take it as their ``retriever``.

    Example:
        .. code-block:: python

            retriever = RaLMSpecRetriever(vectorstore=store, k=4)
            retriever.invoke("who wrote Moby Dick?")
            retriever.batch(["one question", "another"])  # one store call
    """

    vectorstore: Any = Field(frozen=True)
    """A LangChain ``VectorStore``, or one of this package's stores."""
    k: int = Field(default=4, ge=1)
    """Documents returned for a query."""
    filter: Any = Field(default=None, frozen=True)
    """Metadata filter in the vector store's own language."""

    _store: Store = PrivateAttr()
    _key: str = PrivateAttr(default_factory=lambda: uuid.uuid4().hex)

    def model_post_init(self, context: Any, /) -> None:
        """Open the store."""
        super().model_post_init(context)
        self._store = open_store(self.vectorstore, filter=self.filter)

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], *, kind: str = "bm25", **kwargs: Any
    ) -> Self:
        """Build a store from documents, and a retriever over it.

        Args:
            documents: at least one.
            kind: of store; ``"bm25"`` is the one that needs no embeddings.
            **kwargs: arguments of ``BM25Store.from_documents`` and of this class.

        Raises:
            InvalidValueError: there is no such kind, or the store refused the
                documents or an argument.
            MissingExtraError: the extra ``bm25`` is not installed.
            UnknownArgumentError: an argument is neither the store's nor this class's.
        """
        if kind != "bm25":
            msg = f"kind must be 'bm25', got {kind!r}; put other stores in vectorstore="
            raise InvalidValueError(msg)
        names = signature(BM25Store.from_documents).parameters
        options = {name: kwargs.pop(name) for name in names if name in kwargs}
        for name in kwargs:
            if name not in cls.model_fields:
                owner = f"{cls.__name__}.from_documents()"
                known = {*names, *cls.model_fields} - {"documents", "vectorstore"}
                raise UnknownArgumentError.of(owner, name, known)
        return cls(vectorstore=BM25Store.from_documents(documents, **options), **kwargs)

    @property
    def key(self) -> str:
        """What tells this retriever from every other one, in caches and traces."""
        return self._key

    @property
    def uncacheable(self) -> str | None:
        """Why an answer under its documents must not serve another call; else None.

        It may where these depend on the query and on stored documents alone, and
        where it shows that documents were added.
        """
        if callable(self.filter):
            return "the retriever's filter is a function, which may depend on anything"
        for searched in (self, self.vectorstore):
            if not _is_known(searched):
                kind = type(searched).__name__
                return f"what {kind} finds may depend on anything: its code is not ours"
        if isinstance(self._store, GenericStore) and self._store.count() < 0:
            kind = type(self.vectorstore).__name__
            return f"{kind} does not tell when documents were added"
        return None

    @property
    def store(self) -> Store:
        """The store as the speculation sees it."""
        return self._store

    def session(
        self,
        *,
        k: int | None = None,
        prefetch_k: int | None = None,
        guess_policy: str = "lookup",
    ) -> RetrieverSession:
        """Open a session with a cache of its own.

        Args:
            k: documents per query; None takes the retriever's.
            prefetch_k: hits of every verified query that enter the cache; None takes
                200 for exact local search and 20 elsewhere.
            guess_policy: ``"lookup"`` or ``"same"``.
        """
        if guess_policy not in GUESS_POLICIES:
            known = list(GUESS_POLICIES)
            msg = f"guess_policy must be one of {known}, got {guess_policy!r}"
            raise InvalidValueError(msg)
        session = self.new_session(k=self.k if k is None else k, prefetch_k=prefetch_k)
        return RetrieverSession(session, guess_policy)

    def new_session(
        self,
        *,
        k: int,
        prefetch_k: int | None = None,
        stats: SpeculationStats | None = None,
        render: Callable[[Document], str] = text_of,
    ) -> Session:
        """Open a session for the loops of this package (see :meth:`session`)."""
        _require_positive("k", k)
        if prefetch_k is not None:
            _require_positive("prefetch_k", prefetch_k)
        return Session(
            self._store, depth=k, prefetch_k=prefetch_k, stats=stats, render=render
        )

    def invalidate(self) -> None:
        """Say that documents were changed in place, or replaced by as many others.

        Forgets what was derived from the store and makes cached answers stale.
        Documents added or deleted in the usual way need no such call.
        """
        self._store = open_store(self.vectorstore, filter=self.filter)
        self._key = uuid.uuid4().hex

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        **kwargs: Any,
    ) -> list[Document]:
        (documents,) = self._retrieve([query], _only_k("invoke", kwargs))
        return documents

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        **kwargs: Any,
    ) -> list[Document]:
        k = _only_k("ainvoke", kwargs)
        (documents,) = await run_in_executor(None, self._retrieve, [query], k)
        return documents

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """Retrieve for many queries with one store call.

        Args:
            inputs: the queries.
            config: for all, or one each; every query is a run of its own to callbacks.
            return_exceptions: return a failure in every place instead of raising.
            **kwargs: ``k``, as in ``invoke``.

        Raises:
            StoreError: the store failed.
        """
        k = _only_k("batch", kwargs)
        configs = get_config_list(config, len(inputs))
        runs = list(map(self._start_run, inputs, configs))
        try:
            found = self._retrieve(inputs, k)
        except Exception as error:
            for run in runs:
                run.on_retriever_error(error)
            if return_exceptions:
                return cast("list[list[Document]]", [error] * len(inputs))
            raise
        for run, documents in zip(runs, found, strict=True):
            run.on_retriever_end(documents)
        return found

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """Retrieve for many queries with one store call, off the event loop."""
        batch = partial(self.batch, return_exceptions=return_exceptions, **kwargs)
        return await run_in_executor(None, batch, inputs, config)

    def _start_run(
        self, query: str, config: RunnableConfig
    ) -> CallbackManagerForRetrieverRun:
        metadata = {**(config.get("metadata") or {}), **self._get_ls_params()}
        manager = CallbackManager.configure(
            config.get("callbacks"),
            inheritable_tags=config.get("tags"),
            local_tags=self.tags,
            inheritable_metadata=metadata,
            local_metadata=self.metadata,
        )
        name, run_id = config.get("run_name") or self.get_name(), config.get("run_id")
        return manager.on_retriever_start(None, query, name=name, run_id=run_id)

    def _retrieve(self, queries: Sequence[str], k: int | None) -> list[list[Document]]:
        k = self.k if k is None else k
        _require_positive("k", k)
        if not queries:
            return []
        found = self._store.search(self._store.encode(queries), k)
        return [[_with_id(hit) for hit in hits] for hits in found]


_KNOWN = ("langchain_core", "langchain_community", "langchain_chroma")
"""Packages whose stores' searches depend on nothing but what is stored."""


def _is_known(searched: object) -> bool:
    """Whether it is of such a class itself, and none of its methods was replaced."""
    kind, own = type(searched), getattr(searched, "__dict__", {})
    if kind is FaissStore:  # which may be a view of another store, with a filter
        is_known = isinstance(own["_rows"], FixedRows)
    else:
        package = kind.__module__.partition(".")[0]
        is_known = kind in (BM25Store, RaLMSpecRetriever) or package in _KNOWN
    return is_known and not any(callable(getattr(kind, name, None)) for name in own)


def _with_id(hit: Hit) -> Document:
    document = hit.document
    return document if document.id else document.model_copy(update={"id": hit.id})


def _only_k(method: str, given: dict[str, Any]) -> int | None:
    for name in [name for name in given if name != "k"]:
        raise UnknownArgumentError.of(f"RaLMSpecRetriever.{method}()", name, ["k"])
    return given.get("k")


def _require_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        msg = f"{name} must be a whole number of at least 1, got {value!r}"
        raise InvalidValueError(msg)
