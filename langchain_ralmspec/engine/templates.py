"""Chat templates, as the GGUF carries them: messages become tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_ralmspec.arguments import Live
from langchain_ralmspec.engine.calls import format_of, spelt_out
from langchain_ralmspec.engine.layouts import layout_of, layouts_of
from langchain_ralmspec.engine.markers import Disguise
from langchain_ralmspec.errors import ChatTemplateError, MissingExtraError

if TYPE_CHECKING:
    from langchain_ralmspec.engine.calls import Turn
    from langchain_ralmspec.engine.layouts import Part
    from langchain_ralmspec.engine.weights import Weights

NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})

RESERVED = (
    *("messages", "tools", "add_generation_prompt", "documents"),
    *("bos_token", "eos_token"),
)
"""Variables of templates that are set here."""

THOUGHT = ("<think>", "</think>")
"""What stands around a model's thoughts, before what it says."""

_MOST_BEHIND = 16  # tokens: ``<think>`` may take five, and a line or two is behind it

_UNCHECKED = {"user", "assistant", "tool"}
"""Roles that every template knows; it may cut or move what they say. Others are
silently dropped by some."""

Runs = list[tuple[str, bool]]
"""Pieces of rendered text, and whether the markers in them count."""


_WORD_BEHIND = re.compile(r"\s*(?:\w+|[^\w\s]+)?")


def _size_of_last_word(text: str) -> int:
    """How much of a text's end is a word, or some signs, and the blanks behind it."""
    # Backwards: a pattern would begin anew at each letter of a long word.
    at = len(text.rstrip())
    is_word = at > 0 and _is_of_words(text[at - 1])
    while at and not text[at - 1].isspace() and _is_of_words(text[at - 1]) == is_word:
        at -= 1
    return len(text) - at


