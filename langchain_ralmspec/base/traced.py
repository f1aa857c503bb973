"""A chat model whose answers know which of LangChain's runs they are."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import (
    BaseChatModel,
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from langchain_ralmspec.base.bound import BindableChat
from langchain_ralmspec.base.cache_keys import cacheable
from langchain_ralmspec.base.chunks import whole
from langchain_ralmspec.base.tracing import identified, in_sync, runs_of_answers
from langchain_ralmspec.registry import Registry
from langchain_ralmspec.stores.configuring import configured_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.outputs import ChatResult


_configs = Registry(RunnableConfig)
"""Of the calls that streams of events are read of later."""


def _noted(stream: Any, config: RunnableConfig | None) -> Any:
    """A stream whose call configures what it was asked with, whoever reads it."""
    _configs.of(stream)["configurable"] = ensure_config(config).get("configurable", {})
    return stream


class TracedChat(BindableChat, BaseChatModel):
    """Notes the run of every answer, so that look-ups are traced beneath it.

    LangChain does not tell ``_stream`` of it, wherever it reads that by itself.
    """

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # LangChain asks for it where it has a cache.
        return super()._get_llm_string(stop=stop, **cacheable(kwargs))

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer; LangChain's own, which does not tell what the call configures."""
        with configured_by(config):
            return super().invoke(input, config, stop=stop, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Do what ``invoke`` does, in a thread."""
        with configured_by(config):
            return await super().ainvoke(input, config, stop=stop, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer in chunks; LangChain's own, which does not tell which run it is."""
        config, run = identified(config)
        chunks = super().stream(input, config, stop=stop, **kwargs)
        with runs_of_answers(run), configured_by(config):
            first = next(chunks)
        yield first
        yield from chunks

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Do what ``stream`` does, in a thread."""
        config, run = identified(config)
        chunks: Any = super().astream(input, config, stop=stop, **kwargs)
        async with aclosing(chunks):
            with runs_of_answers(run), configured_by(config):
                first = await anext(chunks)
            yield first
            async for chunk in chunks:
                yield chunk

    def stream_events(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer in events; LangChain's own, which forgets what the call configures."""
        return _noted(super().stream_events(input, config, **kwargs), config)

    def astream_events(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do what ``stream_events`` does, beside other tasks."""
        made: Any = super().astream_events(input, config, **kwargs)
        if kwargs.get("version") != "v3":
            return made

        async def noted() -> Any:
            return _noted(await made, config)

        return noted()

    def _iter_v2_events(
        self, messages: list[BaseMessage], *, stream: Any, **kwargs: Any
    ) -> Iterator[Any]:
        # What LangChain's streams of v3 begin with, when they are read first.
        events = super()._iter_v2_events(messages, stream=stream, **kwargs)
        with configured_by(_configs.of(stream)):
            first = next(events)
        yield first
        yield from events

    async def _aiter_v2_events(
        self, messages: list[BaseMessage], *, stream: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        events: Any = super()._aiter_v2_events(messages, stream=stream, **kwargs)
        async with aclosing(events):
            with configured_by(_configs.of(stream)):
                first = await anext(events)
            yield first
            async for event in events:
                yield event

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with runs_of_answers(run_manager):
            return whole(
                super()._generate_with_cache(messages, stop, run_manager, **kwargs)
            )

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with runs_of_answers(in_sync(run_manager)):
            return whole(
                await super()._agenerate_with_cache(
                    messages, stop, run_manager, **kwargs
                )
            )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, **kwargs))
