"""What the completion models share: an answer becomes LangChain's generations."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables.config import get_config_list, run_in_executor

from langchain_ralmspec.arguments import require_text
from langchain_ralmspec.base.bound import BindableCompletion
from langchain_ralmspec.base.cache_keys import cacheable, is_cached
from langchain_ralmspec.base.local import LocalGeneration, PreparedAnswer
from langchain_ralmspec.base.messages import prompt_of
from langchain_ralmspec.base.threads import from_threads
from langchain_ralmspec.base.together import (
    at_once,
    awaited_in_order,
    exhausted,
    in_order,
)
from langchain_ralmspec.base.tracing import (
    ModelRun,
    in_sync,
    run_begun,
    runs_of_answers,
)
from langchain_ralmspec.stores.configuring import configured_by, configured_in

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.prompt_values import PromptValue
    from langchain_core.runnables import RunnableConfig


_OF_TRACES = frozenset({"callbacks", "tags", "metadata", "run_name", "run_id"})
"""Arguments of ``generate`` that change no answer."""

_called: ContextVar[dict[str, Any]] = ContextVar("arguments of a call", default={})  # noqa: B039  never changed


class LocalCompletion(LocalGeneration, BindableCompletion, BaseLLM):
    """A completion model; a subclass prepares the answers."""

    streaming: bool = False
    """Whether ``invoke`` calls back with every piece of text, as ``stream`` does."""
    parse_special: bool = True
    """Whether control tokens that a prompt names count as such, as in llama.cpp's
    completion; False reads them as text. In documents they are always text."""

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of the tokens that the model reads where ``text`` is its prompt.

        Or those of ``custom_get_token_ids``.
        """
        if self.custom_get_token_ids is not None:
            return super().get_token_ids(text)
        require_text("the text", text)
        weights, special = self.engine.weights, self.parse_special
        start, rest = weights.tokenize_prompt(text, special=special)
        return [*start, *rest]

    @abstractmethod
    def _answer(
        self, asked: str, stop: list[str] | None, overrides: dict[str, Any]
    ) -> PreparedAnswer:
        """Prepare an answer to a prompt."""

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Answer several prompts, as many at once as the model decodes together.

        That is one after the other where they would take turns; ``max_concurrency`` of
        the config bounds it. All are refused where one is, before any is answered,
        unless a config bounds how many are asked at once, or says what one is answered
        from; with ``return_exceptions``, only the places of those that fail are
        exceptions.
        """
        configs = get_config_list(config, len(inputs))
        if not (return_exceptions or any(map(configured_in, configs))):
            return super().batch(inputs, config, **kwargs)
        # LangChain's own would put the exception of one into the places of all.
        alone: Any = partial(
            super().batch, return_exceptions=return_exceptions, **kwargs
        )

        def answered(one: LanguageModelInput, own: RunnableConfig) -> Any:
            with configured_by(own):
                return alone([one], [own])[0]

        works = list(map(partial(partial, answered), inputs, configs))
        return in_order(works, at_once(configs, self._n_together))

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Do what ``batch`` does, beside other tasks."""
        configs = get_config_list(config, len(inputs))
        if not (return_exceptions or any(map(configured_in, configs))):
            return await super().abatch(inputs, config, **kwargs)
        alone: Any = partial(
            super().abatch, return_exceptions=return_exceptions, **kwargs
        )

        async def answered(one: LanguageModelInput, own: RunnableConfig) -> Any:
            with configured_by(own):
                return (await alone([one], [own]))[0]

        works = list(map(partial(partial, answered), inputs, configs))
        n_at_once = await run_in_executor(None, at_once, configs, self._n_together)
        return await awaited_in_order(works, n_at_once)

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> str:
        """Complete a prompt; LangChain's own, which keeps what the call configures."""
        with configured_by(config):
            return super().invoke(input, config, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> str:
        """Do what ``invoke`` does, in a thread."""
        with configured_by(config):
            return await super().ainvoke(input, config, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[str]:
        """Complete a prompt in pieces."""
        pieces = super().stream(input, config, **kwargs)
        with configured_by(config):
            first = next(pieces)
        yield first
        yield from pieces

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002  LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """Do what ``stream`` does, in a thread."""
        pieces: Any = super().astream(input, config, **kwargs)
        async with aclosing(pieces):
            with configured_by(config):
                first = await anext(pieces)
            yield first
            async for piece in pieces:
                yield piece

    def _convert_input(self, model_input: Any) -> PromptValue:
        return prompt_of(super()._convert_input, model_input)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return super()._get_ls_params(stop=stop, **kwargs) | self._tracing_params()

    def generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        """Answer prompts, or serve what a cache has; see LangChain's ``generate``."""
        with self._called_with(kwargs):
            return super().generate(prompts, *args, **kwargs)

    async def agenerate(
        self, prompts: list[str], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Do what ``generate`` does, beside other tasks."""
        with self._called_with(kwargs):
            return await super().agenerate(prompts, *args, **kwargs)

    @contextmanager
    def _called_with(self, arguments: dict[str, Any]) -> Iterator[None]:
        """Have a cache tell answers of such a call from others; LangChain does not.

        Raises as ``cacheable`` does.
        """
        given = {k: v for k, v in arguments.items() if v is not None}
        told = {k: v for k, v in given.items() if k not in _OF_TRACES}
        before = _called.set(cacheable(told) if is_cached(self) else {})
        try:
            yield
        finally:
            _called.reset(before)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        called = _called.get()
        return self._settings() | ({"arguments": called} if called else {})

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What tells this model, and what it answers from, from others."""

    def _generate_helper(
        self,
        prompts: list[str],
        stop: list[str] | None,
        run_managers: list[CallbackManagerForLLMRun],
        **kwargs: Any,
    ) -> LLMResult:
        with runs_of_answers(*run_managers):
            return super()._generate_helper(prompts, stop, run_managers, **kwargs)

    async def _agenerate_helper(
        self,
        prompts: list[str],
        stop: list[str] | None,
        run_managers: list[AsyncCallbackManagerForLLMRun],
        **kwargs: Any,
    ) -> LLMResult:
        with runs_of_answers(*map(in_sync, run_managers)):
            return await super()._agenerate_helper(
                prompts, stop, run_managers, **kwargs
            )

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        generations: list[Generation] = []
        for _ in self._written(generations, prompts, stop, kwargs):
            pass
        return self._result(generations)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        generations: list[Generation] = []
        pieces = self._written(generations, prompts, stop, kwargs)
        async for _ in from_threads(pieces, may_wait=self._may_wait):
            pass
        return self._result(generations)

    def _written(
        self,
        generations: list[Generation],
        prompts: list[str],
        stop: list[str] | None,
        overrides: dict[str, Any],
    ) -> Generator[str]:
        """Write answers, piece by piece, and put those that are finished into a list.

        All are prepared, and refused if need be, before the first one runs.
        """
        answers = [self._answer(prompt, stop, overrides) for prompt in prompts]
        n_at_once = 1 if len(answers) == 1 else self._n_together(len(answers))
        writing = [
            self._generation(answer, run_begun(number))
            for number, answer in enumerate(answers)
        ]
        if n_at_once > 1:
            works = [partial(exhausted, pieces) for pieces in writing]
            generations += in_order(works, n_at_once)
            return
        for pieces in writing:
            generations.append((yield from pieces))

    def _generation(
        self, answer: PreparedAnswer, run: ModelRun
    ) -> Generator[str, None, Generation]:
        """Write an answer, piece by piece; it is returned behind them."""
        text, info = "", None
        for chunk in self._chunks(answer, run, tells=self.streaming):
            text += chunk.text
            yield chunk.text
            info = chunk.generation_info
        return Generation(text=text, generation_info=info)

    def _result(self, generations: list[Generation]) -> LLMResult:
        usage = Counter[str]()
        for generation in generations:
            usage.update((generation.generation_info or {})["usage_metadata"])
        output = {"model_name": Path(self.model_path).stem, "token_usage": dict(usage)}
        return LLMResult(generations=[[one] for one in generations], llm_output=output)

    def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[GenerationChunk]:
        manager = in_sync(run_manager)
        pieces = self._stream(prompt, stop, manager, **kwargs)
        return from_threads(pieces, may_wait=self._may_wait)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Generator[GenerationChunk]:
        answer = self._answer(prompt, stop, kwargs)
        yield from self._chunks(answer, run_manager, tells=True)

    def _chunks(
        self, answer: PreparedAnswer, run: ModelRun, *, tells: bool
    ) -> Generator[GenerationChunk]:
        """An answer piece by piece, and then what is told about it.

        Its run is told of what is looked up, and of the pieces if it ``tells``.
        """
        answer.trace(run)
        said = ""
        for text in answer.text:
            chunk = GenerationChunk(text=text)
            if run and tells:
                run.on_llm_new_token(text, chunk=chunk)
            said += text
            yield chunk
        told = answer.metadata() | {"usage_metadata": answer.usage()}
        if answer.citations is not None:
            told["citations"] = answer.citations(said)
        yield GenerationChunk(text="", generation_info=told)
