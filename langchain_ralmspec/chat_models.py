"""Chat models with retrieval inside the generation, and about a long context."""

from __future__ import annotations

import uuid
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.load import dumps
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from pydantic import Field, PrivateAttr, field_validator, model_validator

from langchain_ralmspec.base.chain_prompt import ChainPrompt, is_plain, looks_filled
from langchain_ralmspec.base.chat import LocalChat
from langchain_ralmspec.base.llama_cpp import settings_of
from langchain_ralmspec.base.local import LocalGeneration, PreparedAnswer, info_of
from langchain_ralmspec.base.long_context import LongContextGeneration, long_usage_of
from langchain_ralmspec.base.messages import asked_at, begun_in, question_of, turns_of
from langchain_ralmspec.base.parting import part
from langchain_ralmspec.base.plain import plain_documents
from langchain_ralmspec.base.retrieval import SHORT_DOCUMENT, RetrievalGeneration
from langchain_ralmspec.base.tools import NO_TOOLS, ToolUse
from langchain_ralmspec.base.tracing import listeners_of, run_begun
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.ralm import Prompt
from langchain_ralmspec.rapid import Conversation, GivenContext
from langchain_ralmspec.text import sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.language_models import LanguageModelInput
    from langchain_core.prompt_values import PromptValue

    from langchain_ralmspec.answer.run import Run
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.engine.calls import Turn
    from langchain_ralmspec.ralm.run import RetrievalRun
    from langchain_ralmspec.rapid import DraftStats, Sources


