"""Chat templates, as the GGUF carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_ralmspec.errors import ChatTemplateError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.engine.weights import Weights

_CONTEXT = "RALMSPEC-CONTEXT-7f3a"  # stands for the context while rendering


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
            import jinja2
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise MissingExtraError.of("jinja2", "llama") from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment.globals["raise_exception"] = refuse
        self._name = weights.path.name
        self._tokens = {
            "bos_token": weights.token_text(weights.bos),
            "eos_token": weights.token_text(weights.eos),
        }
        self._error = jinja2.TemplateError
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            msg = f"the chat template of {self._name!r} does not compile: {error}"
            raise ChatTemplateError(msg) from error

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """Render ``{"role", "content"}`` messages up to the assistant's turn."""
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=True, **self._tokens
            )
        except self._error as error:
            roles = [message["role"] for message in messages]
            msg = f"the chat template of {self._name!r} refuses {roles}: {error}"
            raise ChatTemplateError(msg) from error

    def around(
        self, turns: Sequence[dict[str, Any]], instructions: str
    ) -> tuple[str, str]:
        """Render the text before and behind a context at the head of the prompt.

        The context heads the system turn, or the first user turn where the template
        has no system turn. The system turn says ``instructions`` where ``turns``, of
        which one is a user's, have none.

        Raises:
            ChatTemplateError: the template refuses these turns, or drops the first.
        """
        if turns[0]["role"] == "system":
            instructions, rest = turns[0]["content"], list(turns[1:])
        else:
            rest = list(turns)
        content = _CONTEXT + instructions
        try:
            rendered = self.render([{"role": "system", "content": content}, *rest])
        except ChatTemplateError:  # some templates refuse a system turn …
            rendered = ""
        if _CONTEXT not in rendered:  # … and some ignore it
            first = next(i for i, turn in enumerate(rest) if turn["role"] == "user")
            opening = f"{content}\n\n{rest[first]['content']}"
            rest[first] = {"role": "user", "content": opening}
            rendered = self.render(rest)
        before, context, after = rendered.partition(_CONTEXT)
        if not context:
            msg = f"the chat template drops the first of {len(turns)} turns"
            raise ChatTemplateError(msg)
        return before, after
