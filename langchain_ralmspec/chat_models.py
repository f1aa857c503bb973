"""Chat models with retrieval inside the generation, and about a long context."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from langchain_ralmspec.base.chat import LocalChat
from langchain_ralmspec.base.local import PreparedAnswer, info_of, usage_of
from langchain_ralmspec.base.long_context import LongContextGeneration
from langchain_ralmspec.base.messages import question_of, turns_of
from langchain_ralmspec.base.plain import plain_documents
from langchain_ralmspec.base.retrieval import RetrievalGeneration
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.ralm import Prompt
from langchain_ralmspec.rapid import Conversation, GivenContext
from langchain_ralmspec.text import part_at_last_blank_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages.ai import UsageMetadata

    from langchain_ralmspec.answer.run import Run
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.ralm.run import RetrievalRun
    from langchain_ralmspec.rapid import DraftStats, Sources


class ChatRaLMSpec(RetrievalGeneration, LocalChat):
    """``RaLMSpecLLM`` behind the model's own chat template.

    The documents stand at the head of the system turn, or of the first user turn
    where the template has no system turn. A query is made of the last user message
    and the answer so far.

    Example:
        .. code-block:: python

            chat = ChatRaLMSpec(model_path="model.gguf", retriever=store)
            message = chat.invoke("who wrote Moby Dick?")
            documents_of(message)
    """

    system_prompt: str = "Answer the question with the help of the text above."
    """System turn after the documents, for conversations that bring none."""

    @property
    def _llm_type(self) -> str:
        return "ralmspec-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._fingerprint() | {"system_prompt": self.system_prompt}

    def start(self, question: str) -> RetrievalRun:
        """Prepare an answer that can be watched: iterate over it for its text.

        ``invoke`` and ``stream`` do this and wrap it for LangChain.
        """
        return self._run(self.engine, [HumanMessage(question)])

    def _prompt(self, model: Model, asked: Sequence[BaseMessage]) -> Prompt:
        weights, turns = model.weights, turns_of(asked)
        model.require_size(*(turn["content"] for turn in turns))
        before, after = model.template.around(turns, self.system_prompt)
        return Prompt(
            head=tuple(before),
            tail=tuple(after),
            question=tuple(weights.tokenize(question_of(turns))),
        )


class ChatRapid(LongContextGeneration, LocalChat):
    r"""``RapidChain`` behind chat messages.

    The long context is bound to the model, or it is in the messages. Then it is the
    system message, or the longest one of the user's up to its last blank line, behind
    which the question stands; in later turns as in the first, so that the text is not
    read again.

    Example:
        .. code-block:: python

            chat = ChatRapid(model_path="model.gguf", context=long_text)
            chat.invoke("Who wrote it?").text
    """

    context: Any = Field(default=None, repr=False)  # traces show what repr shows
    """The text, ``Document``, sequence of them, or retriever, that is asked about."""

    @property
    def _llm_type(self) -> str:
        return "ralmspec-rapid"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # A cached answer is about one context only.
        context = type(self.context).__name__
        if not isinstance(self.context, BaseRetriever | None):
            context = GivenContext.of(self.context).sha256
        return self._fingerprint() | {"context": context}

    def _uncacheable(self) -> str | None:
        is_found = isinstance(self.context, BaseRetriever)
        return "what a retriever finds as context may change" if is_found else None

    def _answer(
        self,
        asked: list[BaseMessage],
        stop: list[str] | None,
        overrides: dict[str, Any],
    ) -> PreparedAnswer:
        sampling = self._sampling(overrides)
        conversation, context = self._split(turns_of(asked))
        run, sources = self._prepare(conversation, context, stop, sampling)
        return PreparedAnswer(run, partial(_info, run, sources), partial(_usage, run))

    def _split(self, turns: list[dict[str, str]]) -> tuple[Conversation, Any]:
        """Part the long context from the conversation about it."""
        context = self.context
        if context is None:
            context, turns = part(turns)
        question = question_of(turns)
        return Conversation(tuple(turns), self.system_prompt, question), context


def part(turns: Sequence[dict[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """Take the context out of the longest turn that is not the model's own.

    A turn that holds the question too is parted alike while it is the last one and
    once it is history: only then are the context's tokens those whose KV is kept.

    Returns:
        The context, and the turns without it.

    Raises:
        InvalidValueError: there is no other turn, and no blank line, to part it from
            the question.
    """
    given = [at for at, turn in enumerate(turns) if turn["role"] != "assistant"]
    at = max(given, key=lambda at: len(turns[at]["content"]))
    role, content = turns[at]["role"], turns[at]["content"]
    before, after = turns[:at], turns[at + 1 :]
    if role == "system":
        return content, [*before, *after]
    context, question = part_at_last_blank_line(content)
    if not after and not context.strip():
        msg = (
            f"no context in {content[:60]!r}; bind one with context=…, send it "
            "as the system message, or put a blank line between it and the question"
        )
        raise InvalidValueError(msg)
    # What is longer than all before it is no question, but the text itself.
    if after and len(question) > len(context.strip()):
        context, question = content, "(This is the text above.)"
    return context, [*before, {"role": role, "content": question}, *after]


def _info(run: Run[DraftStats], sources: Sources) -> dict[str, Any]:
    """What is told about a finished answer."""
    documents = plain_documents(sources.documents(run.tokens))
    return info_of(run, run.request.target) | {"documents": documents}


def _usage(run: Run[DraftStats]) -> UsageMetadata:
    """Tokens in and out, and those in whose KV was kept from before."""
    read = run.stats.cached_tokens
    return {**usage_of(run), "input_token_details": {"cache_read": read}}
