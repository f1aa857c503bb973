"""The prompt of a chain: where documents and question stand in it, and history."""

from __future__ import annotations

import re
import secrets
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import BasePromptTemplate
from langchain_core.prompts.chat import MessagesPlaceholder

from langchain_ralmspec.base.messages import asked_at, messages_of, turns_of
from langchain_ralmspec.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_ralmspec.engine.calls import Turn

CONTEXT = "context"
"""The variable of a prompt that stands for the documents, in LangChain's chains."""

_LONGER_THAN_INSTRUCTIONS = 600  # characters
_LONG_CONTEXT = 100_000  # characters, more than a template leaves where it cuts
_FOLLOWING = re.compile(
    r"\bfollowing (?:pieces of )?(?:retrieved )?context\b", re.IGNORECASE
)
# One after the other: a pattern of both would begin anew at each of the former.
_BOTH = [re.compile(rf"\b{name}: ", re.IGNORECASE) for name in (CONTEXT, "question")]

# By which the commonest chat templates part turns.
_MARKUP = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|eot_id|user|assistant|system|end)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
)

_INNER = ("messages", "prompt", "example_prompt", "prefix", "suffix")
"""Where a template holds others."""


@dataclass(frozen=True, slots=True)
class ChainPrompt:
    """A prompt template that names the documents ``{context}``, and one question.

    Attributes:
        template: the template itself.
        question: the name of its other variable.
        history: the name of its messages placeholder; None where it has none.
    """

    template: BasePromptTemplate[Any]
    question: str
    history: str | None

    @classmethod
    def of(cls, template: Any) -> Self:
        """Find the variables of a template.

        Raises:
            InvalidValueError: it is no prompt template, or has no ``{context}``, or not
                exactly one other variable.
        """
        if not isinstance(template, BasePromptTemplate):
            msg = (
                "prompt must be a prompt template such as ChatPromptTemplate, got "
                f"{type(template).__name__}"
            )
            raise InvalidValueError(msg)
        placeholders = [
            each.variable_name
            for each in getattr(template, "messages", ())
            if isinstance(each, MessagesPlaceholder)
            # An optional one is filled with nothing, until something is given.
            and not template.partial_variables.get(each.variable_name)
        ]
        names = [n for n in template.input_variables if n not in placeholders]
        if CONTEXT not in names:
            msg = (
                f"the prompt has no {{{CONTEXT}}}, where documents could stand, only "
                f"{sorted(names)}; put it there"
            )
            raise InvalidValueError(msg)
        names.remove(CONTEXT)
        if len(names) != 1:
            msg = (
                f"the prompt must have one variable beside {{{CONTEXT}}}, the "
                f"question, got {sorted(names)}; give the values of others by "
                "prompt.partial(…)"
            )
            raise InvalidValueError(msg)
        if len(placeholders) > 1:
            msg = (
                "the prompt must have one messages placeholder at most, for the "
                f"history, got {sorted(placeholders)}; fill others by prompt.partial(…)"
            )
            raise InvalidValueError(msg)
        return cls(template, names[0], next(iter(placeholders), None))

    @property
    def question_leads(self) -> bool:
        """Whether the question stands in front of the documents.

        Then two prompts with different questions have no documents in common at their
        beginning, whose KV could be shared.
        """
        context, question = (secrets.token_hex(20) for _ in range(2))
        text = self._text(context, question)
        return text.find(question) < text.find(context)

    def _text(self, context: str, question: str) -> str:
        """What the template makes of a context, without history."""
        values: dict[str, Any] = {CONTEXT: context, self.question: question}
        if self.history is not None:
            values[self.history] = []
        return self.template.format_prompt(**values).to_string()

    @property
    def _needs_history(self) -> bool:
        filled = self.template.partial_variables  # an optional one is, with no message
        return self.history is not None and self.history not in filled

    def messages(self, values: Mapping[str, Any]) -> list[BaseMessage]:
        """A chain's input as the messages that :meth:`turns` puts into the template.

        Raises:
            InvalidValueError: the question is missing, or a history that is not
                optional, or there is what the template has no place for.
        """
        known = [self.question, *([self.history] if self.history else [])]
        unknown = sorted(map(str, values.keys() - {*known}))
        is_missing = self._needs_history and self.history not in values
        if unknown or is_missing or not isinstance(values.get(self.question), str):
            must = "and" if self._needs_history else "and may have"
            may = f", {must} {self.history!r}" if self.history else ""
            no_place = f", of which it has no place for {unknown}" if unknown else ""
            why = (
                "documents are looked up here, so leave it out"
                if CONTEXT in unknown
                else "give other values by prompt.partial(…)"
            )
            msg = (
                f"the input must have {self.question!r}, a string{may}, got "
                f"{sorted(map(str, values))}{no_place}; {why}"
            )
            raise InvalidValueError(msg)
        history = values.get(self.history) if self.history else None
        return [
            *messages_of(history or []),
            HumanMessage(values[self.question]),
        ]

    def try_out(self) -> None:
        """Fill it once, and warn of a chat template's markup that it spells out.

        Raises:
            InvalidValueError: as :meth:`turns` does.
        """
        turns = self.turns([HumanMessage("question")], "question")
        for text in ("".join(turn["content"]) for turn in turns):
            if found := _MARKUP.search(text):
                msg = (
                    f"the prompt spells {found[0]!r}, which is read as text: the "
                    "model's own chat template puts such markup around each turn; "
                    "leave it out, or give the prompt to RaLMSpecLLM"
                )
                warnings.warn(msg, UserWarning, stacklevel=2)
                return

    def require_placing(self, may_be_empty: bool) -> None:  # noqa: FBT001
        """Refuse a template that cuts documents; warn of one that tests for them.

        Of those that may give another text at any time nothing can be told.

        Args:
            may_be_empty: whether the model answers where no document is found.

        Raises:
            InvalidValueError: it cuts them.
        """
        if not is_plain(self.template):
            return
        slot = secrets.token_hex(20)
        documents = "\n\n".join([slot] * (_LONG_CONTEXT // len(slot)))
        if documents not in self._text(documents, "question"):
            msg = (
                f"the prompt cuts what it is given as {{{CONTEXT}}}, but documents are "
                "put into it as they are; leave that out, and set max_document_tokens "
                "or documents_per_step"
            )
            raise InvalidValueError(msg)
        without = self._text(slot, "question").replace(slot, "")
        if may_be_empty and self._text("", "question") != without:
            msg = (
                f"the prompt says something else where {{{CONTEXT}}} is empty, which "
                "is never read: where no document is found, the model gets what is "
                'said around documents, without any; set on_empty="error", or leave '
                "it out"
            )
            warnings.warn(msg, UserWarning, stacklevel=2)

    def turns(self, messages: Sequence[BaseMessage], question: str) -> list[Turn]:
        """The filled template: turns, the content of one parted at the documents.

        What stands before the question is history. It takes the place of the messages
        placeholder, or that before the template's last turn of the user. What tools
        were called for it, and found, stands behind the template, but before an answer
        that the template begins.

        Args:
            messages: a conversation; its last message that is no call of a tool, nor a
                result, holds ``question``.
            question: what stands for the question.

        Raises:
            InvalidValueError: the template cannot be filled, or ``{context}`` does not
                stand in it exactly once.
        """
        slot = secrets.token_hex(20)  # what nobody can have written
        at = asked_at(messages)
        history, called = list(messages[:at]), messages[at + 1 :]
        values: dict[str, Any] = {CONTEXT: slot, self.question: question}
        if self.history is not None:
            values[self.history] = history
        try:
            filled = self.template.format_prompt(**values).to_messages()
        except Exception as error:
            msg = f"the prompt cannot be filled: {type(error).__name__}: {error}"
            raise InvalidValueError(msg) from error
        placed = [] if self.history else history
        turns: list[Turn] = []
        n_slots = 0
        for turn in turns_of(_placed(filled, placed, called)):
            parts = turn["content"].split(slot)
            n_slots += len(parts) - 1
            parted = (parts[0], parts[-1]) if len(parts) > 1 else parts[0]
            turns.append({**turn, "content": parted})
        if n_slots != 1:
            msg = (
                f"{{{CONTEXT}}} must stand once in the prompt, got {n_slots} times; "
                "documents are read at one place"
            )
            raise InvalidValueError(msg)
        return turns


def _placed(
    filled: Sequence[BaseMessage],
    history: Sequence[BaseMessage],
    called: Sequence[BaseMessage],
) -> list[BaseMessage]:
    """A filled template with what stands before its question, and behind it."""
    at = asked_at(filled)
    end = len(filled)
    while end > at + 1 and isinstance(filled[end - 1], AIMessage):
        end -= 1
    # What the conversation itself has begun goes on behind what the template begins.
    n_called = len(called) - (bool(called) and isinstance(called[-1], AIMessage))
    asked, begun = [*filled[at:end], *called[:n_called]], called[n_called:]
    return [*filled[:at], *history, *asked, *filled[end:], *begun]


def is_plain(template: Any) -> bool:
    """Whether a template gives the same text for the same values, whenever it is asked.

    Classes of others may do anything, and so may functions among the given values.
    What selects examples is given others at any time.
    """
    parts = [template]
    for part in parts:  # which grow
        for name in _INNER:
            inner = getattr(part, name, None)
            several = inner if isinstance(inner, list | tuple) else [inner]
            parts += [each for each in several if not isinstance(each, str | None)]
    if any(getattr(part, "example_selector", None) is not None for part in parts):
        return False
    values = [v for p in parts for v in getattr(p, "partial_variables", {}).values()]
    return not any(map(callable, values)) and all(
        type(part).__module__.startswith("langchain_core.") for part in parts
    )


def _in_turn(text: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    """Whether a text has all of these, one behind the other."""
    at = 0
    for pattern in patterns:
        if (found := pattern.search(text, at)) is None:
            return False
        at = found.end()
    return True


def looks_filled(text: str, *, is_told: bool = False) -> bool:
    """Whether a message looks like a prompt template with documents in it.

    One that is told, as system messages are, may be instructions without documents: the
    hub's have some 300 characters.
    """
    if is_told and len(text) < _LONGER_THAN_INSTRUCTIONS:
        return False
    *_, last = text.rstrip().splitlines() or [""]
    begins = ("context:", "question:", "<context>", "documents:", "use the following")
    lines = [line.strip().lower() for line in text.splitlines()]
    return (
        last.rstrip().endswith(":")
        or any(line.startswith(begins) for line in lines)
        or _FOLLOWING.search(text) is not None
        or _in_turn(text, _BOTH)
    )
