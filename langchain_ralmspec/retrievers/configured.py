"""Retrievers that heed what the config of a call says of what they retrieve from."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableBinding, RunnableConfig

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.stores.configuring import configured_by, configured_in


class BoundRetriever(RunnableBinding[str, list[Document]]):
    """A retriever with arguments bound, and without what would not heed these.

    LangChain's own hands such methods on: a ``filter`` would keep nothing back.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """As LangChain's own binding is stored."""
        return RunnableBinding.lc_id()

    def __getattr__(self, name: str) -> Any:
        """The retriever's.

        Raises:
            InvalidValueError: it retrieves, and knows nothing of what is bound.
        """
        if name in {"session", "new_session"}:
            configured = ["config"] if configured_in(self.config) else []
            for given in (*self.kwargs, *configured):
                msg = (
                    f"{name}() does not know of the {given} that was bound, so that "
                    "any document may be found; call invoke(), or give it to the "
                    "retriever: RaLMSpecRetriever(vectorstore=…, filter=…)"
                )
                raise InvalidValueError(msg)
        inherited: Any = super()
        return inherited.__getattr__(name)


class ConfiguredRetriever(BaseRetriever):
    """LangChain's own forgets that config before it retrieves."""

    def bind(self, **kwargs: Any) -> BoundRetriever:
        """Bind arguments of calls, such as ``filter`` or ``k``."""
        return BoundRetriever(bound=self, kwargs=kwargs)

    def with_config(
        self, config: RunnableConfig | None = None, **kwargs: Any
    ) -> BoundRetriever:
        """Bind a config."""
        bound: Any = self.bind().with_config(config, **kwargs)
        return bound  # type: ignore[no-any-return]

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
