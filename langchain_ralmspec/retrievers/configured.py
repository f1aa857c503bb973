"""Retrievers that heed what the config of a call says of what they retrieve from."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig

from langchain_ralmspec.stores.configuring import configured_by


class ConfiguredRetriever(BaseRetriever):
    """LangChain's own forgets that config before it retrieves."""

    def invoke(
        self,
        input: str,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Retrieve; LangChain's own, which keeps what the call configures."""
        with configured_by(config):
            return super().invoke(input, config, **kwargs)

    async def ainvoke(
        self,
        input: str,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Do what ``invoke`` does, in a thread."""
        with configured_by(config):
            return await super().ainvoke(input, config, **kwargs)
