"""What the chat models share: an answer's text becomes LangChain's messages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

# (1): what bind_tools() takes and gives is looked up by LangChain's with_fallbacks().
from langchain_core.language_models import LanguageModelInput  # noqa: TC002  (1)
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import Runnable  # noqa: TC002  (1)
from langchain_core.tools import BaseTool  # noqa: TC002  (1)
from pydantic import Field, field_validator, model_validator

from langchain_ralmspec.arguments import several
from langchain_ralmspec.base.call_reader import CallReader
from langchain_ralmspec.base.chunks import block_of, chunk_of
from langchain_ralmspec.base.local import LocalGeneration, PreparedAnswer
from langchain_ralmspec.base.messages import calls_of, prompt_of
from langchain_ralmspec.base.structured import structured_by
from langchain_ralmspec.base.thoughts import Thought, ThoughtReader, is_open_in
from langchain_ralmspec.base.threads import from_threads
from langchain_ralmspec.base.tools import (
    NO_TOOLS,
    ToolUse,
    as_tool,
    choice_of,
    format_of,
)
from langchain_ralmspec.base.traced import TracedChat
from langchain_ralmspec.base.tracing import (
    in_sync,
    run_begun,
    runs_of_answers,
)
from langchain_ralmspec.base.variables import variables_of
from langchain_ralmspec.engine.calls import PLAIN
from langchain_ralmspec.engine.templates import THOUGHT
from langchain_ralmspec.errors import (
    ChatTemplateError,
    ContextOverflowError,
    InvalidValueError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Iterator

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )
    from langchain_core.messages.tool import ToolCallChunk
    from langchain_core.prompt_values import PromptValue

    from langchain_ralmspec.base.bound import BoundChat
    from langchain_ralmspec.base.call_settings import Sampling
    from langchain_ralmspec.base.local import Form
    from langchain_ralmspec.engine import Model


class LocalChat(LocalGeneration, TracedChat):
    """A chat model; a subclass prepares the answers."""

    streaming: bool = False
    """Whether ``invoke`` calls back with every piece of text, as ``stream`` does."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables of the model's own chat template, such as ``{"enable_thinking":
    False}``; a call's own are taken before these, one by one."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        variables_of(value)
        return value

    @property
    def _of_chats(self) -> dict[str, Any]:
        """Settings of all chat models that tell one's answers from another's."""
        names = ("chat_template_kwargs", "output_version")
        return {name: getattr(self, name) for name in names}

    def _convert_input(self, model_input: Any) -> PromptValue:
        return prompt_of(super()._convert_input, model_input)

    @abstractmethod
    def _n_tokens(self, asked: Sequence[BaseMessage], use: ToolUse) -> int:
        """Tokens of a conversation as the model reads it, without what is retrieved."""

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Number of tokens that the model reads for messages, in its own template.

        That is what ``usage_metadata`` counts, but for documents that are retrieved. A
        text that is bound as context counts as well. A part of a conversation without
        the user's words is counted with a question mark of the user's behind it, one
        that ends with calls with empty results; what the template cannot show, or what
        is surely too long, as LangChain does it; so is all by ``custom_get_token_ids``.
        """
        messages = list(several("messages", messages, "messages"))
        for message in messages:
            if not isinstance(message, BaseMessage):
                msg = f"a message must be a BaseMessage, got {message!r:.80}"
                raise InvalidValueError(msg)
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        is_asked = any(isinstance(message, HumanMessage) for message in messages)
        asked = messages if is_asked else [*messages, HumanMessage("?")]
        last = asked[-1]
        for call in calls_of(last) if isinstance(last, AIMessage) else ():
            asked = [*asked, ToolMessage("", tool_call_id=str(call["id"]))]
        use = ToolUse.taken_from({"tools": tools})
        try:
            return self._n_tokens(asked, use)
        except (ChatTemplateError, ContextOverflowError, InvalidValueError):
            return super().get_num_tokens_from_messages(messages, tools)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools; its calls are in ``tool_calls`` of its answers.

        Args:
            tools: functions, pydantic classes, ``BaseTool`` s, or dicts.
            tool_choice: None or ``"auto"`` leaves it to the model whether to call one;
                ``"any"`` or ``"required"`` demand a call, a name that of this tool;
                ``"none"`` hides them.
            kwargs: other arguments of a call; ``parallel_tool_calls=False`` allows one
                call an answer.

        Raises:
            GrammarError: a tool's parameters cannot be made a grammar.
            InvalidValueError: what is no tool, or names none.
        """
        made = list(map(as_tool, several("tools", tools, "tools")))
        choice_of(tool_choice, [tool["function"]["name"] for tool in made])
        for tool in made:  # now, and not when it is called
            PLAIN.gbnf([tool], several=False)
        bound: BoundChat = self.bind(tools=made, tool_choice=tool_choice, **kwargs)
        return bound

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Have answers match a schema, by a grammar, and parsed.

        Args:
            schema: a pydantic class, whose objects come out, or a TypedDict or a JSON
                schema, for dicts.
            method: ``"json_schema"``: the answer is JSON that matches it;
                ``"function_calling"``: the call of a tool, which the model is shown,
                descriptions included; ``"json_mode"``: any JSON object.
            include_raw: give a dict with ``raw``, the message, ``parsed`` and
                ``parsing_error``, and raise no error where parsing fails.
            strict: a grammar always is; for compatibility.
            kwargs: other arguments of a call.

        Raises:
            GrammarError: the schema cannot be made a grammar.
            InvalidValueError: a schema or method that is none.
        """
        words: dict[str, Any] = {"method": method, "include_raw": include_raw}
        return structured_by(self, schema, strict=strict, **words, **kwargs)

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
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
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

    @model_validator(mode="after")
    def _stream_whenever_asked(self) -> Self:
        # LangChain takes a False that was given for an order never to stream, and gives
        # all arguments to what it configures.
        if not self.streaming:
            self.model_fields_set.discard("streaming")
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
        use: ToolUse = NO_TOOLS,
    ) -> PreparedAnswer:
        """Prepare an answer to a conversation, which may or must call tools."""

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        own = self._tracing_params()
        # A call that asks for another model is refused, but traced as what it was.
        given = {"model": own["ls_model_name"], **kwargs}
        params = super()._get_ls_params(stop=stop, **given)
        return params | {"ls_provider": own["ls_provider"]}

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk]:
        manager = in_sync(run_manager)
        pieces = self._stream(messages, stop, manager, **kwargs)
        return from_threads(pieces, may_wait=self._may_wait)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Generator[ChatGenerationChunk]:
        use = ToolUse.taken_from(kwargs)
        run = run_manager or run_begun()
        with runs_of_answers(run):  # what is looked up now is told as well
            answer = self._answer(messages, stop, kwargs, use)
        answer.trace(run)
        said = ""
        for piece in self._pieces(answer, use):
            message = chunk_of(piece, in_blocks=self.output_version == "v1")
            if isinstance(piece, str) and not isinstance(piece, Thought):
                said += piece
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(str(message.text), chunk=chunk)
            yield chunk
        yield self._last(answer, said)

    def _last(self, answer: PreparedAnswer, said: str) -> ChatGenerationChunk:
        """What is told about an answer with this text."""
        told, content = answer.metadata(), ""
        if answer.citations is not None:
            citations = answer.citations(said)
            if self.output_version != "v1":
                told = {**told, "citations": citations}
            elif citations:
                content = block_of("", annotations=citations)
        message = AIMessageChunk(
            content=content,
            response_metadata=told,
            usage_metadata=answer.usage(),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _variables(self, use: ToolUse) -> dict[str, Any]:
        """What the template is told for a call."""
        return {**variables_of(self.chat_template_kwargs), **use.variables}

    def _form(
        self, model: Model, use: ToolUse, sampling: Sampling, begun: str | None
    ) -> Form:
        """The form of an answer, which goes on with what was ``begun``.

        Raises:
            GrammarError: a grammar cannot be parsed, or made of a schema.
            InvalidValueError: calls are wanted where there can be none.
        """
        if begun is not None and use.tools and format_of(model).at_start:
            names = [tool["function"]["name"] for tool in use.tools]
            msg = (
                f"the last message, {begun!r:.60}, is an answer to be continued, but "
                f"calls of {names} are what this model's answers begin with; leave the "
                "message out, or the tools (tool_choice='none')"
            )
            raise InvalidValueError(msg)
        return use.form(model, sampling)

    def _is_thinking(
        self,
        model: Model,
        use: ToolUse,
        sampling: Sampling,
        begun: str | None,
        *,
        tail: Sequence[int],
        form: Form,
    ) -> bool | None:
        """Whether an answer begins inside a thought; None where it can have none.

        Its form is told, too: what a thought says of calls is none.
        """
        if not use.may_think(model, sampling):
            return None
        if begun is None or not begun.strip():
            is_open = model.template.opens_thought(tail)
        elif is_open_in(begun):
            is_open = True
        else:
            return None  # a thought stands at the start
        if form.grammar is not None:
            form.grammar.expect_thought(*THOUGHT, is_open=is_open)
        return is_open

    def _pieces(
        self, answer: PreparedAnswer, use: ToolUse
    ) -> Iterator[str | ToolCallChunk]:
        """An answer's thoughts, what it says, and calls in that."""
        texts: Iterable[str] = answer.text
        if answer.is_thinking is not None:
            texts = _read_by(ThoughtReader(is_open=answer.is_thinking), texts)
        if not use.tools:
            yield from texts
            return
        calls = CallReader(format_of(self.engine).marker(use.tools))
        for text in texts:
            yield from (text,) if isinstance(text, Thought) else calls.read(text)
        yield from calls.finish()


def _read_by(reader: ThoughtReader, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from reader.read(text)
    yield from reader.finish()
