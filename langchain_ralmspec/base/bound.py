"""A chat model with arguments bound, which stay bound whatever is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding

from langchain_ralmspec.base.restricted import RESTRICTIONS
from langchain_ralmspec.base.tools import OF_CALLS
from langchain_ralmspec.errors import InvalidValueError


class BoundChat(RunnableBinding[LanguageModelInput, AIMessage]):
    """What ``bind()`` and ``with_config()`` give of a chat model.

    LangChain's own binding hands other methods on to the model, which does not know
    what was bound: tools bound behind a ``filter`` would be called by answers from
    anybody's documents.
    """

    @classmethod
    def lc_id(cls) -> list[str]:
        """As LangChain's own binding is stored."""
        return RunnableBinding.lc_id()

    def bind_tools(
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools; see the chat model's ``bind_tools``."""
        made = self._bound.bind_tools(tools, **self._kept_beside(kwargs))
        return self.model_copy(update={"kwargs": made.kwargs})

    def with_structured_output(
        self, schema: dict[str, Any] | type, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Have answers match a schema; see the chat model's own method."""
        words = self._kept_beside(kwargs)
        made: Runnable[LanguageModelInput, Any]
        made = self._bound.with_structured_output(schema, **words)
        return made.with_config(self.config) if self.config else made

    @property
    def start(self) -> Any:
        """The model's, where nothing restricts its documents.

        Raises:
            InvalidValueError: something does.
        """
        if given := [name for name in RESTRICTIONS if name in self.kwargs]:
            msg = (
                f"start() takes no {given[0]}, so that any document may be found; give "
                "it to the retriever: RaLMSpecRetriever(vectorstore=…, filter=…)"
            )
            raise InvalidValueError(msg)
        return self._bound.start

    @property
    def _bound(self) -> Any:
        return self.bound

    def _kept_beside(self, given: dict[str, Any]) -> dict[str, Any]:
        """What was bound, but for the form of answers, and what is given now."""
        own = {k: v for k, v in self.kwargs.items() if k not in OF_CALLS}
        return {**own, **given}
