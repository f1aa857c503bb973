"""Models with arguments bound, which stay bound whatever is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableWithFallbacks,
)
from langchain_core.runnables.configurable import (
    DynamicRunnable,
    RunnableConfigurableAlternatives,
)

from langchain_ralmspec.base.configured import KeptFields, remade
from langchain_ralmspec.base.restricted import RESTRICTIONS
from langchain_ralmspec.base.structured import structured_by
from langchain_ralmspec.base.tools import OF_CALLS
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.stores.configuring import configured_in

_ANSWERING = frozenset(
    {"start", "generate", "agenerate", "generate_prompt", "agenerate_prompt"}
)
"""Methods that answer and know of no binding, beside those of every runnable."""

_READING = frozenset({"warm", "warm_up", "preload", "passages_of"})
"""Methods that read, or say where, what they are given or the model has."""

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


class _Made:
    """What is made of a model, a choice or a binding keeps what is bound to that."""

    @property
    def _kinds(self) -> tuple[Any, ...]:
        """The binding, and the choices, of what it is."""
        raise NotImplementedError

    def configurable_fields(self, **kwargs: Any) -> Any:
        """Let configs set fields; what is bound to that is kept."""
        inherited: Any = super()
        return self._choosing(inherited.configurable_fields(**kwargs))

    def configurable_alternatives(self, *args: Any, **kwargs: Any) -> Any:
        """Let configs choose among models; what is bound to that is kept."""
        inherited: Any = super()
        return self._choosing(inherited.configurable_alternatives(*args, **kwargs))

    def with_fallbacks(self, *args: Any, **kwargs: Any) -> Any:
        """Have other models answer where this one fails; what is bound is kept."""
        inherited: Any = super()
        return self._choosing(inherited.with_fallbacks(*args, **kwargs))

    def _choosing(self, made: Any) -> Any:
        """The same choice as LangChain's own, that keeps what is bound to it."""
        kinds = (each for each in self._kinds if issubclass(each, type(made)))
        return remade(made, next(kinds))


class _OfChats(_Made):
    @property
    def _kinds(self) -> tuple[Any, ...]:
        return BoundChat, ConfigurableChat, AlternativeChats, FallbackChats


class _OfCompletions(_Made):
    @property
    def _kinds(self) -> tuple[Any, ...]:
        return (
            BoundCompletion,
            ConfigurableCompletion,
            AlternativeCompletions,
            FallbackCompletions,
        )


class _OfChains(_Made):
    @property
    def _kinds(self) -> tuple[Any, ...]:
        return BoundChain, ConfigurableChain, AlternativeChains, FallbackChains


class _Restricting:
    """A binding without the methods of its model that would not heed what is bound.

    LangChain's own hands them on to the model: a ``filter`` would keep nothing back.
    """

    kwargs: Mapping[str, Any]
    config: RunnableConfig
    config_factories: list[Callable[[RunnableConfig], RunnableConfig]]

    @classmethod
    def lc_id(cls) -> list[str]:
        """As LangChain's own binding is stored."""
        return RunnableBinding.lc_id()

    def __getattr__(self, name: str) -> Any:
        """The model's, where nothing is bound that this would not heed.

        Raises:
            InvalidValueError: something restricts the documents of its answers, or
                where it reads, and the method would answer, or read.
        """
        chosen, config = self._chosen
        if name in _ANSWERING | _READING:
            given = [each for each in _INSTEAD if each in self.kwargs]
            if config:
                given.append("config")
            if name in _READING:  # what they read is given, not found
                given = [each for each in given if each == "kv_namespace"]
            if given:
                told = _INSTEAD.get(given[0], _TO_THE_RETRIEVER)
                msg = f"{name}() does not know of the {given[0]} that was bound, {told}"
                raise InvalidValueError(msg)
        inherited: Any = super()
        if chosen is None or hasattr(type(self.__dict__["bound"]), name):
            return inherited.__getattr__(name)
        return getattr(chosen, name)

    @property
    def _chosen(self) -> tuple[Any, dict[str, Any]]:
        """What a choice chooses by the config, and what in that it does not know."""
        model: Any = self.__dict__.get("bound")
        config = configured_in(self.__dict__.get("config"))
        if not config or not isinstance(model, DynamicRunnable):
            return None, config
        own = {spec.id for spec in model.config_specs}
        rest = {key: value for key, value in config.items() if key not in own}
        return model.prepare(self.config)[0], rest

    def with_alisteners(self, **listeners: Any) -> Any:
        """Bind listeners that are awaited; LangChain's own binds them to a binding."""
        inherited: Any = super()
        made = inherited.with_alisteners(**listeners)
        both = [*made.config_factories, *self.config_factories]
        return inherited.model_copy(update={"config_factories": both})


class BoundCompletion(
    _OfCompletions, _Restricting, RunnableBinding[LanguageModelInput, str]
):
    """A completion model with arguments bound."""


class BoundChain(
    _OfChains, _Restricting, RunnableBinding[dict[str, Any], dict[str, Any]]
):
    """A chain with arguments bound."""


