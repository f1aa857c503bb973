"""RAPID's loop: draft on the short context, verify on the long one.

A round takes a draft from the first drafter that has one worth its time, gives it to
the target in one pass behind the last token, and keeps the tokens that the acceptance
rule keeps, and one more that is the target's own (arXiv 2502.20330, section 3). A
round without a draft is plain decoding.
"""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.rapid.draft import Draft
from langchain_ralmspec.rapid.statistics import DraftStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.answer.sampling import Sampler
    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.engine import Sequence as Path
    from langchain_ralmspec.rapid.draft import Drafter
    from langchain_ralmspec.speculation.acceptance import Acceptance
    from langchain_ralmspec.speculation.draft_length import DraftScheduler

_NO_EVIDENCE = 0.5  # what is made of it is learnt
TARGET = "target"
"""The source of tokens that no drafter had proposed."""


@dataclass(slots=True)
class LongRequest:
    """One answer to be generated from a long context.

    Attributes:
        target: the model.
        document: tokens up to the end of the document; their KV is kept.
        tail: tokens behind it, the question among them.
        transcript: receives the answer.
        sampler: draws tokens.
        acceptance: judges drafted ones.
        scheduler: chooses draft lengths.
        drafters: are asked in this order.
        longest_draft: length limit of a draft; None leaves it to the scheduler.
        stats: counts and seconds.
    """

    target: Model
    document: tuple[int, ...]
    tail: tuple[int, ...]
    transcript: Transcript
    sampler: Sampler
    acceptance: Acceptance
    scheduler: DraftScheduler
    drafters: list[Drafter]
    longest_draft: int | None = None
    stats: DraftStats = field(default_factory=DraftStats)


def generate(request: LongRequest) -> Generator[Committed, None, None]:
    """Write the answer, round by round."""
    path, logits = _read_prompt(request)
    answer = _Answer(request, path)
    yield answer.take(Draft(), None, logits[np.newaxis])
    while request.transcript.finish_reason is None:
        yield answer.round()


def _read_prompt(request: LongRequest) -> tuple[Path, NDArray[np.float32]]:
    """The target's path behind the prompt, and the logits there."""
    start = time.perf_counter()
    target, stats = request.target, request.stats
    stats.prompt_tokens = len(request.document) + len(request.tail)
    path, was_kept = target.find_or_open(request.document)
    stats.cached_tokens = len(request.document) if was_kept else 0
    logits = path.extend(request.tail)
    stats.seconds_prefilling += time.perf_counter() - start
    return path, logits


