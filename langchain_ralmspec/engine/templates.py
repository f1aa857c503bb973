"""Chat templates, as the GGUF carries them: messages become tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_ralmspec.engine.markers import Disguise
from langchain_ralmspec.errors import ChatTemplateError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.engine.weights import Weights


class ChatTemplate:
    """A model's own Jinja chat template, rendered in a sandbox.

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

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """Render ``{"role", "content"}`` messages up to the assistant's turn."""
        try:
            return self._generate(
                messages=list(messages),
                add_generation_prompt=True,
                # Templates of models that call tools ask for these.
                tools=None,
                documents=None,
                **self._tokens,
            )
        except Exception as error:  # a template may do anything
            roles = [message["role"] for message in messages]
            msg = f"the chat template of {self._name!r} refuses {roles}: {_told(error)}"
            raise ChatTemplateError(msg) from error

    def around(
        self, turns: Sequence[dict[str, str]], instructions: str
    ) -> tuple[list[int], list[int]]:
        """Tokens before and behind a context at the head of the prompt.

        The context heads the system turn, or the first user turn where the template
        has no system turn. The system turn says ``instructions`` where ``turns``, of
        which one is a user's, have none. Control tokens are only those that the
        template itself writes: what turns and instructions say is text.

        Raises:
            ChatTemplateError: the template refuses these turns, or drops the first.
        """
        if turns[0]["role"] == "system":
            instructions, turns = turns[0]["content"], turns[1:]
        disguise = Disguise(self._weights.markers)
        context = disguise.stand_in()
        rest = [
            {
                name: (disguise.hide if name == "content" else disguise.name)(text)
                for name, text in turn.items()
            }
            for turn in turns
        ]
        system = {"role": "system", "content": context + disguise.hide(instructions)}
        try:
            rendered = self.render([system, *rest])
        except ChatTemplateError:  # some templates refuse a system turn …
            rendered = ""
        if context not in rendered:  # … and some ignore it
            first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
            opening = disguise.hide(f"{instructions}\n\n{turns[first]['content']}")
            rest[first] = {**rest[first], "content": context + opening}
            rendered = self.render(rest)
        before, found, after = rendered.partition(context)
        if not found:
            msg = f"the chat template drops the first of {len(turns)} turns"
            raise ChatTemplateError(msg)
        # One that says its system turn twice has the context once.
        runs = disguise.reveal(before), disguise.reveal(after.replace(context, ""))
        tokenize = self._weights.tokenize_runs
        return tokenize(runs[0]), tokenize(runs[1])


def _told(error: Exception) -> str:
    """What an error says; those of Python are named."""
    if type(error).__module__.startswith("jinja2"):
        return str(error)
    return f"{type(error).__name__}: {error}"
