"""Chat about a long context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.long_context import LongContextGeneration, digest_of
from langchain_ralmspec.messages import turns_of
from langchain_ralmspec.rapid import Conversation, to_documents

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.messages.ai import UsageMetadata

    from langchain_ralmspec.rapid import LongRun


class ChatRapid(LongContextGeneration, BaseChatModel):
    r"""``RapidChain`` behind chat messages.

    The long context is bound to the model, or it is in the messages: the system
    message, or else the longest message, up to its last blank line if that message
    is the last one and so holds the question too.

    Example:
        .. code-block:: python

            chat = ChatRapid(model_path="model.gguf", context=long_text)
            chat.invoke("Who wrote it?").text
    """

    context: Any = Field(default=None, repr=False)  # traces show what repr shows
    """The text, ``Document``, sequence of them, or retriever, that is asked about."""

    @property
    def _llm_type(self) -> str:
        return "ralmspec-rapid"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # A cached answer is about one context only.
        context = None if self.context is None else digest_of(self.context)
        return self._fingerprint() | {"context": context}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        # The file's name as given: params are asked for before anything is loaded.
        return super()._get_ls_params(stop=stop, **kwargs) | self._tracing_params()

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run, metadata = self._start(messages, stop, kwargs)
        message = AIMessage(
            content="".join(run),
            response_metadata=metadata(),
            usage_metadata=_usage(run),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run, metadata = self._start(messages, stop, kwargs)
        for text in run:
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
            if run_manager:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
        last = AIMessageChunk(
            content="",
            response_metadata=metadata(),
            usage_metadata=_usage(run),
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)

    def _start(
        self,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        overrides: dict[str, Any],
    ) -> tuple[LongRun, Any]:
        """Prepare an answer; returns it, and what makes its metadata at the end."""
        sampling = self._sampling(overrides)
        conversation, context = self._split(turns_of(messages))
        run, chunks = self._prepare(conversation, context, stop, sampling)

        def metadata() -> dict[str, Any]:
            return {
                "finish_reason": run.request.finish_reason,
                "model_name": self.engine.path.stem,
                "documents": to_documents(chunks),
                "speculation": run.stats.as_dict(),
            }

        return run, metadata

    def _split(self, turns: list[dict[str, str]]) -> tuple[Conversation, Any]:
        """Part the long context from the conversation about it."""
        context = self.context
        if context is None:
            context, turns = _part(turns)
        question = next(t["content"] for t in reversed(turns) if t["role"] == "user")
        return Conversation(tuple(turns), self.system_prompt, question), context


def _part(turns: list[dict[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """Take the context out of the longest turn.

    Raises:
        InvalidValueError: there is no other turn, and no blank line, to part it from
            the question.
    """
    lengths = [len(turn["content"]) for turn in turns]
    at = lengths.index(max(lengths))
    turn = turns[at]
    if turn["role"] == "system":
        return turn["content"], turns[:at] + turns[at + 1 :]
    if turn is not turns[-1]:
        stands_in = {"role": turn["role"], "content": "(This is the text above.)"}
        return turn["content"], [*turns[:at], stands_in, *turns[at + 1 :]]
    context, blank, question = turn["content"].rstrip().rpartition("\n\n")
    if not blank or not context.strip():
        msg = (
            f"no context in {turn['content'][:60]!r}; bind one with context=…, send it "
            "as the system message, or put a blank line between it and the question"
        )
        raise InvalidValueError(msg)
    return context, [*turns[:at], {"role": turn["role"], "content": question}]


def _usage(run: LongRun) -> UsageMetadata:
    stats = run.stats
    return {
        "input_tokens": stats.prompt_tokens,
        "output_tokens": stats.tokens,
        "total_tokens": stats.prompt_tokens + stats.tokens,
        "input_token_details": {"cache_read": stats.cached_tokens},
    }
