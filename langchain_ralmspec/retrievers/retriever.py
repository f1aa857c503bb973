"""A drop-in retriever whose batches are one store call."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, run_in_executor
from pydantic import Field, PrivateAttr

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.arguments import StrictArguments, owned, several
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.ralm.session import OnEmpty, Session, text_of
from langchain_ralmspec.retrievers.caching import why_uncacheable
from langchain_ralmspec.retrievers.configured import ConfiguredRetriever
from langchain_ralmspec.retrievers.opening import Opened, built_store
from langchain_ralmspec.retrievers.runs import retrieved, search
from langchain_ralmspec.retrievers.session import (
    MOST_HITS,
    RetrieverSession,
    checked_queries,
    require_hits,
)
from langchain_ralmspec.retrievers.snapshot import Origin, is_same, searches_itself
from langchain_ralmspec.speculation import GUESS_POLICIES
from langchain_ralmspec.stores import Store, lock_of, open_replica, open_store, refresh
from langchain_ralmspec.stores.concurrency import MAX_CONCURRENCY
from langchain_ralmspec.stores.documents import whole_documents
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.waiting import Seconds, shorter
from langchain_ralmspec.stores.watching import watched


class RaLMSpecRetriever(StrictArguments, ConfiguredRetriever):
    """Retrieves from Chroma, FAISS, any LangChain ``VectorStore`` or retriever.

    ``batch`` sends all queries to the store in one call, and ``session()`` gives
    guess / verify to code that generates on its own. ``RaLMSpecLLM`` and
    ``ChatRaLMSpec`` take it as their ``retriever``.

    Example:
        ```python
        retriever = RaLMSpecRetriever(vectorstore=store, k=4)
        retriever.invoke("who wrote Moby Dick?")
        retriever.batch(["one question", "another"])  # one store call
        ```
    """

    vectorstore: Any = Field(frozen=True)
    """A LangChain ``VectorStore``, any retriever, or one of this package's stores."""
    k: int = Field(default=4, ge=1, le=MOST_HITS)
    """Documents returned for a query, if the store finds as many."""
    filter: Any = Field(default=None, frozen=True)
    """Metadata filter in the vector store's own language. A dict, or a ``Filter`` of
    Qdrant's, is copied when the retriever is made: what is done to it later has no
    effect. Another filter takes another retriever (``model_copy``), or
    ``invoke(…, filter=…)``."""
    search_kwargs: dict[str, Any] = Field(default_factory=dict, frozen=True)
    """Other arguments of the store's ``similarity_search``: ``expr``, ``namespace``,
    …. With these it is asked query by query, but for those that one call of Milvus or
    Qdrant takes. They are copied as ``filter`` is."""
    max_concurrency: int = Field(default=MAX_CONCURRENCY, ge=1, frozen=True)
    """Requests for one query each that may be out at once, to the embeddings and to a
    store without a call for many; 1 makes them one after the other."""
    symmetric_embeddings: bool | None = Field(default=None, frozen=True)
    """Whether ``embed_documents`` embeds queries as well, so that one request serves
    many; None looks the class of the embeddings up."""
    embed_found_documents: bool = Field(default=False, frozen=True)
    """Whether found documents are embedded where the store gives no vectors, so that
    guesses can be looked up. It takes embeddings that are local and cost nothing."""
    store_timeout: Seconds | None = 30.0
    """Seconds after which a search, embedding included, is a ``StoreTimeoutError``. It
    runs in another thread unless store and embeddings compute here, and no filter is a
    function. None: never."""
    replica: Any = Field(default=None, frozen=True)
    """What guesses are looked up in, beside the session's cache: a copy that is fast to
    search, such as a local FAISS of the same documents (anything that ``vectorstore``
    may be), or ``"auto"``, which builds one of a flat FAISS index, or copies a Chroma
    collection, in the background. Wrong guesses cost time alone, so it may be stale."""

    _origin: Origin | None = PrivateAttr(default=None)
    _opened: Opened | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        """Open the store."""
        super().model_post_init(context)
        for name in {"k", "filter"} & self.search_kwargs.keys():
            msg = f"{name!r} in search_kwargs is an argument of its own; give {name}="
            raise InvalidValueError(msg)
        self._reopen()

    def _kept_up(self) -> Opened:
        """The store under filter and words as they are now."""
        opened, now = self._opened, (self.filter, self.search_kwargs)
        is_current = opened is not None and is_same(opened.settings, now)
        return opened if opened and is_current else self._reopen()

    def _reopen(self, *, anew: bool = False) -> Opened:
        # All at once, and only when it is there: nobody searches under settings that
        # are in force no more, not after an error and not in another thread.
        settings = owned((self.filter, self.search_kwargs))
        store = self._open(*settings)
        replica = open_replica(self.replica, store, *settings, anew=anew)
        self._opened = Opened(settings, store, replica, uuid.uuid4().hex)
        return self._opened

    def _open(self, filter: Any, search_kwargs: dict[str, Any]) -> Store:  # noqa: A002
        return open_store(
            self.vectorstore,
            filter=filter,
            search_kwargs=search_kwargs,
            max_concurrency=self.max_concurrency,
            symmetric_embeddings=self.symmetric_embeddings,
            embed_found_documents=self.embed_found_documents,
        )

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
        store, options = built_store(cls, documents, kind, kwargs)
        return cls(vectorstore=store, **options)

    def _opened_for(self, *, filter: Any = None, **search_kwargs: Any) -> Store:  # noqa: A002
        """The store under the arguments of a call."""
        own, words = owned((self.filter, self.search_kwargs))
        given, others = owned((filter, search_kwargs))
        return self._open(own if given is None else given, words | others)

    @property
    def key(self) -> str:
        """What tells this retriever from every other one, in caches and traces."""
        return self._kept_up().key

    @property
    def uncacheable(self) -> str | None:
        """Why an answer under its documents must not serve another call; else None.

        It may where these depend on the query and on stored documents alone, and
        where it shows that documents were added, deleted or replaced.
        """
        return why_uncacheable(self, RaLMSpecRetriever)

    @property
    def version(self) -> int | None:
        """Another number once the documents are others; None where it is not known."""
        tell = getattr(self.store, "version", None)
        return None if tell is None else cast("int | None", tell())

    @property
    def store(self) -> Store:
        """The store as the speculation sees it, under filter and words as they are."""
        return self._kept_up().store

    @property
    def origin(self) -> Origin | None:
        """What it was made of, where a language model was given another retriever."""
        return self._origin

    @origin.setter
    def origin(self, origin: Origin | None) -> None:
        self._origin = origin

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
        known = list(GUESS_POLICIES)
        if guess_policy not in known:
            msg = f"guess_policy must be one of {known}, got {guess_policy!r}"
            raise InvalidValueError(msg)
        if searches_itself(self, RaLMSpecRetriever):
            name = type(self).__name__
            msg = f"{name} searches by itself, which a session does not; call batch()"
            raise InvalidValueError(msg)
        if prefetch_k is not None:
            require_hits("prefetch_k", prefetch_k)
        session = self.new_session(k=self.k if k is None else k, prefetch_k=prefetch_k)
        return RetrieverSession(session, guess_policy)

    def new_session(
        self,
        *,
        k: int,
        prefetch_k: int | None = None,
        stats: SpeculationStats | None = None,
        render: Callable[[Document], str] = text_of,
        on_empty: OnEmpty = "error",
        store_timeout: float | None = None,
    ) -> Session:
        """Open a session for the loops of this package (see ``session()``)."""
        require_hits("k", k)
        opened = self._kept_up()
        return Session(
            opened.store,
            depth=k,
            prefetch_k=prefetch_k,
            stats=stats,
            render=render,
            on_empty=on_empty,
            replica=opened.replica,
            store_timeout=shorter(store_timeout, self.store_timeout),
        )

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Add documents to the vector store while no search of this package runs.

        FAISS does not allow both at once, and ends the process; searches through the
        vector store itself are not held back. They wait for the embedding of the
        documents too. Cached answers are stale afterwards.

        Args:
            documents: the documents.
            **kwargs: passed to the vector store's ``add_documents``, such as ``ids``.

        Returns:
            Their ids.

        Raises:
            InvalidValueError: one is no document, or the store does not change.
            StoreError: the store failed, or its encoder gave a vector that is not
                finite or too long; nothing is added then.
        """
        whole = whole_documents(documents)
        return cast("list[str]", self._change("add_documents", whole, **kwargs))

    async def aadd_documents(
        self, documents: list[Document], **kwargs: Any
    ) -> list[str]:
        """Do as ``add_documents()``, off the event loop."""
        add = partial(self.add_documents, documents, **kwargs)
        return await run_in_executor(None, add)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Delete documents while no search runs, as in ``add_documents()``.

        Args:
            ids: of the documents.
            **kwargs: passed to the vector store's ``delete``.

        Returns:
            What the vector store does.

        Raises:
            InvalidValueError: ``ids`` is no list, or the store does not change.
            StoreError: the store failed.
        """
        ids = ids if ids is None else [*several("ids", ids, "strings")]
        return cast("bool | None", self._change("delete", ids, **kwargs))

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Do as ``delete()``, off the event loop."""
        return await run_in_executor(None, partial(self.delete, ids, **kwargs))

    def _change(self, method: str, *args: Any, **kwargs: Any) -> Any:
        name = type(self.vectorstore).__name__
        store = getattr(self.vectorstore, "vectorstore", self.vectorstore)
        change = getattr(watched(self.vectorstore), method, None)
        if change is None:
            msg = f"a {name} has no {method}(); build it anew from its documents"
            raise InvalidValueError(msg)
        with (
            reported_as_store_error(name, method.replace("_", " ")),
            lock_of(store).changing(),
        ):
            changed = change(*args, **kwargs)
        opened = self._kept_up()
        getattr(opened.store, "changed", lambda: None)()
        if opened.replica is not None:
            opened.replica.renew()
        return changed

    def invalidate(self) -> None:
        """Say that documents were changed in place, or a store's parts replaced.

        Forgets what was derived from the store and makes cached answers stale; an index
        or embeddings put in place of others are taken over, and a Chroma collection
        that was dropped and made again is found by its name. Documents added or deleted
        in the usual way need no such call, and filters heed metadata as it is.

        Raises:
            StoreError: the collection is not there.
        """
        refresh(self.vectorstore)
        self._reopen(anew=True)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        **kwargs: Any,
    ) -> list[Document]:
        return self._retrieve([query], **kwargs)[0]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        **kwargs: Any,
    ) -> list[Document]:
        # As LangChain's own: a subclass may search otherwise, and not await it.
        find = partial(
            self._get_relevant_documents, run_manager=run_manager.get_sync(), **kwargs
        )
        return await run_in_executor(None, find, query)

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
            return_exceptions: return failures in the places of their queries instead of
                raising; each query is asked alone then.
            **kwargs: as in ``invoke``: ``k``, ``filter`` in place of the retriever's,
                and other arguments of the store's own search.

        Raises:
            InvalidValueError: a query is no string.
            StoreError: the store failed.
        """
        words: Any = {"return_exceptions": return_exceptions, **kwargs}
        if searches_itself(self, RaLMSpecRetriever):
            own: Any = super()
            return cast("list[list[Document]]", own.batch(inputs, config, **words))
        inputs = list(several("queries", inputs, "strings"))
        configs = get_config_list(config, len(inputs))
        retrieve = partial(self._retrieve, **kwargs)
        return retrieved(
            self, retrieve, inputs, configs, return_exceptions=return_exceptions
        )

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """Do as ``batch()``, off the event loop."""
        words: Any = {"return_exceptions": return_exceptions, **kwargs}
        own = ("ainvoke", "_aget_relevant_documents")
        if searches_itself(self, RaLMSpecRetriever, own):
            found = await cast("Any", super()).abatch(inputs, config, **words)
            return cast("list[list[Document]]", found)
        return await run_in_executor(None, partial(self.batch, **words), inputs, config)

    def _retrieve(
        self, queries: Sequence[str], *, k: int | None = None, **kwargs: Any
    ) -> list[list[Document]]:
        k = self.k if k is None else k
        require_hits("k", k)
        if not (queries := checked_queries(queries)):
            return []
        store = self._opened_for(**kwargs) if kwargs else self.store
        return search(store, queries, k, self.store_timeout)
