"""What the completion models share: an answer becomes LangChain's generations."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables.config import get_config_list

from langchain_ralmspec.base.local import LocalGeneration, PreparedAnswer
from langchain_ralmspec.base.threads import from_threads
from langchain_ralmspec.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.runnables import RunnableConfig


class LocalCompletion(LocalGeneration, BaseLLM):
    """A completion model; a subclass prepares the answers."""

    parse_special: bool = True
    """Whether control tokens that a prompt names count as such, as in llama.cpp's
    completion; False reads them as text. In documents they are always text."""

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of the tokens that the model reads where ``text`` is its prompt."""
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
        """Answer several prompts, one after the other: there is one model.

        All are refused where one is, before any is answered; with
        ``return_exceptions``, only the places of those that fail are exceptions.
        """
        if not return_exceptions:
            return super().batch(inputs, config, **kwargs)
        # LangChain's own would put the exception of one into the places of all.
        alone: Any = partial(super().batch, return_exceptions=True, **kwargs)
        configs = get_config_list(config, len(inputs))
        pairs = zip(inputs, configs, strict=True)
        return [answer for one, own in pairs for answer in alone([one], [own])]

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Do what ``batch`` does, beside other tasks."""
        if not return_exceptions:
            return await super().abatch(inputs, config, **kwargs)
        alone: Any = partial(super().abatch, return_exceptions=True, **kwargs)
        configs = get_config_list(config, len(inputs))
        pairs = zip(inputs, configs, strict=True)
        return [answer for one, own in pairs for answer in await alone([one], [own])]

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return super()._get_ls_params(stop=stop, **kwargs) | self._tracing_params()

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
        async for _ in from_threads(self._written(generations, prompts, stop, kwargs)):
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
        for answer in [self._answer(prompt, stop, overrides) for prompt in prompts]:
            text = ""
            for piece in answer.text:
                text += piece
                yield piece
            info = _info(answer)
            generations.append(Generation(text=text, generation_info=info))

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
        manager = run_manager.get_sync() if run_manager else None
        return from_threads(self._stream(prompt, stop, manager, **kwargs))

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Generator[GenerationChunk]:
        answer = self._answer(prompt, stop, kwargs)
        for text in answer.text:
            chunk = GenerationChunk(text=text)
            if run_manager:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
        yield GenerationChunk(text="", generation_info=_info(answer))


def require_text(prompt: object) -> None:
    """Raise an ``InvalidValueError`` for a prompt that is no string."""
    if not isinstance(prompt, str):
        msg = f"the prompt must be a string, got {prompt!r:.80}"
        raise InvalidValueError(msg)


def _info(answer: PreparedAnswer) -> dict[str, Any]:
    """What is told about a finished answer."""
    return answer.metadata() | {"usage_metadata": answer.usage()}
