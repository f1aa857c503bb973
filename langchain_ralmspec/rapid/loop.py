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
from numpy.typing import NDArray

from langchain_ralmspec.answer.token_loop import TARGET, TokenLoop
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.rapid.draft import Draft
from langchain_ralmspec.rapid.statistics import DraftStats

if TYPE_CHECKING:
    from langchain_ralmspec.answer.events import Committed
    from langchain_ralmspec.answer.sampling import Sampler
    from langchain_ralmspec.answer.token_loop import Verdict
    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.rapid.draft import Drafter
    from langchain_ralmspec.speculation import Acceptance, Scheduler

_NO_EVIDENCE = 0.5  # what is made of it is learnt


@dataclass(frozen=True, slots=True)
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
    scheduler: Scheduler
    drafters: tuple[Drafter, ...]
    longest_draft: int | None = None
    namespace: str | None = None
    stats: DraftStats = field(default_factory=DraftStats)


@dataclass(frozen=True, slots=True)
class _Proposal:
    """A draft, and the drafter it is from."""

    draft: Draft = field(default_factory=Draft)
    source: str = TARGET

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.draft.tokens


def generate(request: LongRequest) -> Generator[Committed, None, None]:
    """Write the answer, round by round."""
    loop = DraftLoop(request)
    try:
        yield loop.first_token()
        yield from loop.run()
    finally:  # who keeps the request does not keep its KV
        for drafter in request.drafters:
            getattr(drafter, "forget", lambda: None)()


