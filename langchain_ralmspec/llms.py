"""Text completion with retrieval inside the generation, and by a kNN-LM."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import Field, PrivateAttr, field_validator, model_validator

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.base.local import LocalGeneration, stops_of
from langchain_ralmspec.base.retrieval import RetrievalGeneration
from langchain_ralmspec.engine import Model, selftest
from langchain_ralmspec.errors import ContextOverflowError, InvalidValueError
from langchain_ralmspec.knnlm import (
    KNNDatastore,
    Mixture,
    NeighbourRequest,
    generate,
)
from langchain_ralmspec.ralm import Prompt
from langchain_ralmspec.speculation import Estimates, StrideScheduler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.callbacks import CallbackManagerForLLMRun

    from langchain_ralmspec.ralm.run import RetrievalRun


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

    def start(self, prompt: str) -> RetrievalRun:
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


DISTANCES_PER_TEMPERATURE = 5.0
"""Typical distances of a key to its nearest in a temperature T, by default."""


class KNNLMSpecLLM(LocalGeneration, BaseLLM):
    r"""A local model that is advised, at every token, by a datastore of texts.

    p = λ·p_kNN + (1 - λ)·p_LM (arXiv 1911.00172). With ``speculation=True`` the text
    is the same as with False, token by token, sooner (RaLMSpec section 5.4).

    Example:
        .. code-block:: python

            store = KNNDatastore.build(texts, model_path="model.gguf", path="folder")
            llm = KNNLMSpecLLM(model_path="model.gguf", datastore=store, k=16)
            llm.invoke("The castle was built in")
    """

    datastore: Any = Field(repr=False)
    """A ``KNNDatastore`` that this model made, or its folder."""
    k: int = Field(default=16, ge=1)
    """Neighbours that vote for the next token."""
    interpolation: float = Field(default=0.25, ge=0, le=1)
    """λ, the share of the neighbours in the next token's probability."""
    knn_temperature: float | None = Field(default=None, gt=0)
    """T, in squared distances: a neighbour further than the nearest by T has a vote
    e times smaller. None takes a fifth of the datastore's typical distance between
    a key and the nearest of another place."""

    n_ctx: int = Field(default=2048, ge=0)
    """Tokens of prompt and text together; 0 takes the model's own."""
    n_batch: int = Field(default=512, ge=1)
    """Tokens that are decoded in one call at most."""
    n_threads: int | None = Field(default=None, ge=1)
    """Threads of a decode; None: half the cores for single tokens, all for batches."""
    n_gpu_layers: int = 0
    """Layers on a GPU; -1 for all."""
    stop: list[str] | None = None
    """Strings that end the text; they are not part of it."""

    speculation: bool = True
    """False is the per-token loop: the same text, a search a token."""
    speculation_stride: int | Literal["auto"] = "auto"
    """Tokens guessed before a search; ``"auto"`` chooses by what is measured, and
    speculates only where that is sooner. Guesses come from probing the datastore: where
    it cannot be probed (an approximate index, fewer than 20,000 entries, or no
    ``faiss``), any value runs token by token."""

    # Models are shared for as long as somebody holds them: this does.
    _engine: Model | None = PrivateAttr(default=None)
    # What tokens cost, for the plans of the next texts.
    _estimates: Estimates = PrivateAttr(default_factory=Estimates)

    @field_validator("datastore")
    @classmethod
    def _open_datastore(cls, value: Any) -> KNNDatastore:
        return value if isinstance(value, KNNDatastore) else KNNDatastore.load(value)

    @field_validator("speculation_stride")
    @classmethod
    def _usable_stride(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            msg = "must be at least 1, or 'auto'"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _check_neighbours(self) -> Self:
        self.datastore.require(self.k)
        return self

    @property
    def _llm_type(self) -> str:
        return "ralmspec-knnlm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = set(type(self).model_fields) - set(BaseLLM.model_fields) - {"datastore"}
        settings = {name: getattr(self, name) for name in sorted(names)}
        store = self.datastore
        return settings | {
            "datastore": store.id,
            "entries": len(store),
            "index": store.index_kind,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        # The file's name as given: params are asked for before anything is loaded.
        return super()._get_ls_params(stop=stop, **kwargs) | self._tracing_params()

    @property
    def engine(self) -> Model:
        """The model, loaded on first use and shared by the whole process.

        Raises:
            DatastoreError: the datastore was made by another model.
        """
        model = Model.load(
            self.model_path,
            n_ctx=self.n_ctx,
            n_batch=self.n_batch,
            n_threads=self.n_threads,
            n_gpu_layers=self.n_gpu_layers,
        )
        if model is not self._engine:
            self.datastore.require_model(model)
            self._engine = model
        return model

    @property
    def mixture(self) -> Mixture:
        """How neighbours and the model are mixed."""
        temperature = self.knn_temperature
        if temperature is None:
            temperature = self.datastore.typical_distance / DISTANCES_PER_TEMPERATURE
        return Mixture(self.interpolation, temperature)

    def start(self, prompt: str) -> Run[SpeculationStats]:
        """Prepare a text that can be watched: iterate over it.

        ``invoke`` and ``stream`` do this and wrap it for LangChain.
        """
        return self._run(prompt, None, {})

    def _run(
        self, prompt: str, stop: Sequence[str] | None, overrides: dict[str, Any]
    ) -> Run[SpeculationStats]:
        """Prepare to continue ``prompt``.

        Raises:
            ContextOverflowError: prompt and text do not fit the context.
            InvalidValueError: the prompt is empty.
            UnknownArgumentError: an override that does not exist.
        """
        sampling = self._sampling(overrides)
        model = self.engine
        tokens = self._prompt(prompt)
        if len(tokens) + sampling.max_tokens > model.n_ctx:
            msg = (
                f"the prompt's {len(tokens)} tokens and max_tokens="
                f"{sampling.max_tokens} do not fit n_ctx={model.n_ctx}; raise n_ctx or "
                "lower max_tokens"
            )
            raise ContextOverflowError(msg)
        stops = [*stops_of(self.stop), *stops_of(stop)]
        transcript = Transcript(
            model.weights, max_tokens=sampling.max_tokens, stops=stops
        )
        stats = SpeculationStats(prompt_tokens=len(tokens))
        request = NeighbourRequest(
            prompt=tokens,
            open_path=model.open,
            datastore=self.datastore,
            k=self.k,
            mixture=self.mixture,
            transcript=transcript,
            sampler=sampling.sampler(),
            stats=stats,
        )
        events = generate(request, self._scheduler(model))
        return Run(events, request)

    def _prompt(self, text: str) -> tuple[int, ...]:
        if not text:
            msg = "the prompt is empty; give the text to be continued"
            raise InvalidValueError(msg)
        weights = self.engine.weights
        head = [weights.bos] if weights.adds_bos else []
        return (*head, *weights.tokenize(text))

    def _scheduler(self, model: Model) -> StrideScheduler | None:
        if not self.speculation:
            return None
        if not selftest.is_repeatable(model):
            warnings.warn(
                "decoding is not repeatable bit for bit with these settings, so the "
                "text could change under speculation: running token by token "
                "(n_gpu_layers=0 usually helps)",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        stride = self.speculation_stride
        return StrideScheduler(
            self._estimates,
            policies=("lookup",),
            stride=None if stride == "auto" else stride,
            asynchronous=False,
        )

    def _info(self, run: Run[SpeculationStats]) -> dict[str, Any]:
        """What is told about a finished text."""
        n_input = run.stats.prompt_tokens
        return {
            "finish_reason": run.finish_reason,
            "model_name": self.engine.path.stem,
            "speculation": run.stats.as_dict(),
            "usage_metadata": {
                "input_tokens": n_input,
                "output_tokens": len(run.tokens),
                "total_tokens": n_input + len(run.tokens),
            },
        }

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        # All are prepared, and refused if need be, before the first one runs.
        runs = [self._run(prompt, stop, kwargs) for prompt in prompts]
        generations: list[list[Any]] = []  # LLMResult's union is invariant
        usage = Counter[str]()
        for run in runs:
            text = "".join(run)
            info = self._info(run)
            usage.update(info["usage_metadata"])
            generations.append([Generation(text=text, generation_info=info)])
        output = {"model_name": self.engine.path.stem, "token_usage": dict(usage)}
        return LLMResult(generations=generations, llm_output=output)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        run = self._run(prompt, stop, kwargs)
        for text in run:
            chunk = GenerationChunk(text=text)
            if run_manager:
                run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk
        yield GenerationChunk(text="", generation_info=self._info(run))
