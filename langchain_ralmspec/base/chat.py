"""What the chat models share: an answer's text becomes LangChain's messages."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import (
    BaseChatModel,
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from langchain_ralmspec.base.local import LocalGeneration, PreparedAnswer
from langchain_ralmspec.base.threads import from_threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )


class LocalChat(LocalGeneration, BaseChatModel):
    """A chat model; a subclass prepares the answers."""

    streaming: bool = False
    """Whether ``invoke`` calls back with every piece of text, as ``stream`` does."""

    @abstractmethod
    def _answer(
        self,
        asked: list[BaseMessage],
        stop: list[str] | None,
        overrides: dict[str, Any],
    ) -> PreparedAnswer:
        """Prepare an answer to a conversation."""

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        own = self._tracing_params()
        # A call that asks for another model is refused, but traced as what it was.
        given = {"model": own["ls_model_name"], **kwargs}
        params = super()._get_ls_params(stop=stop, **given)
        return params | {"ls_provider": own["ls_provider"]}

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

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk]:
        manager = run_manager.get_sync() if run_manager else None
        return from_threads(self._stream(messages, stop, manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Generator[ChatGenerationChunk]:
        answer = self._answer(messages, stop, kwargs)
        for text in answer.text:
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
            if run_manager:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
        last = AIMessageChunk(
            content="",
            response_metadata=answer.metadata(),
            usage_metadata=answer.usage(),
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)
