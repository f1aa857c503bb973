"""Questions about a long context, as a LangChain runnable."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import get_config_list
from langchain_core.runnables.utils import AddableDict
from pydantic import field_validator

from langchain_ralmspec.base.bound import BindableChain
from langchain_ralmspec.base.local import info_of
from langchain_ralmspec.base.long_context import LongContextGeneration, long_usage_of
from langchain_ralmspec.base.messages import messages_of, turns_of
from langchain_ralmspec.base.threads import from_threads, in_thread
from langchain_ralmspec.base.together import as_done, at_once, exhausted, in_order
from langchain_ralmspec.errors import InvalidValueError, UnknownArgumentError
from langchain_ralmspec.rapid import Conversation
from langchain_ralmspec.rapid.prompt import CONTEXT, QUESTION
from langchain_ralmspec.text import is_blank, well_formed

if TYPE_CHECKING:
    from langchain_core.callbacks import CallbackManagerForChainRun

    from langchain_ralmspec.answer.run import Run
    from langchain_ralmspec.rapid import DraftStats

_INPUTS = ("question", "context")
_HISTORY = "history"
_Configs: TypeAlias = RunnableConfig | list[RunnableConfig] | None


class RapidChain(
    LongContextGeneration,
    BindableChain,
    RunnableSerializable[dict[str, Any], dict[str, Any]],
):
    """Answers questions about a long text, and reads the text once.

    The context stands at the head of the prompt, and its KV is kept: the second
    question about it starts at once. Tokens that a drafter proposes are verified
    several at a time, where that is measured to be sooner.

    Example:
        ```python
        chain = RapidChain(model_path="model.gguf", embeddings=embeddings)
        chain.invoke({"question": "Who wrote it?", "context": long_text})["answer"]
        ```
    """

    prompt_template: str | None = None
    """A plain prompt, ``{context}`` first and ``{question}`` behind it; None takes the
    model's chat template, or a plain default where it has none."""

    parse_special: bool = True
    """Whether control tokens that ``prompt_template`` names count as such, as in
    llama.cpp's completion; False reads them as text. In context and question they are
    always text."""

    @field_validator("prompt_template")
    @classmethod
    def _context_first(cls, value: str | None) -> str | None:
        if value is not None:
            before, _, after = value.partition(CONTEXT)
            if CONTEXT not in value or QUESTION in before or QUESTION not in after:
                msg = f"must hold {CONTEXT} and behind it {QUESTION}"
                raise ValueError(msg)
            if (n := value.count(CONTEXT)) > 1:
                msg = (
                    f"{CONTEXT} must stand once in the prompt, got {n} times in "
                    f"{value!r:.80}; the context is read at one place"
                )
                raise ValueError(msg)
        return value

    def invoke(
        self,
        input: dict[str, Any],  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Answer a question.

        Args:
            input: ``question``, a string, and ``context``: a string, a ``Document``,
                a sequence of these, or a retriever that finds them; and, if need be,
                ``history``, the conversation so far: messages, or ``(role, text)``
                tuples.
            config: callbacks, tags and the like.
            kwargs: ``stop``, or a setting of ``Sampling`` for this call.

        Returns:
            ``answer``; ``source_documents``, parts of the context's documents with
            their metadata, ``start_index`` and ``end_index``: what was retrieved for
            the question, or without ``embeddings`` what a retriever found as context,
            or what the answer quotes; and ``speculation``, counts and seconds
            (``DraftStats``).

        Raises:
            ContextOverflowError: context, question and answer do not fit ``n_ctx``.
            InvalidValueError: question or context is missing or empty.
            UnknownArgumentError: the input, or the call, has something else.
        """
        return exhausted(self._whole(self.stream(input, config, **kwargs)))

    def _whole(
        self, parts: Generator[dict[str, Any]]
    ) -> Generator[object, None, dict[str, Any]]:
        """Pass the parts of an answer on; the whole of it is returned behind them."""
        answer = AddableDict(answer="")
        for part in parts:
            answer = answer + AddableDict(part)
            yield part
        return answer

    def stream(
        self,
        input: dict[str, Any],  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Generator[dict[str, Any]]:
        """Answer in pieces: sources, text, counts; quotes are known behind the text."""
        yield from self._transform_stream_with_config(
            iter([input]), self._answer, config, **kwargs
        )

    def batch(
        self,
        inputs: list[dict[str, Any]],
        config: _Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Answer several questions, as many at once as the model decodes together.

        That is one after the other where they would take turns; ``max_concurrency`` of
        the config bounds it. With ``return_exceptions``, the places of those that fail
        are exceptions.
        """
        works, n_at_once = self._works(inputs, config, return_exceptions, kwargs)
        return in_order(works, n_at_once)

    async def abatch(
        self,
        inputs: list[dict[str, Any]],
        config: _Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Do what ``batch`` does, beside other tasks."""
        words = {"return_exceptions": return_exceptions, **kwargs}
        work = partial(self.batch, inputs, config, **words)
        return await in_thread(work, may_wait=self._may_wait)

    def batch_as_completed(  # type: ignore[override]  # LangChain's overloads say no more
        self,
        inputs: Sequence[dict[str, Any]],
        config: _Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Generator[tuple[int, Any]]:
        """Do what ``batch`` does; give each answer with its place, once it is there."""
        yield from as_done(*self._works(inputs, config, return_exceptions, kwargs))

    def abatch_as_completed(  # type: ignore[override]
        self,
        inputs: Sequence[dict[str, Any]],
        config: _Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, Any]]:
        """Do what ``batch_as_completed`` does, beside other tasks."""
        words = {"return_exceptions": return_exceptions, **kwargs}
        pieces = self.batch_as_completed(inputs, config, **words)
        return from_threads(pieces, may_wait=self._may_wait)

    def _works(
        self,
        inputs: Sequence[dict[str, Any]],
        config: _Configs,
        return_exceptions: bool,  # noqa: FBT001  as it was given
        kwargs: dict[str, Any],
    ) -> tuple[list[Callable[[], Any]], int]:
        """What answers each question of a batch, and how many to answer at once."""

        def answered(one: dict[str, Any], own: RunnableConfig) -> Any:
            try:
                return self.invoke(one, own, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        configs = get_config_list(config, len(inputs))
        works: list[Callable[[], Any]] = [
            partial(answered, *each) for each in zip(inputs, configs, strict=True)
        ]
        return works, at_once(configs, self._n_together)

    async def ainvoke(
        self,
        input: dict[str, Any],  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Do what ``invoke`` does, beside other tasks; it stops when cancelled."""
        answer = AddableDict(answer="")
        async for part in self.astream(input, config, **kwargs):
            answer = answer + AddableDict(part)
        return answer

    def astream(
        self,
        input: dict[str, Any],  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[dict[str, Any]]:
        """Do what ``stream`` does, in a thread."""
        pieces = self.stream(input, config, **kwargs)
        return from_threads(pieces, may_wait=self._may_wait)

    def preload(self, context: Any) -> int:
        """Read a context ahead of the first question about it.

        Args:
            context: a string, a ``Document``, or a sequence of these.

        Returns:
            Its number of tokens.

        Raises:
            ContextOverflowError: it does not fit.
            InvalidValueError: it is empty, or no text.
        """
        return self._preload(self._asking("?"), context)

    def start(self, question: str, context: Any) -> Run[DraftStats]:
        """Prepare an answer that can be watched: iterate over it for its text.

        ``invoke`` and ``stream`` do this and wrap it for LangChain.

        Args:
            question: a string.
            context: as in ``invoke``.

        Returns:
            The answer, not yet begun. Iterated over, it has ``tokens`` and ``stats``.

        Raises:
            ContextOverflowError: context, question and answer do not fit ``n_ctx``.
            InvalidValueError: question or context is empty, or no text.
        """
        conversation = self._asking(question)
        return self._prepare(conversation, context, None, self._sampling({}))[0]

    def _asking(self, question: Any, history: Any = ()) -> Conversation:
        if not isinstance(question, str):
            msg = f"the question must be a string, got {question!r:.80}"
            raise InvalidValueError(msg)
        if is_blank(question):
            msg = f"the question is empty, got {question!r:.60}; ask something"
            raise InvalidValueError(msg)
        told = messages_of(history)
        if told and self.prompt_template is not None:
            msg = (
                f"prompt_template={self.prompt_template!r:.60} has no place for a "
                "history; leave it out for the model's chat template, or put the "
                "history into the question"
            )
            raise InvalidValueError(msg)
        question = well_formed(question)
        return Conversation(
            tuple(turns_of([*told, HumanMessage(question)])),
            self.system_prompt,
            question,
            self.prompt_template,
            self.parse_special,
        )

    def _answer(
        self,
        inputs: Iterator[dict[str, Any]],
        run_manager: CallbackManagerForChainRun,
        *,
        stop: list[str] | None = None,
        **overrides: Any,
    ) -> Iterator[AddableDict]:
        question, context, history = _checked(next(inputs))
        conversation = self._asking(question, history)
        sampling = self._sampling(overrides)
        listeners = run_manager.get_child("retrieve")
        run, sources = self._prepare(
            conversation, context, stop, sampling, listeners=listeners
        )
        if sources.are_known:
            yield AddableDict(source_documents=sources.documents())
        for text in self._generated(run, question, run_manager):
            yield AddableDict(answer=text)
        if not sources.are_known:
            yield AddableDict(source_documents=sources.documents(run.tokens))
        yield AddableDict(speculation=run.stats.as_dict())

    def _generated(
        self,
        run: Run[DraftStats],
        question: str,
        run_manager: CallbackManagerForChainRun,
    ) -> Iterator[str]:
        """The answer's text, as a run of its own in traces."""
        name, child = "RapidLLM", run_manager.get_child("generate")
        child.add_metadata({**self._tracing_params(), "ls_model_type": "llm"})
        (trace,) = child.on_llm_start(
            {"name": name}, [question], name=name, invocation_params={}
        )
        text = ""
        try:
            for piece in run:
                trace.on_llm_new_token(piece)
                text += piece
                yield piece
        except BaseException as error:
            trace.on_llm_error(error)
            raise
        # A message, where all who count look for what an answer has used.
        info, usage = info_of(run, run.request.target), long_usage_of(run)
        message = AIMessage(text, response_metadata=info, usage_metadata=usage)
        generation = ChatGeneration(message=message, generation_info=info)
        output = {"model_name": info["model_name"], "token_usage": dict(usage)}
        trace.on_llm_end(LLMResult(generations=[[generation]], llm_output=output))


def _checked(inputs: Any) -> tuple[Any, Any, Any]:
    """Question, context and history of what a user has passed."""
    if not isinstance(inputs, dict):
        msg = f"give a dict with 'question' and 'context', got {type(inputs).__name__}"
        raise InvalidValueError(msg)
    for name in inputs:
        known = (*_INPUTS, _HISTORY)
        if name not in known:
            raise UnknownArgumentError.of("RapidChain's input", str(name), known)
    for name in _INPUTS:
        if name not in inputs:
            msg = f"the input has no {name!r}; it has {sorted(inputs)}"
            raise InvalidValueError(msg)
    return inputs["question"], inputs["context"], inputs.get(_HISTORY, ())
