"""Chat with retrieval inside the generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from langchain_ralmspec.engine.templates import ChatTemplate
from langchain_ralmspec.errors import ChatTemplateError, InvalidValueError
from langchain_ralmspec.generation import RetrievalGeneration
from langchain_ralmspec.ralm import Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.callbacks import CallbackManagerForLLMRun

_DOCUMENTS = "RALMSPEC-DOCUMENTS-7f3a"  # stands for the documents while rendering
_ROLES: list[tuple[type[BaseMessage], str]] = [
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
]


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

    _template: ChatTemplate | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "ralmspec-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._fingerprint() | {"system_prompt": self.system_prompt}

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

    def _prompt(self, messages: Sequence[BaseMessage]) -> Prompt:
        weights = self.model.weights
        turns = _turns(messages)
        before, after = self._render_around_documents(turns)
        question = next(
            turn["content"] for turn in reversed(turns) if turn["role"] == "user"
        )
        return Prompt(
            head=tuple(weights.tokenize(before, special=True)),
            tail=tuple(weights.tokenize(after, special=True)),
            question=tuple(weights.tokenize(question)),
        )

    def _render_around_documents(self, turns: list[dict[str, str]]) -> tuple[str, str]:
        """Render the template; returns what comes before and after the documents."""
        if self._template is None:
            self._template = ChatTemplate(self.model.weights)
        first, rest = turns[0], turns[1:]
        if first["role"] != "system":
            first, rest = {"role": "system", "content": self.system_prompt}, turns
        in_system = {"role": "system", "content": _DOCUMENTS + first["content"]}
        try:
            rendered = self._template.render([in_system, *rest])
        except ChatTemplateError:  # some templates refuse a system turn …
            rendered = ""
        if _DOCUMENTS not in rendered:  # … and some ignore it
            content = f"{in_system['content']}\n\n{rest[0]['content']}"
            rendered = self._template.render(
                [{"role": rest[0]["role"], "content": content}, *rest[1:]]
            )
        before, _, after = rendered.partition(_DOCUMENTS)
        return before, after


def _turns(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """Messages as role and content; neighbours of one role are merged.

    Raises:
        InvalidValueError: no user message, or a kind of message without a role.
    """
    turns: list[dict[str, str]] = []
    for message in messages:
        role, content = _role(message), str(message.text)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
    if not any(turn["role"] == "user" for turn in turns):
        msg = f"a conversation needs a user message, got {[t['role'] for t in turns]}"
        raise InvalidValueError(msg)
    return turns


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    msg = f"a message of type {message.type!r} cannot be put into a chat template"
    raise InvalidValueError(msg)
