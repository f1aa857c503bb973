"""All rows answer the same questions in turn, on one target model.

The rows' chains load the target with the same settings, so they share it, and with
it the KV of the text: what was read for one is there for all.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.bench.contest import rotated
from langchain_ralmspec.bench.rapid.answers import quoted_share
from langchain_ralmspec.bench.rapid.documents import Sample
from langchain_ralmspec.bench.rapid.policies import PassCosts, n_agreeing
from langchain_ralmspec.chains import RapidChain
from langchain_ralmspec.rapid import Conversation, DraftStats, LongRequest
from langchain_ralmspec.rapid.documents import ContextIndex, budget, chunk, join

PLAIN, RAG, SD, RAPID = "plain", "rag", "SD", "RAPID"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was learnt of a drafter: seconds a token are None if it never drafted."""

    acceptance: float
    step: float | None


@dataclass(frozen=True, slots=True)
class LongAnswer:
    """One answer by one row.

    Attributes:
        pieces: the tokens' texts.
        ended: whether the model ended it, not the limit.
        drafters: who drafted, and what is known of them since.
    """

    text: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    ended: bool
    stats: DraftStats
    drafters: dict[str, Estimate] = field(default_factory=dict)

    @property
    def n_decoded(self) -> int:
        """Tokens behind the first, the one that ends the answer among them."""
        return max(0, len(self.tokens) - 1 + self.ended)

    @property
    def decoding(self) -> float:
        """Seconds for these: all behind the first, whatever they were spent on."""
        return self.stats.decode_seconds


@dataclass(frozen=True, slots=True)
class Opening:
    """A context that is asked about for the first time.

    Attributes:
        first: seconds to the first token, the context being read.
        disk: the same with the context's KV in a folder; None without one.
        indexing: seconds of rows that retrieve, for what they retrieve from.
    """

    first: float
    disk: float | None
    indexing: dict[str, float]


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a row's answer leaves the plain one.

    Attributes:
        position: in tokens.
        plain: the plain token's text; None where that answer has ended.
        other: the row's.
        margin: between the target's two best logits there, by plain decoding.
    """

    row: str
    position: int
    plain: str | None
    other: str | None
    margin: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its answers.

    Attributes:
        opening: of the question's context.
        is_first: whether it is the first question about its context.
        prompt: the target's tokens before an answer.
        answers: by row.
        costs: of the target's passes at the time.
        quoted: share of the plain answer that stands in the prompt.
        divergences: of the rows that should, or could, equal the plain one.
    """

    sample: Sample
    opening: Opening
    is_first: bool
    prompt: tuple[int, ...]
    answers: dict[str, LongAnswer]
    costs: PassCosts
    quoted: float
    divergences: list[Divergence] = field(default_factory=list)