class DraftLoop(TokenLoop[_Proposal, NDArray[np.float32]]):
    """An answer that drafters propose and the target verifies."""

    def __init__(self, request: LongRequest) -> None:
        """Read the prompt."""
        super().__init__(request.transcript)
        self._request = request
        self._drafters = list(request.drafters)
        # Prompt and answer in one list, as drafters take them.
        self._prefix = [*request.document, *request.tail]
        self._n_prompt = request.stats.prompt_tokens = len(self._prefix)
        self._passed_over: list[_Proposal] = []
        self._begun: set[str] = set()  # drafters that have read their prompts
        self._spent: dict[str, float] = {}  # seconds of drafters in this round
        self._pass_seconds = 0.0
        with request.stats.timing("prefilling"):
            self._path, n_kept = request.target.find_or_open(
                request.document, namespace=request.namespace
            )
            self._logits = self._path.extend(request.tail)
        request.stats.cached_tokens = n_kept

    def first_token(self) -> Committed:
        """Write the token that the prompt's logits tell."""
        committed = self.keep(_Proposal(), [self._logits]).committed
        self._request.stats.tokens += len(committed.tokens)
        return committed

    def propose(self) -> _Proposal:
        """Take the first draft that is worth a pass, cut to the best length."""
        request, transcript = self._request, self.transcript
        scheduler, is_drawn = request.scheduler, request.sampler.temperature > 0
        may_be_random = is_drawn and not request.acceptance.is_lossless
        self._prefix += transcript.tokens[len(self._prefix) - self._n_prompt :]
        self._passed_over, self._spent = [], {}
        with request.stats.timing("drafting"):
            for drafter in list(self._drafters):
                limit = self._limit(drafter.name)
                if limit < 1 or not scheduler.worth_drafting(drafter.name):
                    continue
                draft = self._ask(drafter, limit)
                if not draft.tokens:
                    continue
                # Whether what is verified bears on the law of what comes out.
                causal = may_be_random and draft.probabilities is not None
                length = scheduler.cut(drafter.name, draft.evidence, causal=causal)
                if length:
                    return _Proposal(draft.cut(length), drafter.name)
                self._passed_over.append(_Proposal(draft, drafter.name))
        return _Proposal()

    def _limit(self, name: str) -> int:
        """Tokens that a draft may have now."""
        request = self._request
        # The pass brings one token more than it verifies.
        room = self.transcript.max_tokens - len(self.transcript) - 1
        limits = [request.scheduler.limit(name), room, request.target.n_batch - 1]
        if request.longest_draft is not None:
            limits.append(request.longest_draft)
        return min(limits)

    def _ask(self, drafter: Drafter, limit: int) -> Draft:
        """Ask a drafter; one that fails is not asked again."""
        start = time.perf_counter()
        try:
            draft = drafter.propose(self._prefix, limit)
            _check(draft, limit, self._request.target.weights.n_vocab)
            # As numbers of Python's own: numpy's are none of JSON.
            draft = replace(draft, tokens=tuple(map(operator.index, draft.tokens)))
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
        # The first draft takes the drafter's own prompt, which is paid for once.
        if drafter.name in self._begun:
            self._spent[drafter.name] = seconds
            self._request.scheduler.drafted(drafter.name, n, seconds)
        self._begun.add(drafter.name)
        if n and not draft.evidence:
            draft = replace(draft, evidence=(_NO_EVIDENCE,) * n)
        return draft

    def verify(self, proposal: _Proposal) -> list[NDArray[np.float32]]:
        """The target's logits before each drafted token, and behind the last."""
        start = time.perf_counter()
        rows = self._path.score((self.transcript.tokens[-1], *proposal.tokens))
        self._pass_seconds = time.perf_counter() - start
        self._request.stats.spend(self._pass_seconds, "verifying")
        return list(rows)

    def choose(
        self, truth: NDArray[np.float32], proposal: _Proposal, number: int
    ) -> int:
        """Apply the acceptance rule to a drafted token, or draw one behind the last."""
        sampler, acceptance = self._request.sampler, self._request.acceptance
        generated, qs = self.transcript.tokens, proposal.draft.probabilities
        if qs is None or acceptance.is_lossless or number == len(proposal.tokens):
            # A drafted token is kept exactly where it is the one that plain decoding
            # draws: so an answer depends on its seed, not on drafts.
            return sampler.sample(truth, generated)
        q = qs[number]
        if sampler.temperature == 0:
            # With transfer any token may become the best one.
            logits = sampler.penalized(truth, generated)
            return acceptance.choice(sampler.permitted(logits, generated, 0), q)
        p = sampler.probabilities(truth, generated)
        with np.errstate(divide="ignore"):
            p_hat = acceptance.enriched(p, q, np.log(p))
        judged = (proposal.tokens[number], p, q, p_hat)
        first, second = sampler.uniforms(len(generated), 2)
        return acceptance.judge(*judged, (first, second))[1]

    def settle(self, proposal: _Proposal, verdict: Verdict) -> None:
        """Take rejected tokens out of the KV, and learn from the round."""
        length = self._n_prompt + len(self.transcript) - 1
        # The last token was never in the KV. At the end nothing needs to leave, and a
        # recurrent memory could not let it go.
        if self.transcript.finish_reason is None and self._path.length > length:
            self._path.truncate(length)
        scheduler, stats = self._request.scheduler, self._request.stats
        written = verdict.committed.tokens
        num_draft_tokens = len(proposal.tokens)
        num_accepted_tokens = min(verdict.num_accepted_tokens, len(written))
        name = proposal.source if num_draft_tokens else None
        scheduler.passed(1 + num_draft_tokens, self._pass_seconds)
        stats.tokens += len(written)
        stats.verified(name, num_draft_tokens, num_accepted_tokens)
        if name is not None:
            scheduler.earned(name, num_draft_tokens, num_accepted_tokens)
            # Behind a stop nothing was judged.
            has_stopped = self.transcript.finish_reason == "stop"
            judged = proposal.draft.evidence
            judged = judged[:num_accepted_tokens] if has_stopped else judged
            scheduler.judged(name, judged, num_accepted_tokens)
        for drafter, seconds in self._spent.items():
            verified = (num_draft_tokens, num_accepted_tokens, self._pass_seconds)
            scheduler.followed(drafter, seconds, verified if drafter == name else None)
        for passed_over in self._passed_over if written else ():
            # Whether a draft that was not worth a pass was right tells as well.
            n_right = int(passed_over.tokens[0] == written[0])
            evidence = passed_over.draft.evidence[:1]
            scheduler.judged(passed_over.source, evidence, n_right)


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
