"""Models with arguments bound, which stay bound whatever is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableWithFallbacks,
)
from langchain_core.runnables.configurable import (
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)

from langchain_ralmspec.base.configured import KeptFields, is_configured
from langchain_ralmspec.base.restricted import RESTRICTIONS
from langchain_ralmspec.base.tools import OF_CALLS
from langchain_ralmspec.errors import InvalidValueError

_ANSWERING = frozenset(
    {"start", "generate", "agenerate", "generate_prompt", "agenerate_prompt"}
)
"""Methods that answer and know of no binding, beside those of every runnable."""

_TO_THE_RETRIEVER = (
    "so that any document may be found; call invoke(), or give it to the retriever: "
    "RaLMSpecRetriever(vectorstore=…, filter=…)"
)
_INSTEAD = dict.fromkeys(RESTRICTIONS, _TO_THE_RETRIEVER) | {
    "kv_namespace": (
        "so that what others have read may be found; call invoke(), or give it when "
        "the model is made: kv_namespace=…"
    )
}
"""Arguments of a call that keep users apart, and what to do where none is heeded."""


class _Restricting:
    """A binding without the methods of its model that would not heed what is bound.

    LangChain's own hands them on to the model: a ``filter`` would keep nothing back.
    """

    kwargs: Mapping[str, Any]
    config: RunnableConfig

    @classmethod
    def lc_id(cls) -> list[str]:
        """As LangChain's own binding is stored."""
        return RunnableBinding.lc_id()

    def __getattr__(self, name: str) -> Any:
        """The model's, where nothing restricts the documents of its answers.

        Raises:
            InvalidValueError: something does, and the method would answer.
        """
        if name in _ANSWERING or name == "warm":
            given = [each for each in _INSTEAD if each in self.kwargs]
            if is_configured(self.config):
                given.append("config")
            if name == "warm":  # it is given the documents
                given = [each for each in given if each == "kv_namespace"]
            if given:
                told = _INSTEAD.get(given[0], _TO_THE_RETRIEVER)
                msg = f"{name}() does not know of the {given[0]} that was bound, {told}"
                raise InvalidValueError(msg)
        inherited: Any = super()
        return inherited.__getattr__(name)


class BoundCompletion(_Restricting, RunnableBinding[LanguageModelInput, str]):
    """A completion model with arguments bound."""


class BoundChat(_Restricting, RunnableBinding[LanguageModelInput, AIMessage]):
    """A chat model with arguments bound, which its tools and schemas come to.

    Else tools bound behind a ``filter`` would be called by answers from anybody's
    documents.
    """

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
    def _bound(self) -> Any:
        return self.bound

    def _kept_beside(self, given: dict[str, Any]) -> dict[str, Any]:
        """What was bound, but for the form of answers, and what is given now."""
        own = {k: v for k, v in self.kwargs.items() if k not in OF_CALLS}
        return {**own, **given}


class BindableChat:
    """A chat model, or a choice of some: what is bound to it comes to its tools too."""

    def bind(self, **kwargs: Any) -> Any:  # a BoundChat; LangChain's own is private
        """Bind arguments of calls, which tools and schemas that are bound keep."""
        bound: Any = self
        return BoundChat(bound=bound, kwargs=kwargs)

    def with_config(
        self, config: RunnableConfig | None = None, **kwargs: Any
    ) -> BoundChat:
        """Bind a config, which tools and schemas that are bound keep."""
        bound: Any = self
        own = cast("RunnableConfig", {**(config or {}), **kwargs})
        return BoundChat(bound=bound, config=own)


# Not of LanguageModelInput and AIMessage: pydantic would take no model for that then.
class ConfigurableChat(BindableChat, KeptFields):
    """What ``configurable_fields()`` gives of a chat model."""


class AlternativeChats(BindableChat, RunnableConfigurableAlternatives):  # type: ignore[type-arg]
    """What ``configurable_alternatives()`` gives of a chat model."""


class FallbackChats(BindableChat, RunnableWithFallbacks):  # type: ignore[type-arg]
    """What ``with_fallbacks()`` gives of a chat model."""


_CHOOSING: tuple[tuple[Any, Any], ...] = (
    (RunnableConfigurableFields, ConfigurableChat),
    (RunnableConfigurableAlternatives, AlternativeChats),
    (RunnableWithFallbacks, FallbackChats),
)


def choosing(made: Any) -> Any:
    """The same choice as LangChain's own, that keeps what is bound to it."""
    for own, kind in _CHOOSING:
        if isinstance(made, own):
            return kind(**{name: getattr(made, name) for name in own.model_fields})
    return made
