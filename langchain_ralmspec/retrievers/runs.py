"""Retrievals as callbacks see them: one run a query, in a batch too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from langchain_core.callbacks import CallbackManager, CallbackManagerForRetrieverRun

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableConfig


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


def outcome_of(
    retrieve: Callable[[list[str]], list[list[Document]]], query: str
) -> list[Document] | Exception:
    """What a query finds, or what its retrieval raises."""
    try:
        (documents,) = retrieve([query])
    except Exception as error:  # noqa: BLE001  it is what was asked for
        return error
    return documents