class ChatRaLMSpec(RetrievalGeneration, LocalChat):
    """A local chat model that looks documents up, once or while it writes.

    It is ``RaLMSpecLLM`` behind the model's own chat template.
    The documents stand where ``prompt`` says; without one at the head of the system
    turn, or behind a long history. A query is made of the last user message and the
    answer so far.

    Example:
        ```python
        chat = ChatRaLMSpec(model_path="model.gguf", retriever=store)
        message = chat.invoke("who wrote Moby Dick?")
        documents_of(message)
        ```
    """

    prompt: Any = None
    """The prompt template of a chain: ``{context}`` is where the documents stand, its
    one other variable is the question, the last message's text. Messages before that
    are history: in the place of a ``MessagesPlaceholder``, else before the template's
    last message of the user."""
    system_prompt: str = "Answer the question with the help of the text above."
    """System turn for conversations that bring none, where there is no ``prompt``."""
    document_position: Literal["auto", "head", "question"] = "auto"
    """Where documents stand without a ``prompt``: at the ``"head"`` of all, or before
    the last user message, so that what comes before it need not be read again behind
    each; ``"auto"``: there as soon as that (a system message, a history) is longer
    than a document may be."""

    # Whether it was said that a message looks like a filled prompt.
    _has_warned: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _check_with_prompt(self) -> Self:
        if self.prompt is None:
            return self
        ChainPrompt.of(self.prompt).require_placing(self.on_empty == "answer")
        for name in ("system_prompt", "document_position"):
            # What configures fields gives every argument, most of them the defaults.
            if getattr(self, name) != type(self).model_fields[name].default:
                msg = (
                    f"{name}={getattr(self, name)!r} has no effect beside prompt=, "
                    "which says all that stands around the documents; write it there"
                )
                raise InvalidValueError(msg)
        return self

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: Any) -> Any:
        if value is not None:
            ChainPrompt.of(value).try_out()
        return value

    @classmethod
    def from_chain(
        cls,
        *,
        retriever: Any,
        prompt: Any,
        llm: Any = None,
        **settings: Any,
    ) -> Self:
        """Make a model of the parts of a chain that retrieves once.

        It takes the place of retriever, formatting, prompt and model, reads the same
        documents in the same prompt, and keeps what it has read of them.

        Example:
            ```python
            chat = ChatRaLMSpec.from_chain(
                retriever=retriever, prompt=prompt, model_path="model.gguf"
            )
            chain = chat | StrOutputParser()
            chain.invoke("who wrote Moby Dick?")
            ```

        Args:
            retriever: as in the chain.
            prompt: the chain's, with ``{context}`` and the question's variable.
            llm: a ``ChatLlamaCpp`` or ``LlamaCpp`` whose ``model_path``, temperature
                and other arguments are taken over, those of its ``bind(…)`` too, but
                not what it does to any model by default: 512 tokens of context, 8
                tokens a call, and the positions of the first Llama (give it
                ``rope_freq_base=0`` to compare answers).
            settings: other arguments of this class, ``retrieval_policy`` too.

        Raises:
            InvalidValueError: ``llm`` is no such model, or no model is given.
            UnknownArgumentError: it has an argument that nothing here stands for.
        """
        if llm is not None:
            engine = LocalGeneration.model_fields
            settings = settings_of(llm, cls.__name__, engine, settings)
        elif "model_path" not in settings and settings.keys() <= {*cls.model_fields}:
            msg = "no model is given; give llm=… (your ChatLlamaCpp) or model_path=…"
            raise InvalidValueError(msg)
        given = {"retrieval_policy": "once"} | settings
        return cls(retriever=retriever, prompt=prompt, **given)

    @property
    def _llm_type(self) -> str:
        return "ralmspec-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._fingerprint() | {
            "system_prompt": self.system_prompt,
            "document_position": self.document_position,
            "prompt": None if self.prompt is None else sha256_of(dumps(self.prompt)),
            **self._of_chats,
        }

    def _uncacheable(self) -> str | None:
        if self.prompt is not None and not is_plain(self.prompt):
            return "prompt may be filled otherwise each time"
        return super()._uncacheable()

    def _convert_input(self, model_input: Any) -> PromptValue:
        if isinstance(model_input, dict) and self.prompt is not None:
            model_input = ChainPrompt.of(self.prompt).messages(model_input)
        return super()._convert_input(model_input)

    def start(self, question: LanguageModelInput | dict[str, Any]) -> RetrievalRun:
        """Prepare an answer that can be watched: iterate over it for its text.

        ``invoke`` and ``stream`` do this and wrap it for LangChain.

        Args:
            question: of the user, without any document; or what else ``invoke`` takes:
                messages, or the values of the ``prompt``.

        Returns:
            The answer, not yet begun. Iterated over, it has ``tokens``, ``steps``,
            ``documents`` and ``stats``.

        Raises:
            ContextOverflowError: the longest possible answer does not fit ``n_ctx``.
            ChatTemplateError: the model has no usable chat template.
            InvalidValueError: the question is empty.
        """
        model, (retriever, _) = self.engine, self._restricted_by({})
        prompt = self._prompt(model, self._convert_input(question).to_messages())
        return self._run(model, prompt, self._sampling({}), retriever=retriever)

    def _answer(
        self,
        asked: Any,
        stop: list[str] | None,
        overrides: dict[str, Any],
        use: ToolUse = NO_TOOLS,
    ) -> PreparedAnswer:
        retriever, overrides = self._restricted_by(overrides)
        sampling, model = self._sampling(overrides), self.engine
        prompt = self._prompt(model, asked, use)
        form = self._form(model, use, sampling, prompt.begun)
        run = self._run(model, prompt, sampling, stop, form=form, retriever=retriever)
        is_thinking = self._is_thinking(
            model, use, sampling, prompt.begun, tail=prompt.tail, form=form
        )
        prepared = self._prepared(run, model, retriever)
        return replace(prepared, is_thinking=is_thinking)

    def _asked(self, question: str) -> list[BaseMessage]:
        return [HumanMessage(question)]

    def _n_tokens(self, asked: Sequence[BaseMessage], use: ToolUse) -> int:
        model = self.engine
        prompt = self._prompt(model, asked, use)
        beside = self._layout(model, prompt).laid_out(model.weights, ())
        return len(prompt.head) + len(beside.tokens) + len(prompt.tail)

    def _prompt(
        self, model: Model, asked: Sequence[BaseMessage], use: ToolUse = NO_TOOLS
    ) -> Prompt:
        turns, shown = turns_of(asked), (use.tools, self._variables(use))
        model.require_size(*(turn["content"] for turn in turns))
        if self.prompt is not None:
            asked_for = question_of(turns_of(asked[asked_at(asked) :]))
            parted = ChainPrompt.of(self.prompt).turns(asked, asked_for)
            before, lead, trail, after = model.template.split(parted, None, *shown)
            beside = (lead, trail)
        else:
            asked_for, beside = question_of(turns), None
            parted = self._parted(model, turns)
            before, after = model.template.around(parted, self.system_prompt, *shown)
        text = self._question(asked, asked_for)
        question = tuple(model.weights.tokenize(text))
        self._warn_of_filled(turns[0], text, len(question))
        if begun := begun_in(turns):  # of the answer so far
            question += tuple(model.weights.tokenize(begun))
        begun = begun_in(parted)  # by the prompt, too
        return Prompt(tuple(before), tuple(after), question, text, beside, begun)

    def _parted(self, model: Model, turns: Sequence[Turn]) -> list[Turn]:
        """The turns; documents that stand at the question part the user's last."""
        parted: list[Turn] = list(turns)
        last = max(at for at, turn in enumerate(turns) if turn["role"] == "user")
        position = self.document_position
        if position == "auto":
            told = [turn["content"] for turn in turns[:last]]
            if turns[0]["role"] != "system":
                told.append(self.system_prompt)
            n_before = sum(len(model.weights.tokenize(text)) for text in told)
            most = self.max_document_tokens or SHORT_DOCUMENT
            position = "question" if n_before > most else "head"
        if position == "question":
            parted[last] = {"role": "user", "content": ("", turns[last]["content"])}
        return parted

    def _warn_of_filled(self, first: Turn, text: str, n_tokens: int) -> None:
        """Warn, once, where a message looks like a prompt filled for one retrieval."""
        system, window = str(first["content"]), self.query_window
        is_query = n_tokens > window and looks_filled(text) and not self.query_source
        is_told = first["role"] == "system" and looks_filled(system, is_told=True)
        if self._has_warned or not (is_query or is_told):
            return
        self._has_warned = True
        role, text = ("user", text) if is_query else ("system", system)
        is_cut = self.retrieval_policy in {"stride", "flare"}
        part = f"its last {window} tokens" if is_cut else "all of it"
        queries = f"queries are made of {part}, and " if is_query else ""
        given = "" if self.prompt else "give the prompt as prompt=… and "
        warnings.warn(
            f"the {role} message looks like a filled prompt ({text[:30]!r}…"
            f"{text[-20:]!r}), but {queries}documents are looked up here: take the "
            f"retriever and the prompt out of the chain, {given}send the question "
            "alone (query_source=… makes queries of something else)",
            UserWarning,
            stacklevel=2,
        )


