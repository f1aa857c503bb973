"""What requests have measured: costs, and how many guesses are right."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import RLock

from langchain_ralmspec.speculation.calibration import PRIOR_WEIGHT, Calibration
from langchain_ralmspec.speculation.costs import FORGET, Cost, Spent
from langchain_ralmspec.speculation.guess import NEEDS_VECTOR
from langchain_ralmspec.speculation.plan import (
    EXPLORING,
    LONGEST_DRAFT,
    GuessChances,
    StepSeconds,
)

# Share of its time that a local call waits, for threads that compute for it.
_MAX_LOCAL_WAIT = 0.5
# Tokens of a draft by someone of whom nothing is known. Kernels take four tokens at
# once, the token before a draft being one; whether an answer quotes is a matter of the
# whole answer, so a longer first draft would stake too much on it.
_FIRST_DRAFT = 3


@dataclass(slots=True)
class Source:
    """What was measured of one who guesses: a guess policy, or a drafter.

    Attributes:
        right: how often its guesses are right.
        asking: seconds of a guess, or of asking for any draft.
        token: seconds of drafting one more token.
        longest: tokens of its next draft at most.
    """

    right: Calibration = field(default_factory=Calibration)
    asking: Cost = field(default_factory=Cost)
    token: Cost = field(default_factory=Cost)
    longest: int = _FIRST_DRAFT
    _saved: float = 0.0  # seconds that rounds with it won over plain decoding
    _allowed: float = 0.0  # seconds that it may lose by being tried

    def earn(self, n_drafted: int, n_right: int) -> None:
        """Double the limit behind a draft all right; reset it behind a mostly wrong."""
        if n_right == n_drafted:
            self.longest = min(LONGEST_DRAFT, max(self.longest, 2 * n_drafted + 1))
        elif 2 * n_right < n_drafted:
            self.longest = _FIRST_DRAFT

    def pays(self, expected: float, single: float) -> bool:
        """Whether a round with it is worth its while, as rounds so far have it.

        Where it is not, a plain round follows, which allows for trying again: at most
        ``EXPLORING`` of the time may be lost by that.

        Args:
            expected: seconds that the formula says are won.
            single: seconds of a plain round.
        """
        pays = self._saved + self._allowed + PRIOR_WEIGHT * expected > 0
        if not pays:
            self._allowed += EXPLORING * single
        return pays

    def settle(self, seconds: float) -> None:
        """Add the seconds that a round with it has won; losses are below 0."""
        self._saved = (1 - FORGET) * self._saved + seconds
        self._allowed = 0.0


@dataclass(slots=True)
class Estimates:
    """What requests have measured so far; kept between them, so that none starts cold.

    Requests in several threads may add measurements, and plan by them, at once.

    Attributes:
        sources: those who guess, by name.
        passes: *v(n)*, seconds of a pass of the target over n tokens.
        lock: held by whoever reads or adds.
    """

    sources: dict[str, Source] = field(default_factory=dict)
    passes: Cost = field(default_factory=Cost)
    lock: RLock = field(default_factory=RLock)
    _steps: dict[tuple[bool, bool], Cost] = field(default_factory=dict)
    _calls: dict[tuple[str, bool], Cost] = field(default_factory=dict)
    _embedding: Cost = field(default_factory=Cost)
    _searching: Cost = field(default_factory=Cost)
    # Share of look-ups that are proven; none is taken for granted.
    _proven: Calibration = field(default_factory=lambda: Calibration(start=0.0))
    _is_warm: bool = False

    def source(self, name: str) -> Source:
        """Whoever is called so."""
        return self.sources.setdefault(name, Source())

    def generated(self, seconds: float, *, changed: bool, overlapped: bool) -> None:
        """Add the cost of a step.

        It is ``changed`` when its documents are others than those of the step before,
        and ``overlapped`` when a call was in flight meanwhile. An answer's first step,
        which reads the whole prompt, tells nothing of others.
        """
        with self.lock:
            self._steps.setdefault((changed, overlapped), Cost()).add(1, seconds)

    def guessed(self, policy: str, seconds: float) -> None:
        """Add the cost of a guess, embedding its query included."""
        with self.lock:
            self.source(policy).asking.add(1, seconds)

    def retrieved(self, embedding: Spent, searching: Spent) -> None:
        """Add the cost of one retrieval while the model was idle.

        That is what it spent in the query encoder, and in the store.
        """
        with self.lock:
            if not self._is_warm:  # the first one loads models and opens connections
                self._is_warm = True
                return
            self._embedding.add(1, embedding)
            self._searching.add(1, searching)

    def verified(
        self, policy: str, n_queries: int, seconds: float, *, overlapped: bool
    ) -> None:
        """Add the cost of a verification call; ``overlapped`` if the model wrote on."""
        with self.lock:
            self._age(n_queries, policy, overlapped=overlapped)
            kind = self._calls.setdefault((policy, overlapped), Cost())
            kind.add(n_queries, seconds)

    def judged(self, policy: str, *, right: bool, margin: float | None = None) -> None:
        """Add whether a guess, that a policy made or would have made, was right.

        ``margin`` is that by which the cache covered its query, where that is known.
        """
        with self.lock:
            self.source(policy).right.add(right=right, evidence=margin)
            if NEEDS_VECTOR[policy]:
                self._proven.add(right=False)

    def proved(self) -> None:
        """Add a look-up that was proven: right without a verification."""
        with self.lock:
            self._proven.add(right=True)

    def decay(self) -> None:
        """Age all estimates about guesses by one sequential step.

        So bad luck is forgotten in the end, and a policy tried again.
        """
        with self.lock:
            self._proven.fade()
            self._age(1)

    def _age(
        self, n_steps: int, policy: str | None = None, *, overlapped: bool = False
    ) -> None:
        """Forget slowly what is not measured any more, so that it is tried again."""
        for kind, cost in self._calls.items():
            if kind != (policy, overlapped):
                cost.fade(n_steps)
        for (_, beside), cost in self._steps.items():
            if beside and not overlapped:
                cost.fade(n_steps)
        if policy is not None:
            self._embedding.fade(n_steps)
            self._searching.fade(n_steps)
        for name, source in self.sources.items():
            if name == policy:
                continue
            source.asking.fade(n_steps)  # one slow guess must not be the last one
            if NEEDS_VECTOR[name]:  # others are judged whoever guesses
                source.right.fade(n_steps)

    def accuracy(self, policy: str) -> float:
        """*γ*: share of a policy's guesses that are right."""
        return self.source(policy).right()

    def chances(self, policy: str, *, can_prove: bool = False) -> GuessChances:
        """Chances of a policy's guesses, by margin as soon as margins tell anything."""
        proven = self._proven() if can_prove and NEEDS_VECTOR[policy] else 0.0
        border = self.source(policy).right.border
        if border is None:
            return GuessChances(self.accuracy(policy), proven=proven)
        return GuessChances(
            border.accuracy,
            border.unsure,
            border.accuracy_unsure,
            border.trusted,
            proven,
        )

    def step(self, policy: str | None, *, overlapped: bool) -> StepSeconds | None:
        """*a*: seconds of a step; None before any was written.

        How many steps have new documents depends on the text, not on the plan: so how
        long the two kinds take is measured apart.

        Args:
            policy: whose guess is in it; None for a step without one.
            overlapped: whether a call is in flight meanwhile.
        """
        repeats = policy == "same"
        # Where guesses repeat documents, others come behind a wrong guess alone, when
        # no call is out.
        beside = overlapped and not repeats
        changed = self._generating(changed=True, overlapped=beside)
        unchanged = self._generating(changed=False, overlapped=overlapped)
        if changed is None or unchanged is None:
            return None
        return StepSeconds.of(
            unchanged,
            changed,
            self.accuracy("same"),
            guess=self._guessing(policy) if policy else 0.0,
            repeats=repeats,
        )

    def _generating(self, *, changed: bool, overlapped: bool) -> float | None:
        """Seconds of such a step, or those of the most similar kind that is known.

        But nothing is gained by reading documents beside a call that computes until it
        is seen to be: both are taken to be half as fast until one of them is done.
        """
        kinds = {
            kind: seconds
            for kind, cost in self._steps.items()
            if (seconds := cost(1)) is not None
        }
        alone = kinds.get((True, False))
        if changed and overlapped and (True, True) not in kinds and alone is not None:
            return alone + min(alone, self._busy_seconds)
        for kind in (
            (changed, overlapped),
            (changed, not overlapped),
            (not changed, overlapped),
            (not changed, not overlapped),
        ):
            if kind in kinds:
                return kinds[kind]
        return None

    @property
    def _busy_seconds(self) -> float:
        """Seconds of one retrieval in which this machine has something to do."""
        parts = self._embedding, self._searching
        return sum((part(1) or 0.0) * busy_share(part.waiting) for part in parts)

    def _guessing(self, policy: str) -> float:
        embedding = self._embedding(1) if NEEDS_VECTOR[policy] else 0.0
        return self.source(policy).asking(1, once=embedding) or 0.0

    def retrieval(self) -> float | None:
        """*b(1)*: seconds of a retrieval in the sequential loop."""
        embedding, searching = self._embedding(1), self._searching(1)
        if embedding is None or searching is None:
            return None
        return embedding + searching

    def verification(self, policy: str, n_queries: float, *, overlapped: bool) -> float:
        """*b(s)*: seconds of a call.

        A kind of call that was not tried is taken for as cheap as one retrieval, so
        that it is tried: searches beside a writing model say little of those without.
        """
        # Without what the guess has paid already.
        once = max(0.0, (self.retrieval() or 0.0) - self._guessing(policy))
        kind = self._calls.get((policy, overlapped))
        seconds = kind(n_queries, once) if kind else once
        return once if seconds is None else seconds

    @property
    def largest(self) -> int:
        """The largest *s* that *b(s)* was measured with, by any policy in any mode.

        Were it kept by policy, an untried policy could never win against the larger
        strides of another one.
        """
        return max([1, *(cost.largest for cost in self._calls.values())])

    def computing(self, policy: str, verification: float) -> float:
        """*c(s)*: seconds of a call that no other call can share.

        These are the busy shares of the time in the query encoder, where the guess has
        not paid that, and of the rest.
        """
        embedding = 0.0 if NEEDS_VECTOR[policy] else self._embedding(1) or 0.0
        embedding = min(embedding, verification)
        searching = verification - embedding
        busy = busy_share(self._embedding.waiting), busy_share(self._searching.waiting)
        return embedding * busy[0] + searching * busy[1]


def busy_share(waiting: float) -> float:
    """Share of calls in which this machine has something to do.

    The thread of a local call waits too, for threads that compute for it, up to half
    of the time; but so would that of the next one.

    Args:
        waiting: share of the calls in which the thread that asked had nothing to do.
    """
    idle = max(0.0, waiting - _MAX_LOCAL_WAIT) / (1 - _MAX_LOCAL_WAIT)
    return 1 - idle
