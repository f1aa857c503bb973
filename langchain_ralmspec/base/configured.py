"""What the config of a call says of the retriever that it is answered from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config


@contextmanager
def configured_by(config: RunnableConfig | None) -> Iterator[None]:
    """Let what is called here find what a call configures, as in LangChain's chains.

    LangChain's models keep it from what they call.
    """
    given = (config or {}).get("configurable")
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


def is_configured(config: RunnableConfig | None) -> bool:
    """Whether a call configures anything."""
    return bool((config or {}).get("configurable"))
