"""Retrievers that a call's config makes others, as ``configurable_fields`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    CONFIG_KEYS,
    ensure_config,
    var_child_runnable_config,
)
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


@contextmanager
def configured_by(config: RunnableConfig | None) -> Iterator[None]:
    """Let what is called here find what a call configures, as in LangChain's chains.

    LangChain's models keep it from what they call.
    """
    given = configured_in(config)
    if not given:
        yield
        return
    outer = var_child_runnable_config.get() or RunnableConfig()
    both = {**outer.get("configurable", {}), **given}
    inner = RunnableConfig(**{**outer, "configurable": both})
    taken = var_child_runnable_config.set(inner)
    try:
        yield
    finally:
        var_child_runnable_config.reset(taken)


def configured_in(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a config configures; of its own keys, too, those that LangChain lacks."""
    config = config or {}
    others = {key: each for key, each in config.items() if key not in CONFIG_KEYS}
    own = {key: each for key, each in others.items() if each is not None}
    return {**(config.get("configurable") or {}), **own}
