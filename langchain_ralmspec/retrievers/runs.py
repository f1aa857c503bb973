"""Retrievals as callbacks see them: one run a query, in a batch too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, cast

from langchain_core.callbacks import CallbackManager, CallbackManagerForRetrieverRun

from langchain_ralmspec.errors import StoreTimeoutError
from langchain_ralmspec.retrievers.session import documents_of_hits
from langchain_ralmspec.stores.asking import hits_of, queries_of
from langchain_ralmspec.stores.configuring import configured_by, configured_in
from langchain_ralmspec.stores.waiting import Waiting

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableConfig

    from langchain_ralmspec.stores import Hit, Store


def start_run(
    retriever: BaseRetriever, query: str, config: RunnableConfig
) -> CallbackManagerForRetrieverRun:
    """Tell callbacks that the retriever is asked a query."""
    known = retriever._get_ls_params()  # noqa: SLF001 (no public name)
    manager = CallbackManager.configure(
        config.get("callbacks"),
        inheritable_tags=config.get("tags"),
        local_tags=retriever.tags,
        inheritable_metadata={**(config.get("metadata") or {}), **known},
        local_metadata=retriever.metadata,
    )
    name, run_id = config.get("run_name") or retriever.get_name(), config.get("run_id")
    return manager.on_retriever_start(None, query, name=name, run_id=run_id)


def retrieved(
    retriever: BaseRetriever,
    retrieve: Callable[[list[str]], list[list[Document]]],
    queries: list[str],
    configs: list[RunnableConfig],
    *,
    return_exceptions: bool,
) -> list[list[Document]]:
    """Retrieve for many queries at once, each of them a run.

    One by one where their configs configure other things, and where failures are
    returned.
    """
    runs = list(map(partial(start_run, retriever), queries, configs))
    pairs = list(zip(queries, configs, strict=True))
    found: list[list[Document] | Exception] = []
    try:
        if _configure_alike(configs):  # as in a graph, where each says whose it is
            with configured_by(configs[0] if configs else None):
                found += retrieve(queries)
        else:
            found += [_alone(retrieve, *pair) for pair in pairs]
    except Exception as error:
        if not return_exceptions:
            for run in runs:
                run.on_retriever_error(error)
            raise
        found = [_outcome(retrieve, *pair) for pair in pairs]
    for run, outcome in zip(runs, found, strict=True):
        if isinstance(outcome, Exception):
            run.on_retriever_error(outcome)
        else:
            run.on_retriever_end(outcome)
    return cast("list[list[Document]]", found)


def _configure_alike(configs: Sequence[RunnableConfig]) -> bool:
    """Whether all configs say the same, by the same objects: these may be anything."""
    given = [
        {name: id(each) for name, each in configured_in(config).items()}
        for config in configs
    ]
    return all(each == given[0] for each in given)


def _alone(
    retrieve: Callable[[list[str]], list[list[Document]]],
    query: str,
    config: RunnableConfig,
) -> list[Document]:
    with configured_by(config):
        (documents,) = retrieve([query])
    return documents


def _outcome(
    retrieve: Callable[[list[str]], list[list[Document]]],
    query: str,
    config: RunnableConfig,
) -> list[Document] | Exception:
    """What a query finds, or what its retrieval raises."""
    try:
        return _alone(retrieve, query, config)
    except Exception as error:  # noqa: BLE001  it is what was asked for
        return error


def search(
    store: Store, queries: Sequence[str], k: int, store_timeout: float | None
) -> list[list[Document]]:
    """Ask a store for the ``k`` best documents of every query, in one call.

    Where that takes too long, query by query.

    Raises:
        StoreError: it fails.
        StoreTimeoutError: it does not answer a query within ``store_timeout`` seconds.
    """

    def ask() -> list[list[Hit]]:
        return hits_of(store, queries_of(store, queries), k)

    try:
        with closing(Waiting(store, store_timeout)) as waiting:
            return list(map(documents_of_hits, waiting.call(ask)))
    except StoreTimeoutError:
        if len(queries) == 1:
            raise
    alone = partial(search, store, k=k, store_timeout=store_timeout)
    return [found for query in queries for found in alone([query])]
