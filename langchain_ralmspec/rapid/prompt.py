"""The prompt around a context: the context first, so that its KV can be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_ralmspec.engine import Model


CONTEXT, QUESTION = "{context}", "{question}"  # in plain templates


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is asked about a context, before any model's template.

    Attributes:
        turns: ``{"role", "content"}`` each, the user's question among them.
        instructions: what the system turn says behind the context.
        question: what is looked for in the context.
        template: a plain one, instead of the model's chat template.
    """

    turns: tuple[dict[str, str], ...]
    instructions: str
    question: str
    template: str | None = None

    @classmethod
    def of(
        cls, question: str, instructions: str, template: str | None = None
    ) -> Conversation:
        """A single question."""
        turns = ({"role": "user", "content": question},)
        return cls(turns, instructions, question, template)

    def around(self, model: Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens before and behind the context, by a chat template or a plain text."""
        weights = model.weights
        if self.template is None and weights.has_chat_template:
            before, after = model.template.around(list(self.turns), self.instructions)
            head = tuple(weights.tokenize(before, special=True))
            return head, tuple(weights.tokenize(after, special=True))
        before, _, after = (self.template or self._plain).partition(CONTEXT)
        tail = weights.tokenize(after.replace(QUESTION, self.question))
        return (*weights.text_start, *weights.tokenize(before)), tuple(tail)

    @property
    def _plain(self) -> str:
        turns = [f"{turn['role'].title()}: {turn['content']}" for turn in self.turns]
        return "\n\n".join([CONTEXT, self.instructions, *turns, "Assistant:"])
