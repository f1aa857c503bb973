"""What the LLM and the chat model share: settings, and how a request is made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.prompts import BasePromptTemplate, PromptTemplate
from pydantic import Field, PrivateAttr, field_validator, model_validator

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.base import warming
from langchain_ralmspec.base.account import account_of, citations_of
from langchain_ralmspec.base.cache_keys import is_cached
from langchain_ralmspec.base.local import (
    Form,
    PreparedAnswer,
    usage_of,
)
from langchain_ralmspec.base.messages import question_by
from langchain_ralmspec.base.reading import branch_under
from langchain_ralmspec.base.rendering import rendered
from langchain_ralmspec.base.restricted import (
    RESTRICTIONS,
    RestrictedRetrievers,
    adopted,
)
from langchain_ralmspec.base.speculation import SpeculativeGeneration
from langchain_ralmspec.base.tracing import trace
from langchain_ralmspec.errors import (
    InvalidValueError,
    UnknownArgumentError,
)
from langchain_ralmspec.ralm import (
    DocumentLayout,
    FixedStride,
    Flare,
    InlineLayout,
    IterRetGen,
    Prompt,
    QueryText,
    Request,
    Writer,
    once,
    require_room,
    sequential,
    speculative,
)
from langchain_ralmspec.ralm.run import RetrievalRun
from langchain_ralmspec.retrievers import (
    MOST_HITS,
    RaLMSpecRetriever,
    adopt,
    documents_wanted,
)
from langchain_ralmspec.speculation import GUESS_POLICIES
from langchain_ralmspec.stores import RetrieverStore
from langchain_ralmspec.stores.waiting import Seconds, shorter

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from langchain_core.documents import Document
    from langchain_core.messages.ai import UsageMetadata

    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.base.call_settings import CallSettings
    from langchain_ralmspec.base.warming import Passages, Warmed
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.ralm import Event, RetrievalPolicy


SHORT_DOCUMENT = 256
"""Tokens of a document that is read again and again: a passage of a corpus is shorter,
and MiniLM, by which many stores find passages, has read no more."""


class RetrievalGeneration(SpeculativeGeneration):
    """Settings of generation with retrieval inside, and one request made of them."""

    _of_calls = RESTRICTIONS
    retriever: Any
    """A ``VectorStore``, or any retriever: a ``Runnable`` from a string to a list of
    documents. One that is changed later is asked as it is when a request begins."""

    retrieval_stride: int = Field(default=4, ge=1)
    """Tokens generated between two retrievals."""
    query_window: int = Field(default=32, ge=1)
    """Tokens of a query: the last ones of question + answer so far."""
    query_source: Callable[[Any], str] | None = None
    """Gives the question that queries are made of: called with the messages, or the
    prompt's text. None takes the last user message, or the whole prompt."""
    retrieval_policy: Literal["stride", "once", "flare", "iter-retgen"] = "stride"
    """When to retrieve: every ``retrieval_stride`` tokens; ``"once"``: before the
    answer, with the question alone, as most chains do; ``"flare"``: when the next
    sentence has a token under ``flare_threshold``, with that sentence as the query;
    ``"iter-retgen"``: with the whole answer, which is then written again."""
    flare_threshold: float = Field(default=0.4, ge=0, le=1)
    """Least probability of a token that ``"flare"`` takes for sure."""
    retrieval_rounds: int = Field(default=2, ge=1)
    """Answers that ``"iter-retgen"`` writes; the last one is given."""
    max_document_tokens: int | None = Field(default=None, ge=1)
    """A longer document is cut; None cuts at 256, and under ``"once"`` nowhere."""
    documents_per_step: int | None = Field(default=None, ge=1, le=MOST_HITS)
    """Most documents in front of the prompt; the whole ordered list must match. None
    takes the ``k`` in the ``search_kwargs`` of a LangChain retriever, else 1; under
    ``"once"`` all that a retriever finds, the ``k`` of a ``RaLMSpecRetriever``, 4 from
    a store as ``as_retriever()`` does."""
    on_empty: Literal["answer", "error"] = "answer"
    """Where a query finds nothing: ``"answer"`` that step without documents, or raise
    an ``EmptyStoreError``."""
    store_timeout: Seconds | None = 30.0
    """Seconds after which a store call, embedding included, is a ``StoreTimeoutError``;
    None: never. A ``RaLMSpecRetriever`` has its own: the shorter counts."""
    document_prompt: BasePromptTemplate[str] = PromptTemplate.from_template(
        "{page_content}"
    )
    """How a document is shown to the model; may name metadata keys."""
    document_separator: str = "\n\n"
    """What stands behind every document; inside a prompt, between them."""

    asynchronous: bool = True
    """Whether to write on while a verification is out, in a thread of its own."""
    prefetch_k: int | None = Field(default=None, ge=1, le=MOST_HITS)
    """Hits of every verified query that enter the session's cache; None takes 200
    where that costs next to nothing, in exact local search, and 20 elsewhere."""
    guess_policy: str = "auto"
    """``"lookup"`` in the session's cache, the ``"same"`` document again, or
    ``"auto"``, whichever is measured to be sooner."""

    _restricted: RestrictedRetrievers = PrivateAttr(
        default_factory=RestrictedRetrievers
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_those_of_the_retriever(cls, values: Any) -> Any:
        own = RaLMSpecRetriever.model_fields
        for name in values if isinstance(values, dict) else ():
            if name in own and name not in cls.model_fields:
                msg = (
                    f"{name!r} is an argument of the retriever; give it there: "
                    f"retriever=RaLMSpecRetriever(vectorstore=…, {name}=…)"
                )
                raise UnknownArgumentError(msg)
        return values

    @field_validator("retriever")
    @classmethod
    def _adopt_retriever(cls, value: Any) -> RaLMSpecRetriever:
        return adopt(value)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle of what was adopted would know neither its k nor later changes.
        remake, (kind, given) = super().__reduce__()
        if (origin := given["retriever"].origin) is not None:
            given["retriever"] = origin.retriever
        return remake, (kind, given)

    @field_validator("guess_policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in (*GUESS_POLICIES, "auto"):
            raise ValueError(f"must be one of {[*GUESS_POLICIES, 'auto']}")
        return value

    def warm_up(self) -> None:
        """Load all that the first answer would load, and ask the store something."""
        super().warm_up()
        speculates = self._may_speculate(self.engine)
        retriever = self._current_retriever
        limit = shorter(self.store_timeout, retriever.store_timeout)
        retriever.model_copy(update={"store_timeout": limit}).batch(["?"], k=1)
        is_once = self.retrieval_policy == "once"
        if speculates and not is_once and self.guess_policy != "same":
            retriever.new_session(k=1).wait_for_replica()

    def warm(
        self,
        documents: Iterable[Document | str],
        progress: Callable[[int, int], object] | None = None,
    ) -> Warmed:
        """Read documents ahead, so that no answer has to: their KV is kept.

        What is kept is what this model reads in front of a question without history,
        by its own ``system_prompt``. Documents whose KV is kept already are not read
        again, so this may be interrupted and go on later. Where ``kv_cache_dir``, or
        else ``kv_cache_bytes``, has no more room, the rest is left out with a warning.

        Args:
            documents: as the retriever gives them.
            progress: called with how many are done, and how many there are.

        Raises:
            InvalidValueError: what is read of a document depends on the question, or
                nothing is kept here.
            ContextOverflowError: a document does not fit ``n_ctx``.
        """
        return warming.read_ahead(self.passages_of(documents), self.engine, progress)

    def passages_of(self, documents: Iterable[Document | str]) -> Passages:
        """What is read for each document when it stands in front of a question."""
        model = self.engine
        prompts = [self._prompt(model, self._asked(text)) for text in ("a", "b")]
        return warming.passages_of(
            warming.as_documents(documents),
            model,
            self._layout(model, prompts[0]),
            prompts,
            is_alone=self.n_documents == 1,
            namespace=self.kv_namespace,
        )

    @abstractmethod
    def _asked(self, question: str) -> Any:
        """A question as the face is asked it."""

    @abstractmethod
    def _prompt(self, model: Model, asked: Any) -> Prompt:
        """Tokens of what the face was asked."""

    def _answer(
        self, asked: Any, stop: list[str] | None, overrides: dict[str, Any]
    ) -> PreparedAnswer:
        model = self.engine
        retriever, overrides = self._restricted_by(overrides)
        prompt, sampling = self._prompt(model, asked), self._sampling(overrides)
        run = self._run(model, prompt, sampling, stop, retriever=retriever)
        return self._prepared(run, model, retriever)

    def _restricted_by(
        self, overrides: dict[str, Any]
    ) -> tuple[RaLMSpecRetriever, dict[str, Any]]:
        """The retriever under a call's filter, and the other arguments of the call."""
        others = {**overrides}
        return self._restricted.of(self._current_retriever, others), others

    def _prepared(
        self, run: RetrievalRun, model: Model, retriever: RaLMSpecRetriever
    ) -> PreparedAnswer:
        told = partial(account_of, run, model), partial(self._usage, run, model)
        traced, cited = partial(trace, run, retriever), partial(citations_of, run)
        return PreparedAnswer(run, *told, trace=traced, citations=cited)

    def _run(
        self,
        model: Model,
        prompt: Prompt,
        sampling: CallSettings,
        stop: Sequence[str] | None = None,
        *,
        form: Form | None = None,
        retriever: RaLMSpecRetriever,
    ) -> RetrievalRun:
        """Prepare an answer, which has a form if one is given.

        Raises:
            ContextOverflowError: the longest possible run does not fit.
            InvalidValueError: the prompt is empty.
        """
        if not prompt.tail:
            raise InvalidValueError("the prompt is empty; ask something")
        depth = self._depth(retriever)
        layout = self._layout(model, prompt)
        require = partial(
            require_room, prompt, max_tokens=sampling.max_tokens, n_ctx=model.n_ctx
        )
        is_once = self.retrieval_policy == "once"
        # How long whole documents are, or how many, may show only once found.
        is_bound = depth < MOST_HITS and (not is_once or self.max_document_tokens)
        n_most = layout.most_tokens(model.weights, depth) if is_bound else 0
        require(n_documents=n_most)
        transcript, sampler = self._written_by(model, sampling, stop, form)
        stats = SpeculationStats(prompt_tokens=len(prompt.head) + len(prompt.tail))

        open_branch = partial(
            branch_under,
            model=model,
            prompt=prompt,
            layout=layout,
            require=require,
            namespace=sampling.kv_namespace,
            with_tail=is_once,
            stats=stats,
        )
        request = Request(
            writer=Writer(prompt, transcript, sampler, open_branch),
            session=retriever.new_session(
                k=depth,
                # Exactly the documents that a search for so many finds.
                prefetch_k=0 if is_once else self.prefetch_k,
                stats=stats,
                render=layout.render,
                on_empty=self.on_empty,
                store_timeout=self.store_timeout,
            ),
            policy=self._policy(model, prompt, transcript),
        )
        place = model.queue.place(sampling.max_tokens)
        return RetrievalRun(self._events(request, model), request, prompt.text, place)

    def _events(self, request: Request, model: Model) -> Generator[Event, None, None]:
        """The loop that generates an answer."""
        if self.retrieval_policy == "once":
            return once(request)
        if not self._may_speculate(model):
            return sequential(request)
        guess = self.guess_policy
        policies = tuple(GUESS_POLICIES) if guess == "auto" else (guess,)
        scheduler = self._scheduler(policies, asynchronous=self.asynchronous)
        return speculative(request, scheduler)

    @property
    def _current_retriever(self) -> RaLMSpecRetriever:
        """The retriever, adopted anew where its user has changed it since."""
        self.retriever = adopted(self.retriever)
        return cast("RaLMSpecRetriever", self.retriever)

    def _policy(
        self, model: Model, prompt: Prompt, transcript: Transcript
    ) -> RetrievalPolicy:
        if self.retrieval_policy == "once":
            return FixedStride(lambda: prompt.text, transcript.max_tokens)
        is_whole = self.retrieval_policy == "iter-retgen"
        window = 0 if is_whole else self.query_window
        query = QueryText(prompt.question, transcript, model.weights, window)
        if is_whole:
            return IterRetGen(query, self.retrieval_rounds)
        if self.retrieval_policy == "flare":
            return Flare(query, self.flare_threshold)
        return FixedStride(query, self.retrieval_stride)

    @property
    def n_documents(self) -> int:
        """Documents per step."""
        return self._depth(self._current_retriever)

    def _depth(self, retriever: RaLMSpecRetriever) -> int:
        wanted = self.documents_per_step or documents_wanted(retriever)
        if wanted or self.retrieval_policy != "once":
            return wanted or 1
        # A retriever that searches by itself gives what it gives.
        is_own = isinstance(retriever.store, RetrieverStore)
        return MOST_HITS if is_own else retriever.k

    def _layout(self, model: Model, prompt: Prompt) -> DocumentLayout:
        def render(document: Document) -> str:
            return rendered(document, self.document_prompt)

        is_once = self.retrieval_policy == "once"
        most = self.max_document_tokens or (model.n_ctx if is_once else SHORT_DOCUMENT)
        layout = (render, most, self.document_separator)
        if prompt.beside is None:
            return DocumentLayout(*layout)
        return InlineLayout(*layout, *prompt.beside)

    def _question(self, asked: Any, text: str) -> str:
        """What is asked, as ``query_source`` has it, else ``text``."""
        source = self.query_source
        return text if source is None else question_by(source, asked)

    def _usage(self, run: RetrievalRun, model: Model) -> UsageMetadata:
        """Tokens in and out; the documents counted are those of the last step."""
        hits = run.steps[-1].hits if run.steps else ()
        layout = self._layout(model, run.request.writer.prompt)
        return usage_of(run, len(layout.laid_out(model.weights, hits).tokens))

    def _uncacheable(self) -> str | None:
        if self.query_source is not None:
            return "query_source may give another question each time"
        prompt = self.document_prompt
        if type(prompt) is not PromptTemplate or not all(
            isinstance(value, str | int | float)
            for value in prompt.partial_variables.values()
        ):
            return "document_prompt may show a document otherwise each time"
        return self._current_retriever.uncacheable

    def _fingerprint(self) -> dict[str, Any]:
        """Scalars that tell one configured model from another (cache key, traces)."""
        hidden = ("retriever", "document_prompt", "query_source")
        settings = self._values_of(RetrievalGeneration.model_fields, *hidden)
        retriever = self._current_retriever
        # A cached answer is stale once documents are others; but looking at all of them
        # takes a while, so it is only done where answers are cached at all.
        return settings | {
            "document_prompt": str(self.document_prompt),
            "documents_per_step": self._depth(retriever),
            "retriever": retriever.key,
            "documents": retriever.version if is_cached(self) else None,
        }
