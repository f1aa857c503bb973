"""What requests have measured: costs, and how many guesses are right."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING

from langchain_ralmspec.speculation.confidence import Confidence
from langchain_ralmspec.speculation.costs import CallCosts, Mean, SpentMean
from langchain_ralmspec.speculation.guess import NEEDS_VECTOR, REPLICA
from langchain_ralmspec.speculation.plan import GuessChances

if TYPE_CHECKING:
    from langchain_ralmspec.speculation.costs import Spent

MAX_ACCURACY = 0.995
"""A guess accuracy beyond this is not believed: it would make strides endless."""

# Beliefs about a policy before its first guess: high enough to have it tried.
_PRIOR_ACCURACY = {"lookup": 0.95, "same": 0.85, REPLICA: 0.98}
_PRIOR_PROVEN = 0.3  # share of look-ups, where the store's answers can be proven
_PRIOR_GUESSES = 4.0  # guesses that such a belief is worth
_MIN_WEIGHT = 0.05  # calls; costs that have faded below this are dropped
_MAX_LOCAL_WAIT = 0.5  # share of its time a local call waits, for its own threads


class _FadingMean:
    """A mean over about the last ``window`` events, drawn to a belief while few."""

    def __init__(self, window: int, prior_weight: float) -> None:
        self._keep = 1 - 1 / window
        self._prior_weight = prior_weight  # events that the belief is worth
        self._total = self._n = 0.0

    def add(self, value: float, n: int = 1) -> None:
        self.fade(n)
        self._total += n * value
        self._n += n

    def fade(self, n: int = 1) -> None:
        keep = self._keep**n
        self._total *= keep
        self._n *= keep

    def value(self, prior: float) -> float:
        total = prior * self._prior_weight + self._total
        return total / (self._prior_weight + self._n)


def _new_share() -> _FadingMean:
    """Share of guesses that are right, say."""
    return _FadingMean(128, _PRIOR_GUESSES)


@dataclass(slots=True)
class Estimates:
    """What requests have measured so far; kept between them, so that none starts cold.

    Requests in several threads may add measurements, and plan by them, at once.

    Attributes:
        lock: held by whoever reads or adds.
    """

    lock: RLock = field(default_factory=RLock)
    _generation: dict[tuple[bool, bool], Mean] = field(default_factory=dict)
    _guess: dict[str, Mean] = field(default_factory=dict)
    _verification: dict[tuple[str, bool], CallCosts] = field(default_factory=dict)
    _confidence: Confidence = field(default_factory=Confidence)
    _is_warm: bool = False
    _proven: _FadingMean = field(default_factory=_new_share)  # share of look-ups
    _embedding: SpentMean = field(default_factory=SpentMean)
    _searching: SpentMean = field(default_factory=SpentMean)
    _accuracy: dict[str, _FadingMean] = field(
        default_factory=lambda: {name: _new_share() for name in _PRIOR_ACCURACY}
    )

    def generated(self, seconds: float, *, changed: bool, overlapped: bool) -> None:
        """Add the cost of a step.

        It is ``changed`` when its documents are others than those of the step before,
        and ``overlapped`` when a call was in flight meanwhile.
        """
        with self.lock:
            self._generation.setdefault((changed, overlapped), Mean()).add(seconds)

    def guessed(self, policy: str, seconds: float) -> None:
        """Add the cost of a guess, embedding its query included."""
        with self.lock:
            self._guess.setdefault(policy, Mean()).add(seconds)

    def retrieved(self, embedding: Spent, searching: Spent) -> None:
        """Add the cost of one retrieval while the model was idle.

        That is what it spent in the query encoder, and in the store.
        """
        with self.lock:
            if not self._is_warm:  # the first one loads models and opens connections
                self._is_warm = True
                return
            self._embedding.add(embedding)
            self._searching.add(searching)

    def verified(
        self, policy: str, n_queries: int, seconds: float, *, overlapped: bool
    ) -> None:
        """Add the cost of a verification call; ``overlapped`` if the model wrote on."""
        key = policy, overlapped
        with self.lock:
            self._verification.setdefault(key, CallCosts()).add(n_queries, seconds)
            self._fade(n_queries, but=key)

    def judged(self, policy: str, *, right: bool, margin: float | None = None) -> None:
        """Add whether a guess, that a policy made or would have made, was right.

        ``margin`` is that by which the cache covered its query, where that is known.
        """
        with self.lock:
            self._accuracy[policy].add(right)
            if NEEDS_VECTOR[policy]:
                self._proven.add(0.0)
            if margin is not None:
                self._confidence.add(margin, right=right)

    def proved(self) -> None:
        """Add a look-up that was proven: right without a verification."""
        with self.lock:
            self._proven.add(1.0)

    def decay(self) -> None:
        """Age all estimates about guesses by one sequential step.

        So bad luck is forgotten in the end, and a policy tried again.
        """
        with self.lock:
            for share in (*self._accuracy.values(), self._proven):
                share.fade()
            self._confidence.fade()
            self._fade(1)
            # One slow guess must not be the last one.
            verified = {policy for policy, _ in self._verification}
            for policy in list(self._guess):
                if policy not in verified:
                    self._guess.pop(policy, None)

    def _fade(self, n_steps: int, but: tuple[str, bool] | None = None) -> None:
        """Forget slowly what is not measured any more, so that it is tried again."""
        for key, costs in list(self._verification.items()):
            if key != but and costs.fade(n_steps) < _MIN_WEIGHT:
                del self._verification[key]
                for changed in (False, True) if key[1] else ():
                    self._generation.pop((changed, True), None)

    def accuracy(self, policy: str) -> float:
        """*γ*: share of a policy's guesses that are right."""
        share = self._accuracy[policy].value(_PRIOR_ACCURACY[policy])
        return min(MAX_ACCURACY, share)

    def chances(self, policy: str, *, can_prove: bool = False) -> GuessChances:
        """Chances of a policy's guesses, by margin as soon as margins tell anything."""
        proven = 0.0
        if can_prove and NEEDS_VECTOR[policy]:
            proven = min(MAX_ACCURACY, self._proven.value(_PRIOR_PROVEN))
        # The margins are of the cache alone.
        split = self._confidence.split if policy == "lookup" else None
        if split is None:
            return GuessChances(self.accuracy(policy), proven=proven)
        return GuessChances(
            min(MAX_ACCURACY, split.accuracy),
            split.unsure,
            split.accuracy_unsure,
            split.trusted,
            proven,
        )

    def step(self, policy: str | None, *, overlapped: bool) -> float | None:
        """*a*: seconds of a step, its guess included; None before any was written.

        Steps under new documents cost more than others, and how many there are
        depends on the text, not on the plan: so the two are averaged apart.
        """
        changed = self._generating(changed=True, overlapped=overlapped)
        unchanged = self._generating(changed=False, overlapped=overlapped)
        if changed is None or unchanged is None:
            return None
        stays = self.accuracy("same")
        generation = stays * unchanged + (1 - stays) * changed
        return generation + (self._guessing(policy) if policy else 0.0)

    def _generating(self, *, changed: bool, overlapped: bool) -> float | None:
        """Seconds of such a step, or else of the most similar kind of step known."""
        for key in (
            (changed, overlapped),
            (changed, not overlapped),
            (not changed, overlapped),
            (not changed, not overlapped),
        ):
            if key in self._generation:
                return self._generation[key].value
        return None

    def _guessing(self, policy: str) -> float:
        known = self._guess.get(policy)
        if known is not None:
            return known.value or 0.0
        return (self._embedding.seconds or 0.0) if NEEDS_VECTOR[policy] else 0.0

    def retrieval(self) -> float | None:
        """*b(1)*: seconds of a retrieval in the sequential loop."""
        embedding, searching = self._embedding.seconds, self._searching.seconds
        if embedding is None or searching is None:
            return None
        return embedding + searching

    def verification(self, policy: str, n_queries: float, *, overlapped: bool) -> float:
        """*b(s)*: seconds of a call.

        A kind of call that was not tried is taken for as cheap as one retrieval, so
        that it is tried: searches beside a writing model say little of those without.
        """
        costs = self._verification.get((policy, overlapped))
        once = self._once(policy)
        return costs(n_queries, once) if costs else once

    @property
    def largest(self) -> int:
        """The largest *s* that *b(s)* was measured with, by any policy in any mode.

        Were it kept by policy, an untried policy could never win against the larger
        strides of another one.
        """
        return max([1, *(costs.largest for costs in self._verification.values())])

    def _once(self, policy: str) -> float:
        """Seconds of one retrieval, without what the guess has paid already."""
        return max(0.0, (self.retrieval() or 0.0) - self._guessing(policy))

    def computing(self, policy: str, verification: float) -> float:
        """*c(s)*: seconds of a call that no other call can share.

        These are the busy shares of the time in the query encoder, where the guess has
        not paid that, and of the rest.
        """
        embedding = 0.0 if NEEDS_VECTOR[policy] else self._embedding.seconds or 0.0
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
