"""Retrievers that a call's config makes others, as ``configurable_fields`` does."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import Runnable
from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.configurable import DynamicRunnable


def configuration_of(retriever: Any) -> dict[str, Any]:
    """What the call that is being answered configures of a retriever."""
    if not isinstance(retriever, Runnable):
        return {}
    given = ensure_config().get("configurable", {})
    known = {each.id for each in retriever.config_specs} if given else set()
    return {name: value for name, value in given.items() if name in known}


def configured(retriever: Any, values: dict[str, Any]) -> Any:
    """The retriever under such a configuration."""
    if isinstance(retriever, DynamicRunnable):
        return retriever.prepare({"configurable": values})[0]
    return retriever.with_config(configurable=values)
