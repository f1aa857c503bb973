"""Chat with retrieval inside the generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from langchain_ralmspec.generation import RetrievalGeneration
from langchain_ralmspec.messages import turns_of
from langchain_ralmspec.ralm import Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.callbacks import CallbackManagerForLLMRun

    from langchain_ralmspec.ralm.run import Run


class ChatRaLMSpec(RetrievalGeneration, BaseChatModel):
    """``RaLMSpecLLM`` behind the model's own chat template.

    The documents stand at the head of the system turn, or of the first user turn
    where the template has no system turn. A query is made of the last user message
    and the answer so far.

    Example:
        .. code-block:: python

            chat = ChatRaLMSpec(model_path="model.gguf", retriever=store)
            message = chat.invoke("who wrote Moby Dick?")
            message.response_metadata["documents"]
    """

    system_prompt: str = "Answer the question with the help of the text above."
    """System turn after the documents, for conversations that bring none."""

    @property
    def _llm_type(self) -> str:
        return "ralmspec-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._fingerprint() | {"system_prompt": self.system_prompt}

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
        prompt = self._prompt(messages)
        run = self._run(prompt, stop, kwargs)
        message = AIMessage(
            content="".join(run),
            response_metadata=self._info(run),
            usage_metadata=self._usage(prompt, run),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        prompt = self._prompt(messages)
        run = self._run(prompt, stop, kwargs)
        for text in run:
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
            if run_manager:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
        last = AIMessageChunk(
            content="",
            response_metadata=self._info(run),
            usage_metadata=self._usage(prompt, run),
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)

    def start(self, question: str) -> Run:
        """Prepare an answer that can be watched: iterate over it for its text.

        ``invoke`` and ``stream`` do this and wrap it for LangChain.
        """
        return self._run(self._prompt([HumanMessage(question)]), None, {})

    def _prompt(self, messages: Sequence[BaseMessage]) -> Prompt:
        weights = self.engine.weights
        turns = turns_of(messages)
        before, after = self.engine.template.around(turns, self.system_prompt)
        question = next(
            turn["content"] for turn in reversed(turns) if turn["role"] == "user"
        )
        return Prompt(
            head=tuple(weights.tokenize(before, special=True)),
            tail=tuple(weights.tokenize(after, special=True)),
            question=tuple(weights.tokenize(question)),
        )