class _Answer:
    """The state of a request that has its prompt read."""

    def __init__(self, request: LongRequest, path: Path) -> None:
        self._request, self._path = request, path
        self._drafters = list(request.drafters)
        self._prefix = [*request.document, *request.tail]
        self._n_prompt = len(self._prefix)
        self._passed_over: list[tuple[str, Draft]] = []
        self._begun: set[str] = set()  # drafters that have read their prompts
        self._spent: dict[str, float] = {}  # seconds of drafters in this round

    def round(self) -> Committed:
        """Draft, verify, keep."""
        scheduler, stats = self._request.scheduler, self._request.stats
        transcript = self._request.transcript
        self._passed_over, self._spent = [], {}
        start = time.perf_counter()
        name, draft = self._draft()
        drafted = time.perf_counter()
        rows = self._path.score((self._prefix[-1], *draft.tokens))
        drafting, verifying = drafted - start, time.perf_counter() - drafted
        written = self.take(draft, name, rows)
        # What was rejected leaves the KV; the last token was never in it. At the end
        # nothing needs to leave, and a recurrent memory could not let it go.
        ended = transcript.finish_reason is not None
        if not ended and self._path.length >= len(self._prefix):
            self._path.truncate(len(self._prefix) - 1)
        n_right = sum(source != TARGET for source in written.sources)
        scheduler.costs.add(len(rows), verifying)
        stats.seconds_drafting += drafting
        stats.seconds_verifying += verifying
        stats.verified(name, len(draft.tokens), n_right)
        if name is not None:
            scheduler.drafters[name].trust.earned(len(draft.tokens), n_right)
            # Behind a stop nothing was judged.
            n_judged = n_right if transcript.finish_reason == "stop" else None
            scheduler.judged(name, draft.evidence[:n_judged], n_right)
        for drafter, seconds in self._spent.items():
            kept = (n_right, verifying) if drafter == name else None
            scheduler.followed(drafter, seconds, kept)
        self._judge_passed_over(written)
        return written

    def _judge_passed_over(self, written: Committed) -> None:
        """Learn from drafts that were not worth a pass whether they were right."""
        for name, draft in self._passed_over if written.tokens else ():
            n_right = int(draft.tokens[0] == written.tokens[0])
            self._request.scheduler.judged(name, draft.evidence[:1], n_right)

    def take(
        self, draft: Draft, name: str | None, rows: NDArray[np.float32]
    ) -> Committed:
        """Keep what is accepted of a draft, and a token of the target's own.

        Args:
            draft: what was proposed.
            name: by whom.
            rows: the target's logits before each drafted token, and behind the last.
        """
        transcript = self._request.transcript
        start, sources = len(transcript), []
        for number, row in enumerate(rows):
            token = self._choose(row, draft, number)
            is_drafted = number < len(draft.tokens) and token == draft.tokens[number]
            ended = transcript.append(token)
            if len(transcript) > start + number:  # else the token ends the answer
                sources.append(name if name and is_drafted else TARGET)
            if ended or not is_drafted:
                break
        end = len(transcript)
        self._prefix[self._n_prompt + start :] = transcript.tokens[start:]
        self._request.stats.tokens += end - start
        return Committed(
            tuple(transcript.tokens[start:end]),
            transcript.text_bytes(start, end),
            sources=tuple(sources),
        )

    def _choose(self, row: NDArray[np.float32], draft: Draft, number: int) -> int:
        """The token in the place of a drafted one, or behind the last."""
        sampler, acceptance = self._request.sampler, self._request.acceptance
        generated, qs = self._request.transcript.tokens, draft.probabilities
        if qs is None or acceptance.is_lossless or number == len(draft.tokens):
            # Keeping a drafted token exactly where it is the one that plain decoding
            # draws is the rule without distributions (see Acceptance.judge). Without
            # transfer it is as well: an answer depends on its seed, not on drafts.
            return sampler.sample(row, generated)
        q = qs[number]
        if sampler.temperature == 0:
            return acceptance.choice(sampler.penalized(row, generated), q)
        p = sampler.probabilities(row, generated)
        with np.errstate(divide="ignore"):
            p_hat = acceptance.enriched(p, q, np.log(p))
        judged = (draft.tokens[number], p, q, p_hat)
        first, second = sampler.uniforms(len(generated), 2)
        return acceptance.judge(*judged, (first, second))[1]

    def _is_random(self, draft: Draft) -> bool:
        """Whether which tokens are verified bears on the law of what comes out."""
        sampler, acceptance = self._request.sampler, self._request.acceptance
        is_transferred = draft.probabilities is not None and not acceptance.is_lossless
        return is_transferred and sampler.temperature > 0

    def _draft(self) -> tuple[str | None, Draft]:
        """The first draft that is worth a pass, cut to the best length."""
        scheduler = self._request.scheduler
        for drafter in list(self._drafters):
            limit = self._limit(drafter.name)
            if limit < 1 or not scheduler.worth_drafting(drafter.name):
                continue
            draft = self._propose(drafter, limit)
            if not draft.tokens:
                continue
            length = scheduler.cut(
                drafter.name, draft.evidence, in_order=self._is_random(draft)
            )
            if length:
                return drafter.name, draft.cut(length)
            self._passed_over.append((drafter.name, draft))
        return None, Draft()

    def _limit(self, name: str) -> int:
        """Tokens that a draft may have now."""
        request = self._request
        # The pass brings one token more than it verifies.
        room = request.transcript.max_tokens - len(request.transcript) - 1
        limits = [request.scheduler.limit(), room, request.target.n_batch - 1]
        if request.scheduler.length is None:
            limits.append(request.scheduler.drafters[name].trust.length)
        if request.longest_draft is not None:
            limits.append(request.longest_draft)
        return min(limits)

    def _propose(self, drafter: Drafter, limit: int) -> Draft:
        """Ask a drafter; one that fails is not asked again."""
        start = time.perf_counter()
        try:
            draft = drafter.propose(self._prefix, limit)
            _check(draft, limit, self._request.target.weights.n_vocab)
        except Exception as error:  # noqa: BLE001  whatever it is: the target goes on
            self._drafters.remove(drafter)
            warnings.warn(
                f"the drafter {drafter.name!r} failed, so the answer goes on without "
                f"it: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return Draft()
        seconds, n = time.perf_counter() - start, len(draft.tokens)
        if drafter.name in self._begun:
            self._spent[drafter.name] = seconds
            estimates = self._request.scheduler.drafters[drafter.name]
            estimates.call.add(seconds)
            if n:
                estimates.step.add(seconds / n)
        # The first draft takes the drafter's own prompt, which is paid for once.
        self._begun.add(drafter.name)
        if n and not draft.evidence:
            draft = replace(draft, evidence=(_NO_EVIDENCE,) * n)
        return draft


def _check(draft: Draft, limit: int, n_vocab: int) -> None:
    """Refuse a draft that cannot be verified."""
    n = len(draft.tokens)
    if n > limit:
        raise InvalidValueError(f"asked for {limit} tokens at most, it gave {n}")
    for token in draft.tokens:
        if not 0 <= operator.index(token) < n_vocab:
            raise InvalidValueError(f"{token} is not one of {n_vocab} token ids")
    if draft.evidence and len(tuple(map(float, draft.evidence))) != n:
        msg = f"it gave {n} tokens with evidence for {len(draft.evidence)}"
        raise InvalidValueError(msg)
    rows = draft.probabilities
    if rows is not None and rows.shape != (n, n_vocab):
        msg = f"its probabilities have shape {rows.shape}, not {(n, n_vocab)}"
        raise InvalidValueError(msg)
