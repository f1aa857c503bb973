"""What the chat models share: an answer's text becomes LangChain's messages."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

from langchain_core.language_models.chat_models import (
    BaseChatModel,
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import model_validator

from langchain_ralmspec.base.local import LocalGeneration, PreparedAnswer
from langchain_ralmspec.base.threads import from_threads
from langchain_ralmspec.errors import (
    ChatTemplateError,
    ContextOverflowError,
    InvalidValueError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )

    from langchain_ralmspec.engine import Model


class LocalChat(LocalGeneration, BaseChatModel):
    """A chat model; a subclass prepares the answers."""

    streaming: bool = False
    """Whether ``invoke`` calls back with every piece of text, as ``stream`` does."""

    @abstractmethod
    def _n_tokens(self, asked: Sequence[BaseMessage]) -> int:
        """Tokens of a conversation as the model reads it, without what is retrieved."""

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Number of tokens that the model reads for messages, in its own template.

        That is what ``usage_metadata`` counts, but for documents that are retrieved. A
        text that is bound as context counts as well. A part of a conversation without
        the user's words is counted with an empty message of the user's behind it; what
        the template cannot show, or what is surely too long, as LangChain does it.
        """
        is_asked = any(isinstance(message, HumanMessage) for message in messages)
        asked = messages if is_asked else [*messages, HumanMessage("")]
        try:
            count = self._n_tokens(asked)
        except (ChatTemplateError, ContextOverflowError, InvalidValueError):
            return super().get_num_tokens_from_messages(messages, tools)
        if tools is not None:
            msg = "tools are not counted: a prompt here has none"
            warnings.warn(msg, UserWarning, stacklevel=2)
        return count

    def _resolve_model_profile(self) -> ModelProfile:
        return self._profile_for(self.n_ctx)

    def _profile_for(self, n_ctx: int) -> ModelProfile:
        """What LangChain's model profile says; 0 tokens are not known yet."""
        profile = ModelProfile(
            max_output_tokens=self.max_tokens,
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            text_outputs=True,
            tool_calling=False,
            structured_output=False,
        )
        if n_ctx:
            profile["max_input_tokens"] = n_ctx
        return profile

    @model_validator(mode="after")
    def _own_profile(self) -> Self:
        # LangChain assigns what it has resolved, so that it looks like an argument that
        # was given, and a copy with another n_ctx would have it still.
        if self.profile == self._resolve_model_profile():
            self.model_fields_set.discard("profile")
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        is_own = "profile" not in self.model_fields_set
        if is_own and name in {"model_path", "n_ctx", "max_tokens"}:
            self.__dict__["profile"] = self._resolve_model_profile()

    def _accept(self, model: Model) -> None:
        super()._accept(model)
        if "profile" not in self.model_fields_set:
            self.__dict__["profile"] = self._profile_for(model.n_ctx)

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
