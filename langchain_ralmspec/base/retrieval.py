"""What the LLM and the chat model share: settings, and how a request is made."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.globals import get_llm_cache
from langchain_core.prompts import BasePromptTemplate, PromptTemplate
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import Field, PrivateAttr, field_validator

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.base.local import PreparedAnswer, info_of, usage_of
from langchain_ralmspec.base.plain import plain_documents
from langchain_ralmspec.base.speculation import SpeculativeGeneration
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.machine import cores
from langchain_ralmspec.ralm import (
    DocumentLayout,
    FixedStride,
    Flare,
    IterRetGen,
    Prompt,
    QueryText,
    Request,
    Writer,
    require_room,
    sequential,
    speculative,
)
from langchain_ralmspec.ralm.run import RetrievalRun
from langchain_ralmspec.ralm.session import text_of
from langchain_ralmspec.retrievers import MOST_HITS, RaLMSpecRetriever
from langchain_ralmspec.speculation import GUESS_POLICIES, Estimates
from langchain_ralmspec.text import sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.documents import Document
    from langchain_core.messages.ai import UsageMetadata

    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.ralm import RetrievalPolicy
    from langchain_ralmspec.stores import Hit


FEW_CORES = 2
"""With no more cores than these, a model that writes leaves none for a search."""


def _new_estimates() -> Estimates:
    """Estimates that know of this machine's cores, and of nothing else."""
    # On two cores, model and exact scan took 1.3 to 2 times as long side by side; at
    # twice as long nothing is won.
    return Estimates(contention=2.0 if cores() <= FEW_CORES else 1.0)