class BoundChat(_OfChats, _Restricting, RunnableBinding[LanguageModelInput, AIMessage]):
    """A chat model with arguments bound, which its tools and schemas come to.

    Else tools bound behind a ``filter`` would be called by answers from anybody's
    documents.
    """

    def bind_tools(
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools; see the chat model's ``bind_tools``."""
        own, words = self._bound, self._kept_beside(kwargs)
        if isinstance(own, ConfigurableChat):  # which stays what is bound
            default: Any = own.default
            made = default.bind_tools(tools, **words)
            known = {*words, *OF_CALLS}  # not what is bound to its default alone
            words = {k: v for k, v in made.kwargs.items() if k in known}
            return self.model_copy(update={"kwargs": words})
        made = own.bind_tools(tools, **words)
        if isinstance(made, BoundChat):
            return self.model_copy(update={"kwargs": made.kwargs})
        # Several, each with the tools as it takes them, and with what is bound here.
        return self.model_copy(update={"bound": made, "kwargs": {}})

    def with_structured_output(
        self, schema: dict[str, Any] | type, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Have answers match a schema; see the chat model's own method."""
        words = self._kept_beside(kwargs)
        made: Runnable[LanguageModelInput, Any]
        made = self._bound.with_structured_output(schema, **words)
        if not (self.config or self.config_factories):
            return made
        return RunnableBinding(
            bound=made, config=self.config, config_factories=self.config_factories
        )

    @property
    def _bound(self) -> Any:
        return self.bound

    def _kept_beside(self, given: dict[str, Any]) -> dict[str, Any]:
        """What was bound, but for the form of answers, and what is given now."""
        own = {k: v for k, v in self.kwargs.items() if k not in OF_CALLS}
        return {**own, **given}


class _Bindable(_Made):
    """A model, or a choice of some, whose bindings are of our own kind."""

    def bind(self, **kwargs: Any) -> Any:  # LangChain's own is private
        """Bind arguments of calls, which whatever is made of that keeps."""
        return self._kinds[0](bound=self, kwargs=kwargs)

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Bind a config, which whatever is made of that keeps."""
        return self.bind().with_config(config, **kwargs)

    def with_listeners(self, **listeners: Any) -> Any:
        """Bind listeners; what is bound to that is kept."""
        return self.bind().with_listeners(**listeners)

    def with_alisteners(self, **listeners: Any) -> Any:
        """Bind listeners that are awaited; what is bound to that is kept."""
        return self.bind().with_alisteners(**listeners)

    def with_types(self, **types: Any) -> Any:
        """Say what goes in and comes out; what is bound to that is kept."""
        return self.bind().with_types(**types)


class BindableChat(_Bindable, _OfChats):
    """A chat model, or a choice of some: what is bound to it comes to its tools too."""


class BindableCompletion(_Bindable, _OfCompletions):
    """A completion model, or a choice of some."""


class BindableChain(_Bindable, _OfChains):
    """A chain, or a choice of some."""


class _ConfiguredChat(BindableChat):
    """What LangChain's own would have answer as if no config could change it."""

    def with_structured_output(
        self, schema: dict[str, Any] | type, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Have answers match a schema, whatever the config makes of the model."""
        return structured_by(self, schema, **kwargs)


# Not of LanguageModelInput and AIMessage: pydantic would take no model for that then.
class ConfigurableChat(_ConfiguredChat, KeptFields):
    """What ``configurable_fields()`` gives of a chat model."""

    def bind_tools(
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools, whatever the config of a call makes of it."""
        bound: BoundChat = self.bind()
        return bound.bind_tools(tools, **kwargs)


class AlternativeChats(_ConfiguredChat, RunnableConfigurableAlternatives):  # type: ignore[type-arg]
    """What ``configurable_alternatives()`` gives of a chat model."""

    def bind_tools(
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let each of the models call tools, as it takes them."""

        def with_tools(model: Any) -> Any:
            if isinstance(model, Runnable):
                bound: Any = model
                return bound.bind_tools(tools, **kwargs)
            return lambda: with_tools(model())  # made when it is chosen

        others = {name: with_tools(each) for name, each in self.alternatives.items()}
        update = {"default": with_tools(self.default), "alternatives": others}
        return self.model_copy(update=update)


class FallbackChats(BindableChat, RunnableWithFallbacks):  # type: ignore[type-arg]
    """What ``with_fallbacks()`` gives of a chat model."""


class ConfigurableCompletion(BindableCompletion, KeptFields):
    """What ``configurable_fields()`` gives of a completion model."""


class AlternativeCompletions(BindableCompletion, RunnableConfigurableAlternatives):  # type: ignore[type-arg]
    """What ``configurable_alternatives()`` gives of a completion model."""


class FallbackCompletions(BindableCompletion, RunnableWithFallbacks):  # type: ignore[type-arg]
    """What ``with_fallbacks()`` gives of a completion model."""


class ConfigurableChain(BindableChain, KeptFields):
    """What ``configurable_fields()`` gives of a chain."""


class AlternativeChains(BindableChain, RunnableConfigurableAlternatives):  # type: ignore[type-arg]
    """What ``configurable_alternatives()`` gives of a chain."""


class FallbackChains(BindableChain, RunnableWithFallbacks):  # type: ignore[type-arg]
    """What ``with_fallbacks()`` gives of a chain."""
