"""Chat templates, as the GGUF carries them: messages become tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_ralmspec.engine.calls import format_of, spelt_out
from langchain_ralmspec.engine.markers import Disguise
from langchain_ralmspec.errors import ChatTemplateError, MissingExtraError

if TYPE_CHECKING:
    from langchain_ralmspec.engine.calls import Turn
    from langchain_ralmspec.engine.weights import Weights

Content = tuple[str, ...]
"""What a turn says: one text, or the texts before and behind the context."""


Runs = list[tuple[str, bool]]
"""Pieces of rendered text, and whether the markers in them count."""


_WORD_BEFORE = re.compile(r"(?:\w+|[^\w\s]+)?\s*$")
_WORD_BEHIND = re.compile(r"\s*(?:\w+|[^\w\s]+)?")


class Split(NamedTuple):
    """A rendered prompt with a place for the context."""

    before: list[int]  # tokens
    lead: str  # the last word before the context, or what signs there are
    trail: str  # the first one behind it
    after: list[int]  # tokens


Tools = Sequence[Mapping[str, Any]]
"""Definitions of tools, as OpenAI and chat templates have them."""


class ChatTemplate:
    """A model's own Jinja chat template, rendered in a sandbox.

    Attributes:
        calls: how the model calls tools.

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
            from langchain_ralmspec.engine.jinja import compiled
        except ImportError as error:
            raise MissingExtraError.of("jinja2", "llama") from error
        self._weights, self._name = weights, weights.path.name
        self.calls = format_of(source)
        self._tokens = {
            "bos_token": weights.token_text(weights.bos),
            "eos_token": weights.token_text(weights.eos),
        }
        try:
            self._generate = compiled(source)
        except Exception as error:
            msg = (
                f"the chat template of {self._name!r} does not compile: {_told(error)}"
            )
            raise ChatTemplateError(msg) from error

    def render(
        self, messages: Sequence[dict[str, Any]], tools: list[Any] | None = None
    ) -> str:
        """Render ``{"role", "content"}`` messages up to the assistant's turn."""
        try:
            return self._generate(
                messages=list(messages),
                add_generation_prompt=True,
                tools=tools,
                documents=None,  # templates that know of them ask for these
                **self._tokens,
            )
        except Exception as error:  # a template may do anything
            roles = [message["role"] for message in messages]
            msg = f"the chat template of {self._name!r} refuses {roles}: {_told(error)}"
            raise ChatTemplateError(msg) from error

    def around(
        self, turns: Sequence[Turn], instructions: str | None, tools: Tools = ()
    ) -> tuple[list[int], list[int]]:
        """Tokens before and behind a context that stands somewhere in the prompt.

        It stands where a turn's content is parted in two. Where none is, it heads the
        system turn. What the system turn says goes to the first user turn where the
        template has no system turn. Control tokens are only those that the template
        itself writes: what turns and instructions say is text.

        Args:
            turns: one of them is a user's.
            instructions: what the system turn says where ``turns`` have none; None
                makes no system turn.
            tools: what the model may call.

        Raises:
            ChatTemplateError: the template refuses these turns, or drops the one with
                the context.
        """
        before, after = self._around(turns, instructions, tools)
        tokenize = self._weights.tokenize_runs
        return tokenize(before), tokenize(after)

    def split(
        self, turns: Sequence[Turn], instructions: str | None, tools: Tools = ()
    ) -> Split:
        """Do what :meth:`around` does, and split off a word beside the context.

        A tokeniser joins blanks and signs with what stands beside them, but hardly ever
        a word with a sign. So what stands between two words is to be tokenised at once.
        """
        before, after = self._around(turns, instructions, tools)
        *rest, (text, counts) = before
        lead = _WORD_BEFORE.search(self._outside_markers(text)[-1])
        at = len(text) - (len(lead[0]) if lead else 0)
        before = [*rest, (text[:at], counts)]
        (first, counts), *rest = after
        trail = _WORD_BEHIND.match(self._outside_markers(first)[0])
        end = len(trail[0]) if trail else 0
        after = [(first[end:], counts), *rest]
        tokenize = self._weights.tokenize_runs
        return Split(tokenize(before), text[at:], first[:end], tokenize(after))

    def _outside_markers(self, text: str) -> list[str]:
        return self._weights.markers.pattern.split(text)

    def _around(
        self, turns: Sequence[Turn], instructions: str | None, tools: Tools
    ) -> tuple[Runs, Runs]:
        """What is rendered before and behind the context."""
        if not self.calls.is_native:
            turns, instructions = spelt_out(turns, instructions, tools)
            tools = ()
        said = [turn["content"] for turn in turns]
        contents: list[Content] = [(c,) if isinstance(c, str) else c for c in said]
        roles = [str(turn["role"]) for turn in turns]
        if roles[0] != "system" and instructions is not None:
            roles, contents = ["system", *roles], [(instructions,), *contents]
        if all(len(content) == 1 for content in contents):
            contents[0] = ("", *contents[0])
        disguise = Disguise(self._weights.markers)
        context = disguise.stand_in()
        offered = disguise.hide_all(list(tools)) if tools else None
        # A system turn that is put in front has nothing beside its content.
        beside = [{}, *(disguise.hide_all(_beside_content(turn)) for turn in turns)]

        def rendered(roles: Sequence[str], contents: Sequence[Content]) -> str:
            hidden = [context.join(map(disguise.hide, parts)) for parts in contents]
            said = zip(beside[-len(roles) :], roles, hidden, strict=True)
            messages = [
                {**own, "role": disguise.name(role), "content": content}
                for own, role, content in said
            ]
            text = self.render(messages, offered)
            is_dropped = roles[0] == "system" and hidden[0].strip() not in text
            return "" if is_dropped else text

        try:
            text = rendered(roles, contents)
        except ChatTemplateError:  # some templates refuse a system turn …
            if roles[0] != "system":
                raise
            text = ""
        if not text:  # … and some ignore it
            text = rendered(*_without_system(roles, contents))
        before, found, after = text.partition(context)
        if not found:
            msg = f"the chat template drops a turn of {roles}, the one with the context"
            raise ChatTemplateError(msg)
        # One that says its system turn twice has the context once.
        return disguise.reveal(before), disguise.reveal(after.replace(context, ""))


def _beside_content(turn: Turn) -> dict[str, Any]:
    """What a turn has beside role and content: calls, or which call it answers."""
    return {key: value for key, value in turn.items() if key not in {"role", "content"}}


def _without_system(
    roles: Sequence[str], contents: Sequence[Content]
) -> tuple[list[str], list[Content]]:
    """Turns whose first user turn begins with what the system turn, the first, says."""
    system, rest = contents[0], list(contents[1:])
    first = roles.index("user") - 1
    joint = f"{system[-1]}\n\n{rest[first][0]}"
    rest[first] = (*system[:-1], joint, *rest[first][1:])
    return list(roles[1:]), rest


def _told(error: Exception) -> str:
    """What an error says; those of Python are named."""
    if type(error).__module__.startswith("jinja2"):
        return str(error)
    return f"{type(error).__name__}: {error}"