class RetrievalGeneration(SpeculativeGeneration):
    """Settings of generation with retrieval inside, and one request made of them."""

    retriever: Any
    """A ``RaLMSpecRetriever``, a ``VectorStore``, or its ``as_retriever()``."""

    retrieval_stride: int = Field(default=4, ge=1)
    """Tokens generated between two retrievals."""
    query_window: int = Field(default=32, ge=1)
    """Tokens of a query: the last ones of question + answer so far."""
    retrieval_policy: Literal["stride", "flare", "iter-retgen"] = "stride"
    """When to retrieve: every ``retrieval_stride`` tokens; ``"flare"``: when the next
    sentence has a token under ``flare_threshold``, with that sentence as the query;
    ``"iter-retgen"``: with the whole answer, which is then written again."""
    flare_threshold: float = Field(default=0.4, ge=0, le=1)
    """Least probability of a token that ``"flare"`` takes for sure."""
    retrieval_rounds: int = Field(default=2, ge=1)
    """Answers that ``"iter-retgen"`` writes; the last one is given."""
    max_document_tokens: int = Field(default=256, ge=1)
    """A longer document is cut."""
    documents_per_step: int = Field(default=1, ge=1, le=MOST_HITS)
    """Documents in front of the prompt; the whole ordered list must match."""
    document_prompt: BasePromptTemplate[str] = PromptTemplate.from_template(
        "{page_content}"
    )
    """How a document is shown to the model; may name metadata keys."""

    asynchronous: bool = True
    """Whether to write on while a verification is out, in a thread of its own."""
    prefetch_k: int | None = Field(default=None, ge=1, le=MOST_HITS)
    """Hits of every verified query that enter the session's cache; None takes 200
    where that costs next to nothing, in exact local search, and 20 elsewhere."""
    guess_policy: str = "auto"
    """``"lookup"`` in the session's cache, the ``"same"`` document again, or
    ``"auto"``, whichever is measured to be sooner."""

    # What requests cost, for the plans of the next ones.
    _estimates: Estimates = PrivateAttr(default_factory=_new_estimates)

    @field_validator("retriever")
    @classmethod
    def _adopt_retriever(cls, value: Any) -> RaLMSpecRetriever:
        if isinstance(value, RaLMSpecRetriever):
            _refuse_own_search(value, RaLMSpecRetriever)
            return value
        if isinstance(value, VectorStoreRetriever):
            _refuse_own_search(value, VectorStoreRetriever)
            if value.search_type != "similarity":
                msg = f"search_type must be 'similarity', got {value.search_type!r}"
                raise InvalidValueError(msg)
            words = dict(value.search_kwargs)
            given = {name: words.pop(name) for name in ("k", "filter") if name in words}
            return RaLMSpecRetriever(
                vectorstore=value.vectorstore, search_kwargs=words, **given
            )
        return RaLMSpecRetriever(vectorstore=value)

    @field_validator("guess_policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in (*GUESS_POLICIES, "auto"):
            msg = f"must be one of {[*GUESS_POLICIES, 'auto']}"
            raise ValueError(msg)
        return value

    def warm_up(self) -> None:
        """Load all that the first answer would load, and ask the store something."""
        super().warm_up()
        self._may_speculate(self.engine)
        store = self.retriever.store
        store.search(store.encode(["?"]), 1)

    @abstractmethod
    def _prompt(self, model: Model, asked: Any) -> Prompt:
        """Tokens of what the face was asked."""

    def _answer(
        self, asked: Any, stop: list[str] | None, overrides: dict[str, Any]
    ) -> PreparedAnswer:
        model = self.engine
        run = self._run(model, asked, stop, overrides)
        return PreparedAnswer(
            run, partial(_info, run, model), partial(self._usage, run, model)
        )

    def _run(
        self,
        model: Model,
        asked: Any,
        stop: Sequence[str] | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> RetrievalRun:
        """Prepare an answer.

        Raises:
            ContextOverflowError: the longest possible run does not fit.
            InvalidValueError: the prompt is empty.
            UnknownArgumentError: an override that does not exist.
        """
        prompt = self._prompt(model, asked)
        sampling = self._sampling(overrides or {})
        if not prompt.tail:
            msg = "the prompt is empty; ask something"
            raise InvalidValueError(msg)
        require_room(
            prompt,
            self._layout,
            model.weights,
            n_documents=self.documents_per_step,
            max_tokens=sampling.max_tokens,
            n_ctx=model.n_ctx,
        )
        transcript, layout = self._transcript(model, sampling, stop), self._layout
        stats = SpeculationStats(prompt_tokens=len(prompt.head) + len(prompt.tail))

        shows_text = self.document_prompt.input_variables == ["page_content"]

        def open_path(hits: tuple[Hit, ...]) -> Any:
            return model.open((*prompt.head, *layout.tokens(model.weights, hits)))

        request = Request(
            writer=Writer(prompt, transcript, sampling.sampler(), open_path),
            session=self.retriever.new_session(
                k=self.documents_per_step,
                prefetch_k=self.prefetch_k,
                stats=stats,
                # Spares rendering every hit where the text alone is shown.
                render=text_of if shows_text else layout.render,
            ),
            policy=self._policy(model, prompt, transcript),
        )
        if self._may_speculate(model):
            guess = self.guess_policy
            policies = tuple(GUESS_POLICIES) if guess == "auto" else (guess,)
            scheduler = self._scheduler(policies, asynchronous=self.asynchronous)
            events = speculative(request, scheduler)
        else:
            events = sequential(request)
        return RetrievalRun(events, request)

    def _policy(
        self, model: Model, prompt: Prompt, transcript: Transcript
    ) -> RetrievalPolicy:
        is_whole = self.retrieval_policy == "iter-retgen"
        window = 0 if is_whole else self.query_window
        query = QueryText(prompt.question, transcript, model.weights, window)
        if is_whole:
            return IterRetGen(query, self.retrieval_rounds)
        if self.retrieval_policy == "flare":
            return Flare(query, self.flare_threshold)
        return FixedStride(query, self.retrieval_stride)

    @property
    def _layout(self) -> DocumentLayout:
        def render(document: Document) -> str:
            return _rendered(document, self.document_prompt)

        return DocumentLayout(render, self.max_document_tokens)

    def _usage(self, run: RetrievalRun, model: Model) -> UsageMetadata:
        """Tokens in and out; the documents counted are those of the last step."""
        hits = run.steps[-1].hits if run.steps else ()
        return usage_of(run, len(self._layout.tokens(model.weights, hits)))

    def _uncacheable(self) -> str | None:
        prompt = self.document_prompt
        if type(prompt) is not PromptTemplate or not all(
            isinstance(value, str | int | float)
            for value in prompt.partial_variables.values()
        ):
            return "document_prompt may show a document otherwise each time"
        retriever: RaLMSpecRetriever = self.retriever
        return retriever.uncacheable

    def _fingerprint(self) -> dict[str, Any]:
        """Scalars that tell one configured model from another (cache key, traces)."""
        names = RetrievalGeneration.model_fields
        settings = self._values_of(names, "retriever", "document_prompt")
        # A cached answer is stale once the store has grown; but counting may be a
        # request to a server, so it is only done where answers are cached at all.
        cache = getattr(self, "cache", None)
        caches = cache is not False and (cache or get_llm_cache() is not None)
        return settings | {
            "document_prompt": str(self.document_prompt),
            "retriever": self.retriever.key,
            # A dict may have been changed since; hashed, for traces show this.
            "filter": sha256_of(repr(self.retriever.filter)),
            "n_documents": self.retriever.store.count() if caches else None,
        }


def _rendered(document: Document, prompt: BasePromptTemplate[str]) -> str:
    """A document as the model reads it.

    Raises:
        InvalidValueError: ``prompt`` names what the document does not have.
    """
    known = {**document.metadata, "page_content": document.page_content}
    name = document.id or document.page_content[:40]
    for key in prompt.input_variables:
        if key not in known:
            msg = (
                f"document_prompt names {key!r}, but the document {name!r} has only "
                f"{sorted(map(str, known))}; add it to the document's metadata, or "
                "leave it out of document_prompt"
            )
            raise InvalidValueError(msg)
    try:
        return prompt.format(**{key: known[key] for key in prompt.input_variables})
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        msg = f"document_prompt cannot show the document {name!r}: {error}"
        raise InvalidValueError(msg) from error


def _refuse_own_search(
    value: RaLMSpecRetriever | VectorStoreRetriever, kind: type[Any]
) -> None:
    """Refuse a subclass that searches by itself: its search would be passed by."""
    for name in (
        "invoke",
        "ainvoke",
        "batch",
        "abatch",
        "_get_relevant_documents",
        "_aget_relevant_documents",
    ):
        if getattr(type(value), name) is not getattr(kind, name):
            msg = (
                f"{type(value).__name__} overrides {name}, which is not called here: "
                "the store is asked for many queries at once; give the vector store, "
                "with filter=… in a RaLMSpecRetriever, or override the store's "
                "similarity_search"
            )
            raise InvalidValueError(msg)


def _info(run: RetrievalRun, model: Model) -> dict[str, Any]:
    """What is told about a finished answer."""
    steps = [
        {"tokens": list(step.tokens), "documents": [hit.id for hit in step.hits]}
        for step in run.steps
    ]
    documents = plain_documents(run.documents)
    return info_of(run, model) | {"documents": documents, "steps": steps}
