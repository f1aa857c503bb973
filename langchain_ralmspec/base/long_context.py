"""What the RAPID chain and chat model share: settings, and how a request is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from weakref import WeakMethod

from langchain_core.callbacks import CallbackManager
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.arguments import is_remade
from langchain_ralmspec.base.cache_keys import name_of, stamp_at
from langchain_ralmspec.base.drafting import can_draft, longest_exact_draft
from langchain_ralmspec.base.local import Form, LocalGeneration, in_range, usage_of
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import UnknownArgumentError
from langchain_ralmspec.files import absolute
from langchain_ralmspec.rapid import (
    Conversation,
    Drafter,
    DraftStats,
    GivenContext,
    LongRequest,
    Sources,
    documents,
    generate,
)
from langchain_ralmspec.rapid.context import ContextCache, LongContext
from langchain_ralmspec.rapid.drafter_factory import (
    LOOKUP,
    SELF,
    TEXT,
    DrafterFactory,
    absolute_of,
    names_of,
    path_of,
    require_known,
)
from langchain_ralmspec.rapid.sources import require_found
from langchain_ralmspec.speculation import (
    Acceptance,
    Calibration,
    Cost,
    Estimates,
    Scheduler,
    Source,
    Transfer,
    chance_of_match,
    chance_of_probability,
)
from langchain_ralmspec.stores.embedding import encode_queries
from langchain_ralmspec.stores.retriever_store import found_by
from langchain_ralmspec.stores.waiting import Seconds

if TYPE_CHECKING:
    from langchain_core.messages.ai import UsageMetadata

    from langchain_ralmspec.base.call_settings import CallSettings
    from langchain_ralmspec.engine.weights import Weights

LONG_KV_BYTES = 2 * 2**30
"""Host memory for the KV of documents, per model."""

_N_SLOTS = 2


class LongContextGeneration(LocalGeneration):
    """Settings of answers about a long context, and one request made of them."""

    model_config = ConfigDict(arbitrary_types_allowed=True)  # Embeddings

    embeddings: Embeddings | None = None
    """For choosing what the drafter reads; drafters that are models need them."""

    n_ctx: int = in_range("n_ctx", 8192)
    """Tokens of context, question and answer together; 0 takes the model's own."""
    exact_batches: bool = False
    """Load the target so that verifying several tokens at once gives the bits that
    plain decoding gives, and draft no more at once than it does so for. Without it,
    kernels for batches may round otherwise than those for single tokens, and where
    two tokens are about equally probable, the answer may take the other one."""
    system_prompt: str = "Answer the question with the help of the text above."
    """System turn behind the context, for conversations that bring none."""
    truncation: Literal["error", "end"] = "error"
    """What happens to a context that does not fit: an error, or its end is dropped,
    with a warning that says how much."""

    drafter: Any = "auto"
    """Who proposes tokens: ``"lookup"`` copies what followed the same words in the
    context; ``"self"`` is the target's model on the retrieved context; a GGUF path
    is another model of the same vocabulary, ``"text:PATH"`` one of any; or a
    ``Drafter``, or a list, of which the first with a draft worth its time is taken.
    ``"auto"`` is look-up, and on a GPU the model itself behind it."""
    draft_length: int | Literal["auto"] = "auto"
    """Tokens drafted in a round; ``"auto"`` chooses by what is measured, 0 included."""
    transfer: Transfer = "off"
    """Whether what the drafter knows may change the answer (RAPID section 3.3):
    ``"off"`` is lossless, ``"paper"`` and ``"exact"`` are not."""
    eta: float = Field(default=5.0, ge=0)
    """Strength of the transfer, η in the paper; without effect where it is off."""

    store_timeout: Seconds | None = 30.0
    """Seconds after which a retriever that is the context is given up, with a
    ``StoreTimeoutError``; None: never."""

    chunk_tokens: int = Field(default=documents.CHUNK_TOKENS, ge=1)
    """Tokens of a chunk that can be retrieved for the drafter."""
    draft_context_share: float = Field(default=documents.SHARE, ge=0, le=1)
    """Share of the context's tokens that the drafter reads, from 0 to 1; it reads
    ``draft_context_tokens`` where that is more."""
    draft_context_tokens: int = Field(default=documents.FLOOR, ge=1)
    """Tokens that the drafter reads of any context, if it has as many."""
    least_similarity: float = Field(default=documents.LEAST_SIMILARITY, ge=-1, le=1)
    """Chunks whose cosine similarity to the question is less than this are left out."""

    kv_cache_bytes: int = in_range("kv_cache_bytes", LONG_KV_BYTES)
    """Bytes of host memory for the KV of contexts, so that a second question starts at
    once; 0 keeps none."""

    # What is known of the loaded model: the contexts that it has read, the models that
    # draft for it, and what drafts bring and passes take.
    _contexts: ContextCache = PrivateAttr(default_factory=ContextCache)
    _drafters: DrafterFactory = PrivateAttr()
    _estimates: Estimates = PrivateAttr(default_factory=Estimates)
    _costs: dict[int, Cost] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _refuse_retriever(cls, values: Any) -> Any:
        if isinstance(values, dict) and "retriever" in values:
            msg = (
                f"{cls.__name__} has no argument 'retriever'; give the retriever as "
                "the context: to RapidChain in each call, to ChatRapid as context=…"
            )
            raise UnknownArgumentError(msg)
        return values

    @model_validator(mode="after")
    def _has_what_to_transfer(self) -> Self:
        needs_some = not self._acceptance.is_lossless
        if needs_some and not any(map(_may_have_probabilities, self._chosen)):
            msg = (
                f"transfer={self.transfer!r} takes the drafter's probabilities, and "
                f"drafter={self.drafter!r} has none here; take 'self' or the path of a "
                "GGUF file, with embeddings=…, or transfer='off'"
            )
            raise ValueError(msg)
        return self

    @field_validator("draft_length")
    @classmethod
    def _usable_length(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            msg = "must be at least 0, or 'auto'"
            raise ValueError(msg)
        return value

    @field_validator("drafter")
    @classmethod
    def _known_drafter(cls, value: Any) -> Any:
        drafters = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(one, str | Path | Drafter) for one in drafters):
            msg = "must be a name, a path, a Drafter, or a list of these"
            raise ValueError(msg)
        located = [absolute_of(one) for one in drafters]
        return located if isinstance(value, list | tuple) else located[0]

    def _engine_settings(self) -> dict[str, Any]:
        return super()._engine_settings() | {
            "n_slots": _N_SLOTS,
            "exact_batches": self.exact_batches,
            "flash_attention": self._flash_attention,
        }

    @property
    def _flash_attention(self) -> bool | None:
        """Off where it can be: without it, a CPU verifies tokens in half the time."""
        is_needed = self.kv_type != "f16" or self.n_gpu_layers != 0
        return None if is_needed else False

    def warm_up(self) -> None:
        """Do what it does for all models; embeddings embed something, too."""
        super().warm_up()
        if self.draft_length != 0 and can_draft(self.engine):
            self._longest_draft(self.engine)
        if self.embeddings is not None:
            encode_queries(self.embeddings, ["?"])

    def _preload(self, asked: Conversation, context: Any) -> int:
        """Read a context ahead of the first question; returns its number of tokens."""
        model, text = self.engine, GivenContext.of(context).text
        head, read, _ = self._read(model, asked, text, self)
        model.find_or_open((*head, *read.tokens), namespace=self.kv_namespace)
        model.flush()
        return len(read.tokens)

    @model_validator(mode="after")
    def _find_drafters(self) -> Self:
        if not is_remade():
            for wanted in self._chosen:
                if isinstance(wanted, str | Path):
                    require_known(wanted)
        return self

    def _forget(self) -> None:
        super()._forget()
        self._contexts = ContextCache()
        load = WeakMethod(self._load_drafter)  # else they would keep one another alive
        self._drafters = DrafterFactory(lambda *given: cast("Any", load())(*given))  # noqa: PLW0108  later
        self._estimates, self._costs = Estimates(), {}

    def _prepare(
        self,
        conversation: Conversation,
        context: Any,
        stop: Sequence[str] | None,
        sampling: CallSettings,
        *,
        listeners: CallbackManager | None = None,
        form: Form | None = None,
    ) -> tuple[Run[DraftStats], Sources]:
        """Prepare an answer; returns it, and its sources.

        ``listeners`` are told of what is retrieved; ``form`` is what the answer may be,
        by default that of the grammar.
        """
        stats, question = DraftStats(), conversation.question
        with stats.preparing():
            target = self.engine
            is_found = isinstance(context, Runnable)
            # Without listeners of its own it has those of the chain that runs, if any.
            config = RunnableConfig(callbacks=listeners) if listeners else None
            if is_found:
                found = found_by(
                    context, question, config, store_timeout=self.store_timeout
                )
                require_found(found, context.get_name())
                context = found
            given = GivenContext.of(context)
            head, document, tail = self._read(
                target, conversation, given.text, sampling
            )
            stats.dropped_tokens = document.n_dropped
            sources = Sources(given, document, is_found=is_found)
            sources = self._retrieve(sources, question, listeners)
            n_prompt = len(head) + len(document.tokens) + len(tail)
            transcript, sampler = self._written_by(target, sampling, stop, form)
            acceptance = self._acceptance
            drafts = self.draft_length != 0 and can_draft(target)
            chosen = self._chosen if drafts else []
            scheduler = self._scheduler(n_prompt, names_of(chosen))
            open_drafter = partial(
                self._drafters.open,
                target=target.weights,
                n_prompt=n_prompt,
                n_beside=len(tail) + sampling.max_tokens,
                conversation=conversation,
                chunks=sources.chunks,
                # Drafts are free: what a grammar forbids is not accepted.
                sampler=None
                if acceptance.is_lossless
                else replace(sampler, constraint=None),
                is_enough=scheduler.is_enough,
            )
            request = LongRequest(
                target=target,
                document=(*head, *document.tokens),
                tail=tail,
                transcript=transcript,
                sampler=sampler,
                acceptance=acceptance,
                scheduler=scheduler,
                drafters=tuple(map(open_drafter, chosen)),
                longest_draft=self._longest_draft(target),
                namespace=sampling.kv_namespace,
                stats=stats,
            )
        place = target.queue.place(sampling.max_tokens)
        return Run(generate(request), request, question, place), sources

    def _read(
        self,
        model: Model,
        conversation: Conversation,
        text: str,
        settings: CallSettings,
    ) -> tuple[tuple[int, ...], LongContext, tuple[int, ...]]:
        """A prompt as the model reads it: head, context, and tail."""
        head, tail = conversation.around(model)
        document = self._contexts.read(
            text,
            model,
            n_other=len(head) + len(tail) + settings.max_tokens,
            may_truncate=self.truncation == "end",
            chunk_tokens=self.chunk_tokens,
            embeddings=self.embeddings,
            namespace=settings.kv_namespace,
        )
        return head, document, tail

    def _retrieve(
        self, sources: Sources, question: str, listeners: CallbackManager | None
    ) -> Sources:
        """Find what the drafter reads, as a run of its own; not without embeddings."""
        if sources.read.index is None:
            return sources
        name, manager = "RapidRetriever", listeners or CallbackManager([])
        run = manager.on_retriever_start({"name": name}, question, name=name)
        try:
            found = self._searched(sources, question)
        except BaseException as error:
            run.on_retriever_error(error)
            raise
        run.on_retriever_end(found.documents())
        return found

    def _searched(self, sources: Sources, question: str) -> Sources:
        document = sources.read
        assert document.index is not None  # noqa: S101  the caller has looked
        share, floor = self.draft_context_share, self.draft_context_tokens
        n_tokens = documents.budget(len(document.tokens), share, floor)
        chunks = document.index.retrieve(question, n_tokens, self.least_similarity)
        return replace(sources, chunks=chunks)

    def _longest_draft(self, target: Model) -> int | None:
        """Tokens of a draft that can be verified exactly; None where it need not be."""
        if not self.exact_batches or self.draft_length == 0:
            return None
        return longest_exact_draft(target)

    @property
    def _acceptance(self) -> Acceptance:
        is_off = self.transfer == "off"
        return Acceptance() if is_off else Acceptance(self.transfer, self.eta)

    def _scheduler(self, n_prompt: int, drafters: Sequence[str]) -> Scheduler:
        # Costs grow with the context: those of another length tell little.
        passes = self._costs.setdefault(round(2 * math.log2(n_prompt)), Cost())
        estimates = replace(self._estimates, passes=passes)
        for name in drafters:
            prior = chance_of_match if name == LOOKUP else chance_of_probability
            new = Source(right=Calibration(prior))
            estimates.sources.setdefault(name, new)
        length = None if self.draft_length == "auto" else self.draft_length
        return Scheduler(estimates, stride=length)

    @property
    def _chosen(self) -> list[str | Drafter]:
        if isinstance(self.drafter, list | tuple):
            return list(self.drafter)
        if self.drafter != "auto":
            return [self.drafter]
        # On a CPU a model on the retrieved context was never sooner.
        on_gpu = self.n_gpu_layers != 0 and self.embeddings is not None
        return [LOOKUP, SELF] if on_gpu else [LOOKUP]

    def _load_drafter(self, source: str | Weights, n_ctx: int) -> Model:
        # Nothing that a drafter reads is kept.
        own: dict[str, Any] = {"path": source, "n_ctx": n_ctx, "n_slots": _N_SLOTS}
        own |= {"kv_cache_bytes": 0, "kv_cache_dir": None, "max_queue": None}
        # Another's positions.
        if isinstance(source, str) and absolute(source) != absolute(self.model_path):
            own |= {"rope_freq_base": 0.0, "rope_freq_scale": 0.0}
        return Model.load(**super()._engine_settings() | own)

    def _fingerprint(self) -> dict[str, Any]:
        """Scalars that tell one configured model from another (cache key, traces)."""
        names = LongContextGeneration.model_fields
        embeddings, given = self.embeddings, self.drafter
        drafters = given if isinstance(given, list | tuple) else [given]
        return self._values_of(names, "embeddings", "drafter") | {
            "embeddings": None if embeddings is None else name_of(embeddings),
            "drafter": [
                (str(one), stamp_at(path_of(one)))
                if isinstance(one, str | Path)
                else name_of(one)
                for one in drafters
            ],
        }


def _may_have_probabilities(drafter: str | Path | Drafter) -> bool:
    if not isinstance(drafter, str | Path):
        return True  # only its drafts can tell
    return drafter != LOOKUP and not str(drafter).startswith(TEXT)


def long_usage_of(run: Run[DraftStats]) -> UsageMetadata:
    """Tokens in and out, and those in whose KV was kept from before."""
    read = run.stats.cached_tokens
    return {**usage_of(run), "input_token_details": {"cache_read": read}}
