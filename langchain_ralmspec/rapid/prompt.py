"""The prompt around a context: the context first, so that its KV can be kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.engine.calls import spelt_out
from langchain_ralmspec.engine.markers import Disguise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.engine.weights import Weights


CONTEXT, QUESTION = "{context}", "{question}"  # in plain templates


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is asked about a context, before any model's template.

    Attributes:
        turns: ``{"role", "content"}`` each, the user's question among them; with calls
            of tools.
        instructions: what the system turn says behind the context.
        question: what is looked for in the context.
        template: a plain one, instead of the model's chat template.
        parse_special: whether the control tokens that ``template`` names count.
        tools: what the model may call.
        variables: of the model's chat template.
    """

    turns: tuple[dict[str, Any], ...]
    instructions: str
    question: str
    template: str | None = None
    parse_special: bool = True
    tools: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    def around(self, model: Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens before and behind the context, by a chat template or a plain text."""
        weights = model.weights
        model.require_size(*(turn["content"] for turn in self.turns))
        if self.template is not None:
            return self._filled(self.template, weights)
        if weights.has_chat_template:
            before, after = model.template.around(
                self.turns, self.instructions, self.tools, self.variables
            )
            return tuple(before), tuple(after)
        spelt, instructions = spelt_out(self.turns, self.instructions, self.tools)
        turns = [f"{turn['role'].title()}: {turn['content']}" for turn in spelt]
        if spelt[-1]["role"] != "assistant":  # else it goes on with what that says
            turns.append("Assistant:")
        plain = "\n\n".join(["", instructions or "", *turns])
        return weights.text_start, tuple(weights.tokenize(plain))

    def _filled(
        self, template: str, weights: Weights
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of a plain template; in the question control tokens are text."""
        before, _, after = template.partition(CONTEXT)
        start, head = weights.tokenize_prompt(before, special=self.parse_special)
        if self.parse_special:
            disguise = Disguise(weights.markers)
            filled = after.replace(QUESTION, disguise.hide(self.question))
            tail = weights.tokenize_runs(disguise.reveal(filled))
        else:
            tail = weights.tokenize(after.replace(QUESTION, self.question))
        return (*start, *head), tuple(tail)