class ChatRapid(LongContextGeneration, LocalChat):
    r"""A local chat model that answers about one long text, and reads it once.

    It is ``RapidChain`` behind chat messages.
    The long context is bound to the model, or it is in the messages. Then it is the
    system message, or the longest one of the user's up to its last blank line, behind
    which the question stands; in later turns as in the first, so that the text is not
    read again. A first paragraph that begins with "Question:" is the question where the
    last one does not look like one.

    Example:
        ```python
        chat = ChatRapid(model_path="model.gguf", context=long_text)
        chat.invoke("Who wrote it?").text
        chat.invoke("And this one?", context=another_text).text
        ```
    """

    context: Any = Field(default=None, repr=False)  # traces show what repr shows
    """The text, ``Document``, sequence of them, or retriever, that is asked about; a
    call may bring one of its own, and None for one that is in its messages."""

    @property
    def _llm_type(self) -> str:
        return "ralmspec-rapid"

    def warm_up(self) -> None:
        """Load all that the first answer would load; a bound text is read as well."""
        super().warm_up()
        if not isinstance(self.context, Runnable | None):
            turns = [{"role": "user", "content": "?"}]
            self._preload(*self._split(turns, self.context, NO_TOOLS))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        own = {"context": _name_of(self.context), **self._of_chats}
        return self._fingerprint() | own

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # For traces, which are not to show the text.
        return super()._get_invocation_params(stop=stop, **_named(kwargs))

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return super()._get_llm_string(stop=stop, **_named(kwargs))

    def _uncacheable(self) -> str | None:
        why = "what a retriever finds as context may change"
        return why if isinstance(self.context, Runnable) else None

    def _n_tokens(self, asked: Sequence[BaseMessage], use: ToolUse) -> int:
        model, given = self.engine, self.context
        is_found = isinstance(given, Runnable)
        given = "" if is_found else given
        conversation, context = self._split(turns_of(asked), given, use)
        head, tail = conversation.around(model)
        text = "" if is_found else GivenContext.of(context).text
        return len(head) + len(model.weights.tokenize(text)) + len(tail)

    def _answer(
        self,
        asked: list[BaseMessage],
        stop: list[str] | None,
        overrides: dict[str, Any],
        use: ToolUse = NO_TOOLS,
    ) -> PreparedAnswer:
        own = {**overrides}
        given = own.pop("context", self.context)
        sampling, model = self._sampling(own), self.engine
        turns = turns_of(asked)
        begun = begun_in(turns)
        conversation, context = self._split(turns, given, use)
        form = self._form(model, use, sampling, begun)
        listeners = listeners_of(run_begun())
        run, sources = self._prepare(
            conversation, context, stop, sampling, listeners=listeners, form=form
        )
        return PreparedAnswer(
            run,
            partial(_info, run, sources),
            partial(long_usage_of, run),
            is_thinking=self._is_thinking(
                model, use, sampling, begun, tail=run.request.tail, form=form
            ),
        )

    def _split(
        self, turns: list[dict[str, Any]], context: Any, use: ToolUse
    ) -> tuple[Conversation, Any]:
        """Part the long context from the conversation about it."""
        if context is None:
            context, turns = part(turns)
        conversation = Conversation(
            tuple(turns),
            self.system_prompt,
            question_of(turns),
            tools=use.tools,
            variables=self._variables(use),
        )
        return conversation, context


def _named(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call, with a name for the context."""
    if (own := arguments.get("context")) is None:
        return arguments
    # What a retriever finds may change, so nothing is found under its name.
    name = uuid.uuid4().hex if isinstance(own, Runnable) else _name_of(own)
    return {**arguments, "context": name}


def _name_of(context: Any) -> str:
    """What a context is called in keys and traces; a retriever by its type alone."""
    if isinstance(context, Runnable | None):
        return type(context).__name__
    return GivenContext.of(context).sha256


def _info(run: Run[DraftStats], sources: Sources) -> dict[str, Any]:
    """What is told about a finished answer."""
    documents = plain_documents(sources.documents(run.tokens))
    return info_of(run, run.request.target) | {"documents": documents}
