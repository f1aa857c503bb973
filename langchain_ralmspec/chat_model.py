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

from langchain_ralmspec.errors import ChatTemplateError, InvalidValueError
from langchain_ralmspec.generation import RetrievalGeneration
from langchain_ralmspec.ralm import Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.callbacks import CallbackManagerForLLMRun

    from langchain_ralmspec.ralm.run import Run

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
        template = self.engine.template
        if turns[0]["role"] == "system":
            instructions, rest = turns[0]["content"], turns[1:]
        else:
            instructions, rest = self.system_prompt, turns
        content = _DOCUMENTS + instructions
        try:
            rendered = template.render([{"role": "system", "content": content}, *rest])
        except ChatTemplateError:  # some templates refuse a system turn …
            rendered = ""
        if _DOCUMENTS not in rendered:  # … and some ignore it
            first = next(i for i, turn in enumerate(rest) if turn["role"] == "user")
            opening = f"{content}\n\n{rest[first]['content']}"
            rest[first] = {"role": "user", "content": opening}
            rendered = template.render(rest)
        before, documents, after = rendered.partition(_DOCUMENTS)
        if not documents:
            msg = f"the chat template drops the first of {len(turns)} turns"
            raise ChatTemplateError(msg)
        return before, after


def _turns(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """Messages as role and content; neighbours of one role are merged.

    Raises:
        InvalidValueError: no user message, or something in a message is not text.
    """
    turns: list[dict[str, str]] = []
    for message in messages:
        role, content = _role(message), _text(message)
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


def _text(message: BaseMessage) -> str:
    for block in message.content if isinstance(message.content, list) else []:
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind != "text":
            msg = f"a content block of type {kind!r} cannot be read; send text"
            raise InvalidValueError(msg)
    return str(message.text)