def _is_of_words(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


class Split(NamedTuple):
    """A rendered prompt with a place for the context."""

    before: list[int]  # tokens
    lead: str  # the last word before the context, or what signs there are
    trail: str  # the first one behind it
    after: list[int]  # tokens


Tools = Sequence[Mapping[str, Any]]
"""Definitions of tools, as OpenAI and chat templates have them."""


class ChatTemplate(Live):
    """A model's own Jinja chat template, rendered in a sandbox.

    Attributes:
        calls: how the model calls tools.
        has_thoughts: whether it knows of thoughts in an answer.

    Raises:
        ChatTemplateError: the model has none, or it does not compile.
    """

    def __init__(self, weights: Weights) -> None:
        source = weights.metadata("tokenizer.chat_template")
        if not source:
            msg = (
                f"{weights.path.name!r} has no chat template; use RaLMSpecLLM, or a "
                "model tuned for chat"
            )
            raise ChatTemplateError(msg)
        try:
            from langchain_ralmspec.engine.jinja import compiled, literals_of
        except ImportError as error:
            raise MissingExtraError.of("jinja2", "llama") from error
        self._weights, self._name = weights, weights.path.name
        self._source = source
        self.calls = format_of(source)
        self.has_thoughts = any(tag in source for tag in THOUGHT)
        self._tokens = weights.named_tokens
        try:
            self._generate = compiled(source)
            self._literals = literals_of(source)
        except Exception as error:
            msg = (
                f"the chat template of {self._name!r} does not compile: {_told(error)}"
            )
            raise ChatTemplateError(msg) from error

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: list[Any] | None = None,
        *,
        opens_answer: bool = True,
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> str:
        """Render ``{"role", "content"}`` messages up to the assistant's turn.

        Or, unless it ``opens_answer``, up to the end of the last of them.
        """
        own = {
            "messages": list(messages),
            "add_generation_prompt": opens_answer,
            "tools": tools,
            "documents": None,  # templates that know of them ask for these
        }
        try:
            return self._generate(**{**self._tokens, **variables, **own})
        except Exception as error:  # a template may do anything
            roles = [message["role"] for message in messages]
            msg = f"the chat template of {self._name!r} refuses {roles}: {_told(error)}"
            raise ChatTemplateError(msg) from error

    def around(
        self,
        turns: Sequence[Turn],
        instructions: str | None,
        tools: Tools = (),
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> tuple[list[int], list[int]]:
        """Tokens before and behind a context that stands somewhere in the prompt.

        It stands where a turn's content is parted in two. Where none is, it heads the
        system turn. What a system turn says goes to the user's next turn where the
        template has no such turn there. Control tokens are only those that the template
        itself writes: what turns and instructions say is text. A last turn of the
        assistant's is left open, so that the answer continues it.

        Args:
            turns: one of them is a user's.
            instructions: what the system turn says where ``turns`` have none; None
                makes no system turn.
            tools: what the model may call.
            variables: of the template's own, such as ``enable_thinking``.

        Raises:
            ChatTemplateError: the template refuses these turns, or drops one.
        """
        before, after = self._around(turns, instructions, tools, variables)
        tokenize = self._weights.tokenize_runs
        return tokenize(before), tokenize(after)

    def split(
        self,
        turns: Sequence[Turn],
        instructions: str | None,
        tools: Tools = (),
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> Split:
        """Do what :meth:`around` does, and split off a word beside the context.

        A tokeniser joins blanks and signs with what stands beside them, but hardly ever
        a word with a sign. So what stands between two words is to be tokenised at once.
        """
        before, after = self._around(turns, instructions, tools, variables)
        *rest, (text, counts) = before
        at = len(text) - _size_of_last_word(self._outside_markers(text)[-1])
        before = [*rest, (text[:at], counts)]
        (first, counts), *rest = after
        trail = _WORD_BEHIND.match(self._outside_markers(first)[0])
        end = len(trail[0]) if trail else 0
        after = [(first[end:], counts), *rest]
        tokenize = self._weights.tokenize_runs
        return Split(tokenize(before), text[at:], first[:end], tokenize(after))

    def _outside_markers(self, text: str) -> list[str]:
        return self._weights.markers.pattern.split(text)

    def opens_thought(self, end: Sequence[int]) -> bool:
        """Whether a prompt that ends so has the answer begin inside a thought."""
        names = (
            self._weights.piece(token).decode("utf-8", "ignore")
            or self._weights.token_text(token)
            for token in end[-_MOST_BEHIND:]
        )
        return "".join(names).rstrip().endswith(THOUGHT[0])

    def _around(
        self,
        turns: Sequence[Turn],
        instructions: str | None,
        tools: Tools,
        variables: Mapping[str, Any],
    ) -> tuple[Runs, Runs]:
        """What is rendered before and behind the context."""
        if not self.calls.is_native:
            turns, instructions = spelt_out(turns, instructions, tools)
            tools = ()
        disguise = Disguise(self._weights.markers, self._source, self._literals)
        rendering = _Rendering(
            self,
            disguise,
            disguise.hide_all(list(tools)) if tools else None,
            {name: disguise.hide_all(each) for name, each in variables.items()},
            is_begun=turns[-1]["role"] == "assistant",
        )
        text = rendering.first_of(layouts_of(layout_of(turns, instructions)))
        before, _, after = text.partition(rendering.context)
        # One that says its system turn twice has the context once.
        after = after.replace(rendering.context, "")
        return disguise.reveal(before), disguise.reveal(after)


class _Rendering:
    """Renders layouts of one conversation, in which foreign markers are hidden.

    Attributes:
        context: what stands for the context.
    """

    def __init__(
        self,
        template: ChatTemplate,
        disguise: Disguise,
        tools: list[Any] | None,
        variables: dict[str, Any],
        *,
        is_begun: bool,
    ) -> None:
        self._template, self._disguise, self._is_begun = template, disguise, is_begun
        self._tools, self._variables = tools, variables
        self.context, self._end = disguise.stand_in(), disguise.stand_in()

    def first_of(self, layouts: Sequence[Sequence[Part]]) -> str:
        """The first of some layouts that the template takes, and leaves whole.

        Raises:
            ChatTemplateError: what it says of the last, the plainest.
        """
        *others, plainest = layouts
        for layout in others:
            with suppress(ChatTemplateError):
                return self._rendered(layout)
        return self._rendered(plainest)

    def _rendered(self, layout: Sequence[Part]) -> str:
        """The text of a layout, up to where the answer goes on."""
        said = [self._said(part) for part in layout]
        is_begun = self._is_begun
        shown = [*said[:-1], said[-1] + self._end] if is_begun else said
        messages = [self._message(*pair) for pair in zip(layout, shown, strict=True)]
        text = self._template.render(
            messages,
            self._tools,
            opens_answer=not is_begun,
            variables=self._variables,
        )
        dropped = [
            f"what {part.role!r} says"
            for at, (part, content) in enumerate(zip(layout, said, strict=True))
            if part.role not in _UNCHECKED
            and content.strip() not in text
            and not self._shows(layout, messages, at)
        ]
        if is_begun:  # nothing of what ends a turn
            text, found, _ = text.rpartition(self._end)
            dropped += [] if found else ["the answer that is to be continued"]
        dropped += [] if self.context in text else ["the turn with the context"]
        if dropped:
            roles = [part.role for part in layout]
            msg = f"the chat template drops {dropped[0]}, of {roles}"
            raise ChatTemplateError(msg)
        return text

    def _shows(
        self, layout: Sequence[Part], messages: Sequence[dict[str, Any]], at: int
    ) -> bool:
        """Whether the template has a turn there, though not word for word.

        It may heed, and take out, a switch such as ``/no_think``.
        """
        word = self._disguise.stand_in()
        others = [*messages[:at], self._message(layout[at], word), *messages[at + 1 :]]
        with suppress(ChatTemplateError):
            shown = self._template.render(
                others, self._tools, opens_answer=True, variables=self._variables
            )
            return word in shown
        return False

    def _said(self, part: Part) -> str:
        hide = partial(self._disguise.hide, is_answer=part.role == "assistant")
        return self.context.join(map(hide, part.content))

    def _message(self, part: Part, content: str) -> dict[str, Any]:
        beside = self._disguise.hide_all(part.beside)
        return {**beside, "role": self._disguise.name(part.role), "content": content}


def _told(error: Exception) -> str:
    """What an error says; those of Python are named."""
    if type(error).__module__.startswith("jinja2"):
        return str(error)
    return f"{type(error).__name__}: {error}"
