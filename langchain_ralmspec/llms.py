"""Text completion with retrieval inside the generation, and by a kNN-LM."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.language_models.llms import BaseLLM
from pydantic import Field, field_validator, model_validator

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.arguments import require_text
from langchain_ralmspec.base.completion import LocalCompletion
from langchain_ralmspec.base.local import PreparedAnswer, info_of, usage_of
from langchain_ralmspec.base.retrieval import RetrievalGeneration
from langchain_ralmspec.base.speculation import SpeculativeGeneration
from langchain_ralmspec.errors import ContextOverflowError, InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore, Mixture, NeighbourRequest, generate
from langchain_ralmspec.ralm import Prompt
from langchain_ralmspec.text import is_blank, well_formed

if TYPE_CHECKING:
    from langchain_ralmspec.base.call_settings import CallSettings
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.ralm.run import RetrievalRun


class RaLMSpecLLM(RetrievalGeneration, LocalCompletion):
    r"""A local model that looks documents up while it writes, and does not wait.

    Every ``retrieval_stride`` tokens the best document for what was just written
    takes its place in front of the prompt. With ``speculation=True`` the answer and
    its documents are the same as with False, sooner.

    Example:
        ```python
        llm = RaLMSpecLLM(model_path="model.gguf", retriever=store, max_tokens=128)
        llm.invoke("Question: who wrote Moby Dick?\nAnswer:")
        ```
    """

    @property
    def _llm_type(self) -> str:
        return "ralmspec"

    def _settings(self) -> dict[str, Any]:
        return self._fingerprint() | {"parse_special": self.parse_special}

    def start(self, prompt: str) -> RetrievalRun:
        """Prepare an answer that can be watched: iterate over it for its text.

        ``invoke`` and ``stream`` do this and wrap it for LangChain.

        Args:
            prompt: what stands behind the documents.

        Returns:
            The answer, not yet begun. Iterated over, it has ``tokens``, ``steps``,
            ``documents`` and ``stats``.

        Raises:
            ContextOverflowError: the longest possible answer does not fit ``n_ctx``.
            InvalidValueError: the prompt is blank, or no string.
        """
        model, (retriever, _) = self.engine, self._restricted_by({})
        asked = self._prompt(model, prompt)
        return self._run(model, asked, self._sampling({}), retriever=retriever)

    def _asked(self, question: str) -> str:
        return question

    def _prompt(self, model: Model, asked: str) -> Prompt:
        require_text("the prompt", asked)
        model.require_size(asked := well_formed(asked))
        head, question = model.weights.tokenize_prompt(
            asked, special=self.parse_special
        )
        tail, text = tuple(question), self._question(asked, asked)
        if text != asked:
            question = model.weights.tokenize(text)
        elif not model.weights.controls.isdisjoint(question):  # are no words to look up
            pieces = b"".join(map(model.weights.piece, question))
            text = pieces.decode("utf-8", "ignore").strip()
        if is_blank(text):
            msg = f"the prompt is empty: there are no words to look up in {asked!r:.60}"
            raise InvalidValueError(msg)
        return Prompt(head, tail, tuple(question), text)


DISTANCES_PER_TEMPERATURE = 5.0
"""Typical distances of a key to its nearest in a temperature T, by default."""


class KNNLMSpecLLM(SpeculativeGeneration, LocalCompletion):
    r"""A local model that is advised, at every token, by a datastore of texts.

    p = λ·p_kNN + (1 - λ)·p_LM (arXiv 1911.00172). With ``speculation=True`` the text
    is the same as with False, token by token, sooner (RaLMSpec section 5.4).

    Example:
        ```python
        store = KNNDatastore.build(texts, model_path="model.gguf", path="folder")
        llm = KNNLMSpecLLM(model_path="model.gguf", datastore=store, k=16)
        llm.invoke("The castle was built in")
        ```
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
    speculation_stride: int | Literal["auto"] = "auto"
    """Tokens guessed before a search; ``"auto"`` chooses by what is measured, and
    speculates only where that is sooner. Guesses come from probing the datastore: where
    it cannot be probed (an approximate index, fewer than 20,000 entries, or no
    ``faiss``), any value runs token by token."""

    @field_validator("datastore")
    @classmethod
    def _open_datastore(cls, value: Any) -> KNNDatastore:
        return value if isinstance(value, KNNDatastore) else KNNDatastore.load(value)

    @model_validator(mode="after")
    def _check_neighbours(self) -> Self:
        self.datastore.require(self.k)
        return self

    @model_validator(mode="after")
    def _keep_positions(self) -> Self:
        for name in ("rope_freq_base", "rope_freq_scale"):
            if value := getattr(self, name):
                msg = (
                    f"{name}={value} would give other hidden states than the "
                    "datastore's, which were made at the model's own positions; leave "
                    "it out"
                )
                raise ValueError(msg)
        return self

    @property
    def _llm_type(self) -> str:
        return "ralmspec-knnlm"

    def _settings(self) -> dict[str, Any]:
        store, names = self.datastore, type(self).model_fields
        hidden = ("datastore", "streaming", *BaseLLM.model_fields)
        settings = self._values_of(names, *hidden)
        return settings | {
            "datastore": store.id,
            "entries": len(store),
            "index": store.index_kind,
        }

    def _accept(self, model: Model) -> None:
        super()._accept(model)
        store = self.datastore
        store.require_model(model)
        if self.speculation and store.is_worth_probing and not store.can_probe:
            warnings.warn(
                "guesses come from probing the datastore with faiss, which is not "
                "installed: running token by token "
                "(pip install 'langchain-ralmspec[faiss]')",
                RuntimeWarning,
                stacklevel=2,
            )

    def warm_up(self) -> None:
        """Load all that the first text would load, and make the datastore's indexes."""
        super().warm_up()
        self._may_speculate(self.engine, instead="token by token")
        self.datastore.prepare()

    def _n_together(self, n: int) -> int:
        # Keys are hidden states, which llama.cpp gives of one sequence a call: answers
        # take turns.
        return 1

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

        Args:
            prompt: the text to be continued.

        Returns:
            The text, not yet begun. Iterated over, it has ``tokens`` and ``stats``.

        Raises:
            ContextOverflowError: prompt and text do not fit ``n_ctx``.
            InvalidValueError: the prompt is empty, or no string.
        """
        return self._run(self._sampling({}), self.engine, prompt, None)

    def _answer(
        self, asked: str, stop: list[str] | None, overrides: dict[str, Any]
    ) -> PreparedAnswer:
        sampling, model = self._sampling(overrides), self.engine
        run = self._run(sampling, model, asked, stop)
        info, usage = partial(info_of, run, model), partial(usage_of, run)
        return PreparedAnswer(run, info, usage)

    def _run(
        self, sampling: CallSettings, model: Model, prompt: str, stop: list[str] | None
    ) -> Run[SpeculationStats]:
        """Prepare to continue ``prompt``.

        Raises:
            ContextOverflowError: prompt and text do not fit the context.
            InvalidValueError: the prompt is empty, or no string.
        """
        require_text("the prompt", prompt)
        if not prompt:
            msg = "the prompt is empty; give the text to be continued"
            raise InvalidValueError(msg)
        model.require_size(prompt)
        start, rest = model.weights.tokenize_prompt(prompt, special=self.parse_special)
        tokens = (*start, *rest)
        if len(tokens) + sampling.max_tokens > model.n_ctx:
            msg = (
                f"the prompt's {len(tokens)} tokens and max_tokens="
                f"{sampling.max_tokens} do not fit n_ctx={model.n_ctx}; raise n_ctx or "
                "lower max_tokens"
            )
            raise ContextOverflowError(msg)
        stats = SpeculationStats(prompt_tokens=len(tokens))

        def open_path(prefix: tuple[int, ...]) -> Any:
            with stats.laying_out("reading"):
                path, stats.cached_tokens = model.find_or_open(
                    prefix, namespace=sampling.kv_namespace
                )
            stats.read_tokens = len(prefix) - stats.cached_tokens
            return path

        transcript, sampler = self._written_by(model, sampling, stop)
        request = NeighbourRequest(
            prompt=tokens,
            open_path=open_path,
            datastore=self.datastore,
            k=self.k,
            mixture=self.mixture,
            transcript=transcript,
            sampler=sampler,
            stats=stats,
        )
        scheduler = None
        if self._may_speculate(model, instead="token by token"):
            scheduler = self._scheduler(("lookup",), asynchronous=False)
        place = model.queue.place(sampling.max_tokens)
        return Run(generate(request, scheduler), request, prompt, place)
