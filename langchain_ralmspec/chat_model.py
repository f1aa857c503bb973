"""Chat with retrieval inside the generation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_ralmspec.chat import Answer, LocalChat
from langchain_ralmspec.generation import RetrievalGeneration
from langchain_ralmspec.messages import question_of, turns_of
from langchain_ralmspec.ralm import Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.ralm.run import Run


class ChatRaLMSpec(RetrievalGeneration, LocalChat):
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

    def start(self, question: str) -> Run:
        """Prepare an answer that can be watched: iterate over it for its text.

        ``invoke`` and ``stream`` do this and wrap it for LangChain.
        """
        return self._run(self._prompt([HumanMessage(question)]), None, {})

    def _answer(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        overrides: dict[str, Any],
    ) -> Answer:
        prompt = self._prompt(messages)
        run = self._run(prompt, stop, overrides)
        return Answer(run, partial(self._info, run), partial(self._usage, prompt, run))

    def _prompt(self, messages: Sequence[BaseMessage]) -> Prompt:
        weights = self.engine.weights
        turns = turns_of(messages)
        before, after = self.engine.template.around(turns, self.system_prompt)
        return Prompt(
            head=tuple(weights.tokenize(before, special=True)),
            tail=tuple(weights.tokenize(after, special=True)),
            question=tuple(weights.tokenize(question_of(turns))),
        )