class Library:
    """What plain RAG retrieves from, in the way drafters do."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self._index: ContextIndex | None = None
        self._n_tokens = 0

    def read(self, tokens: Sequence[int], chain: RapidChain) -> None:
        """Cut and embed a document."""
        chunks = chunk(tokens, chain.engine.weights.piece, chain.chunk_tokens)
        self._index = ContextIndex(chunks, self._embeddings)
        self._n_tokens = budget(
            len(tokens), chain.draft_context_share, chain.draft_context_tokens
        )

    def find(self, question: str) -> str:
        """The chunks for a question, as one text."""
        assert self._index is not None  # noqa: S101  read() comes first
        return join(self._index.retrieve(question, self._n_tokens))


@dataclass(slots=True)
class LongContest:
    """The rows, and what they have answered so far.

    Attributes:
        chains: by row; the plain one first. Each keeps what it learns of costs.
        library: for the row that is plain RAG; None if there is no such row.
        reads_disk: whether a folder keeps the KV, so that reading it can be timed.
        asked: so far, in order.
    """

    chains: dict[str, RapidChain]
    library: Library | None = None
    reads_disk: bool = False
    asked: list[Asked] = field(default_factory=list)
    _document: tuple[int, ...] = ()
    _opening: Opening | None = None

    def ask(self, sample: Sample, warm_up: Sample) -> Asked:
        """Let every row answer; before the first question also ``warm_up``, untimed.

        That shall not be measured later: what rows learn may be its very answer.
        """
        with warnings.catch_warnings():
            # The figures say how much was dropped; a warning a question would not help.
            warnings.filterwarnings("ignore", r"the last \d+ of the context's")
            return self._ask(sample, warm_up)

    def _ask(self, sample: Sample, warm_up: Sample) -> Asked:
        request = self._plain.start(sample.question, sample.context).request
        is_first = request.document != self._document
        if is_first:
            self._open(sample, request)
        if not self.asked:
            self._warm_up(warm_up)
        before = self._time_passes(request)
        answers = {
            row: self._answer(row, sample)
            for row in rotated(list(self.chains), len(self.asked))
        }
        after = self._time_passes(request)
        assert self._opening is not None  # noqa: S101  no document is empty
        prompt, plain = (*request.document, *request.tail), answers[PLAIN]
        asked = Asked(
            sample=sample,
            opening=self._opening,
            is_first=is_first,
            prompt=prompt,
            answers={row: answers[row] for row in self.chains},
            costs=_costs(before, after, plain),
            quoted=quoted_share(plain.tokens, prompt),
        )
        asked.divergences.extend(self._divergences(asked, request))
        self.asked.append(asked)
        return asked

    @property
    def _plain(self) -> RapidChain:
        return self.chains[PLAIN]

    def _open(self, sample: Sample, request: LongRequest) -> None:
        """Time the first token of a context's first question."""
        engine = self._plain.engine
        # The model's file itself shall be in memory already.
        engine.open(request.document[:_WARM_TOKENS])
        first, _ = self._first_token(sample)
        disk = None
        if self.reads_disk:
            seconds, n_cached = self._first_token(sample)
            disk = seconds if n_cached else None
        self._document = request.document
        self._opening = Opening(first, disk, self._index(sample, request))

    def _first_token(self, sample: Sample) -> tuple[float, int]:
        """Seconds to it without KV in memory, and tokens whose KV was elsewhere."""
        self._plain.engine.forget_prefixes()
        gc.collect()
        run = self._plain.start(sample.question, sample.context)
        next(iter(run), "")
        return run.stats.first_token, run.stats.cached_tokens

    def _index(self, sample: Sample, request: LongRequest) -> dict[str, float]:
        """Seconds in which every row makes ready what it retrieves from."""
        seconds = {}
        for row, chain in self.chains.items():
            if row == RAG and self.library:
                start = time.perf_counter()
                self.library.read(self._context(request), chain)
                seconds[row] = time.perf_counter() - start
            elif row != PLAIN:
                # Not kept: a drafter's model must not live on to the next answer,
                # which may be of another row, with what it has read.
                run = chain.start(sample.question, sample.context)
                seconds[row] = run.stats.seconds_preparing
        return seconds

    def _context(self, request: LongRequest) -> tuple[int, ...]:
        """The context's own tokens, as far as the target sees them."""
        chain = self._plain
        conversation = Conversation(
            ({"role": "user", "content": "?"},),
            chain.system_prompt,
            "?",
            chain.prompt_template,
        )
        head, _ = conversation.around(chain.engine)
        return request.document[len(head) :]

    def _warm_up(self, sample: Sample) -> None:
        """Let rows learn, and forget what they said.

        Plain RAG learns nothing, and would have its passages in memory afterwards.
        """
        for row in self.chains:
            if row != RAG:
                self._answer(row, sample)

    def _answer(self, row: str, sample: Sample) -> LongAnswer:
        gc.collect()  # what the row before has left lying about
        context, start = sample.context, time.perf_counter()
        if row == RAG and self.library:
            context = self.library.find(sample.question)
        found = time.perf_counter() - start
        run = self.chains[row].start(sample.question, context)
        # On its clock, for nothing has happened yet that it would not count.
        run.stats.seconds += found
        run.stats.seconds_preparing += found
        return _answer(run)

    def _divergences(self, asked: Asked, request: LongRequest) -> list[Divergence]:
        plain = asked.answers[PLAIN]
        places = {
            row: n_agreeing(plain.tokens, answer.tokens)
            for row, answer in asked.answers.items()
            if row != RAG and answer.tokens != plain.tokens
        }
        margins = self._margins(request, plain.tokens, set(places.values()))
        return [
            Divergence(
                row,
                place,
                _at(plain.pieces, place),
                _at(asked.answers[row].pieces, place),
                margins[place],
            )
            for row, place in places.items()
        ]

    def _margins(
        self, request: LongRequest, tokens: Sequence[int], places: set[int]
    ) -> dict[int, float]:
        """How sure the target is at some places, one token after another."""
        margins: dict[int, float] = {}
        if not places:
            return margins
        path = self._plain.engine.open(request.document)
        logits = path.extend(request.tail)
        for place in range(max(places) + 1):
            if place in places:
                second, best = np.partition(logits, -2)[-2:]
                margins[place] = float(best - second)
            if place < max(places):
                logits = path.extend(tokens[place : place + 1])
        return margins

    def _time_passes(self, request: LongRequest) -> dict[int, float]:
        """Seconds of a pass of every size behind a prompt."""
        engine = self._plain.engine
        prompt = (*request.document, *request.tail)
        path = engine.open(request.document)
        path.extend(request.tail)
        room = min(engine.n_batch, engine.n_ctx - len(prompt), len(prompt))
        seconds = {}
        for size in (size for size in SIZES if size <= room):
            start = time.perf_counter()
            path.score(prompt[-size:])
            seconds[size] = time.perf_counter() - start
            path.truncate(len(prompt))
        return seconds


def _costs(
    before: dict[int, float], after: dict[int, float], plain: LongAnswer
) -> PassCosts:
    """Pass costs of a question, timed around its answers; v(1) by plain decoding.

    Plain decoding has all the passes of the answer that every row is compared with,
    and not two that may have met a slow moment.
    """
    known = {size: (before[size] + after[size]) / 2 for size in before}
    if plain.n_decoded:
        known[1] = plain.decoding / plain.n_decoded
    return PassCosts(known)


SIZES = (1, 2, 4, 8, 16, 32)
"""Of the passes that are timed."""

_WARM_TOKENS = 32


def length_class(prompt: Sequence[int]) -> int:
    """Prompts of about one length, for which passes cost about the same."""
    return round(2 * math.log2(max(1, len(prompt))))


def _at(pieces: Sequence[str], place: int) -> str | None:
    return pieces[place] if place < len(pieces) else None


def _answer(run: Run[DraftStats]) -> LongAnswer:
    """Run it, and keep what is to be reported."""
    text = "".join(run)
    request, weights = run.request, run.request.target.weights
    estimates = request.scheduler.estimates
    names = [drafter.name for drafter in request.drafters]
    return LongAnswer(
        text=text,
        tokens=tuple(run.tokens),
        pieces=tuple(
            weights.piece(token).decode("utf-8", "replace") for token in run.tokens
        ),
        ended=run.finish_reason == "stop",
        stats=run.stats,
        drafters={
            name: Estimate(
                estimates.source(name).right(), estimates.source(name).token(1)
            )
            for name in names
        },
    )
