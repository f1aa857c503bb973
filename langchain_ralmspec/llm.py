"""Text completion with retrieval inside the generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from langchain_ralmspec.generation import RetrievalGeneration
from langchain_ralmspec.ralm import Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.callbacks import CallbackManagerForLLMRun

    from langchain_ralmspec.ralm.run import Run


class RaLMSpecLLM(RetrievalGeneration, BaseLLM):
    r"""A local model that looks documents up while it writes, and does not wait.

    Every ``retrieval_stride`` tokens the best document for what was just written
    takes its place in front of the prompt. With ``speculation=True`` the answer and
    its documents are the same as with False, sooner.

    Example:
        .. code-block:: python

            llm = RaLMSpecLLM(model_path="model.gguf", retriever=store, max_tokens=128)
            llm.invoke("Question: who wrote Moby Dick?\nAnswer:")
    """

    @property
    def _llm_type(self) -> str:
        return "ralmspec"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._fingerprint()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        # The file's name as given: params are asked for before anything is loaded.
        return super()._get_ls_params(stop=stop, **kwargs) | self._tracing_params()

    def start(self, prompt: str) -> Run:
        """Prepare an answer that can be watched: iterate over it for its text.

        ``invoke`` and ``stream`` do this and wrap it for LangChain.
        """
        return self._run(self._prompt(prompt), None, {})

    def _prompt(self, text: str) -> Prompt:
        weights = self.engine.weights
        question = tuple(weights.tokenize(text))
        head = (weights.bos,) if weights.adds_bos else ()
        return Prompt(head=head, tail=question, question=question)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        generations: list[list[Any]] = []  # LLMResult's union is invariant
        usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        # All are prepared, and refused if need be, before the first one runs.
        parsed = [self._prompt(text) for text in prompts]
        runs = [self._run(prompt, stop, kwargs) for prompt in parsed]
        for prompt, run in zip(parsed, runs, strict=True):
            answer = "".join(run)
            info = self._info(run) | {"usage_metadata": self._usage(prompt, run)}
            usage = {
                name: n + info["usage_metadata"][name] for name, n in usage.items()
            }
            generations.append([Generation(text=answer, generation_info=info)])
        output = {"model_name": self.engine.path.stem, "token_usage": usage}
        return LLMResult(generations=generations, llm_output=output)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        parsed = self._prompt(prompt)
        run = self._run(parsed, stop, kwargs)
        for text in run:
            chunk = GenerationChunk(text=text)
            if run_manager:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
        info = self._info(run) | {"usage_metadata": self._usage(parsed, run)}
        yield GenerationChunk(text="", generation_info=info)
