"""How many drafted tokens to verify: measured costs, calibrated chances, 0 included.

A target pass over n tokens takes *v(n)* seconds. On a GPU v(n) hardly differs from
v(1), so RAPID (section 3) drafts a fixed number of tokens. On a CPU it does differ,
and a fixed length loses most of the time. So every draft is gated by its own gain: n
of its tokens are verified where that makes

    gain(n) = v(1)·(P_1 + … + P_n) - (v(n + 1) - v(1))

greatest, with P_i the chance that the first i tokens are all accepted; none where no
gain is positive. The chances come from the drafter's *evidence* for each token (its
probability, or the score of a match) through a table of how often such evidence was
right.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul
from threading import Lock
from typing import TYPE_CHECKING

from langchain_ralmspec.speculation.costs import Mean

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LENGTH = 31
"""Tokens of the longest draft: with the token before them they make one pass of 32."""

# v(n) ÷ v(1) on two CPU cores behind 8,000 tokens: what is believed at first.
_SHAPE = ((1, 1.0), (2, 1.8), (4, 2.3), (8, 3.2), (16, 5.3), (32, 8.8))
_SHAPE_WEIGHT = 1.0  # measurements that this belief is worth
_MAX_STEEPNESS = 4.0  # more is a slow moment
_MAX_WEIGHT = 16.0  # measurements of a size that count
_NEIGHBOURS = 1 / 5  # of a size: others within it tell of it, the less the farther
_MAX_SHARED = 3.0  # measurements of a size that its neighbours are worth
_STALE = 0.25  # of a measurement left: so much is to be measured again
_SOONER = 0.8  # of v(1): a larger pass that takes less says that v(1) is wrong
_HOPE = 0.3  # k, where no draft was verified lately

# How often evidence of a kind is right, before that was counted here.
_CONFIDENCE = ((0.0, 0.47), (0.2, 0.63), (0.4, 0.82), (0.6, 0.94), (0.8, 0.99))
_COPIED = (
    *((0, 0.1), (2, 0.15), (3, 0.2), (4, 0.3), (5, 0.4)),
    *((7, 0.5), (10, 0.7), (16, 0.9)),
)
_PRIOR_WEIGHT = 8.0
_FORGET = 1 / 256
_MAX_CHANCE = 0.995
_TRIALS = 4.0  # drafts for which a drafter is given credit
_SETTLE = 1 / 64  # of its gain so far is forgotten with each round that used it
_RETRY = 1 / 512  # of what is known against it, with each round that did not
_FREE = 0.02  # of a pass: a drafter that takes less need not be thought about
_VOICE = 0.1  # of a pass: what a drafter that never said anything may save
_LENGTHS = (1, 2, 3, 5, 7, 11, 15)  # drafts whose gain is looked at in advance


class BatchCosts:
    """*v(n)*: seconds of a target pass over n tokens, learnt from passes made anyway.

    Sizes that were not used follow a curve, *v(1)·(1 + k·(shape(n) - 1))*, with *k*
    from those that were: 1 for a CPU like ours, about 0 for a GPU. Until some were,
    *k* is hoped to be low, which costs a draft. A size shares what was measured with
    its neighbours, since one pass may be slow by more than several tokens are worth;
    what was often measured of a size itself outweighs them.
    Requests of several threads may add to it, and ask it, at once.
    """

    def __init__(self) -> None:
        """Start without measurements."""
        self._means: dict[int, float] = {}
        self._weights: dict[int, float] = {}  # measurements that a mean is worth
        self._estimates: dict[int, float] = {}  # kept until the next measurement
        self._lock = Lock()

    def add(self, n_tokens: int, seconds: float) -> None:
        """Take a measurement in."""
        with self._lock:
            self._add(n_tokens, seconds)

    def _add(self, n_tokens: int, seconds: float) -> None:
        self._estimates.clear()
        if n_tokens > 1 and seconds < _SOONER * self._means.get(1, 0.0):
            # No larger pass is sooner: v(1) was a slow moment, or all is faster now.
            # Were it believed, drafts would seem free, and nothing would time it again.
            del self._means[1], self._weights[1]
        # Older ones fade, so that a slow moment is not for ever.
        for size in self._weights:
            self._weights[size] *= 1 - _FORGET
        weight = min(_MAX_WEIGHT, self._weights.get(n_tokens, 0.0) + 1)
        before = self._means.get(n_tokens, seconds)
        self._weights[n_tokens] = weight
        self._means[n_tokens] = before + (seconds - before) / weight

    @property
    def is_known(self) -> bool:
        """Whether a pass over a single token was timed lately; others follow from it.

        Where every pass has a draft, one goes without now and then to learn it.
        """
        return self._is_fresh(1)

    def __call__(self, n_tokens: int) -> float:
        """Seconds for ``n_tokens``; where a single token was not timed, a guess."""
        with self._lock:
            if n_tokens not in self._estimates:
                self._estimates[n_tokens] = self._estimate(n_tokens)
            return self._estimates[n_tokens]

    def _estimate(self, n_tokens: int) -> float:
        """The curve, times how much dearer than it passes of about this size were."""
        single, steepness = self._single, self._steepness

        def curve(size: int, k: float) -> float:
            return single * (1 + k * (_shape(size) - 1))

        def ratio(size: int) -> float:
            mean = min(self._means[size], curve(size, _MAX_STEEPNESS))
            return mean / curve(size, steepness)

        reach = _NEIGHBOURS * n_tokens
        near = {
            size: weight * (1 - abs(size - n_tokens) / reach)
            for size, weight in self._weights.items()
            if abs(size - n_tokens) < reach
        }
        # Where kernels change, a size is unlike its neighbours: its own passes prevail.
        own = near.pop(n_tokens, 0.0)
        others = sum(near.values())
        share = min(1.0, _MAX_SHARED / others) if others else 0.0
        total = 1.0 + share * sum(weight * ratio(size) for size, weight in near.items())
        if own:
            total += own * ratio(n_tokens)
        return curve(n_tokens, steepness) * total / (1.0 + own + share * others)

    def _is_fresh(self, size: int) -> bool:
        return self._weights.get(size, 0.0) >= _STALE

    @property
    def _single(self) -> float:
        if 1 in self._means:
            return self._means[1]
        return min((mean / _shape(n) for n, mean in self._means.items()), default=1.0)

    @property
    def _steepness(self) -> float:
        """*k*, a mean over the sizes that were used and the belief that it is 1.

        Little is believed where none was used lately: else no draft would be verified
        that pays on a GPU only, and nothing would tell the one from the other.
        """
        single = self._single
        total = weights = 0.0
        for size, weight in self._weights.items():
            if size > 1:
                ratio = (self._means[size] / single - 1) / (_shape(size) - 1)
                total += weight * min(max(ratio, 0.0), _MAX_STEEPNESS)
                weights += weight
        if weights < _STALE:
            return _HOPE
        return (total + _SHAPE_WEIGHT) / (weights + _SHAPE_WEIGHT)


def _shape(n_tokens: int) -> float:
    """v(n) ÷ v(1) as believed: on lines between its points, and beyond the last."""
    above = bisect_right(_SHAPE, (n_tokens, 0.0))
    (low, start), (high, end) = _SHAPE[min(max(above, 1), len(_SHAPE) - 1) - 1 :][:2]
    return start + (end - start) * (n_tokens - low) / (high - low)


class Chances:
    """How often a drafted token is accepted, by the evidence for it.

    Counts only tokens whose predecessors in the draft were all accepted, so products
    of chances are chances of prefixes.
    """

    def __init__(self, priors: Sequence[tuple[float, float]]) -> None:
        """Start from ``(least evidence, chance)``, ascending in both."""
        self._edges = [edge for edge, _ in priors]
        self._priors = [chance for _, chance in priors]
        self._right = [0.0] * len(priors)
        self._all = [0.0] * len(priors)

    def add(self, evidence: float, *, right: bool) -> None:
        """A token with this evidence was accepted, or not."""
        bin_ = self._bin(evidence)
        self._right[bin_] = (1 - _FORGET) * self._right[bin_] + right
        self._all[bin_] = (1 - _FORGET) * self._all[bin_] + 1

    def __call__(self, evidence: float) -> float:
        """Chance that a token with this evidence is accepted."""
        bin_ = self._bin(evidence)
        right = self._right[bin_] + _PRIOR_WEIGHT * self._priors[bin_]
        return min(_MAX_CHANCE, right / (self._all[bin_] + _PRIOR_WEIGHT))

    def fade(self, share: float) -> None:
        """Forget this share of what was counted."""
        self._right = [(1 - share) * count for count in self._right]
        self._all = [(1 - share) * count for count in self._all]

    def _bin(self, evidence: float) -> int:
        return max(0, bisect_right(self._edges, evidence) - 1)


def chances_of_confidence() -> Chances:
    """For drafters whose evidence is the probability that they give a token."""
    return Chances(_CONFIDENCE)


def chances_of_match() -> Chances:
    """For look-up, whose evidence grows with the match and with what was copied."""
    return Chances(_COPIED)


class Trust:
    """How long drafts may be: longer while they are right.

    Whether an answer quotes is a matter of the whole answer, so its tokens are not as
    independent as their chances are taken to be. A long draft would stake too much on
    it, and a short one costs little where it does quote.

    Attributes:
        length: tokens of the next draft at most.
    """

    _FIRST = 3

    def __init__(self) -> None:
        """Start with little."""
        self.length = self._FIRST

    def earned(self, n_drafted: int, n_right: int) -> None:
        """A draft was verified: all right doubles the length, mostly wrong resets."""
        if n_right == n_drafted:
            self.length = min(MAX_LENGTH, max(self.length, 2 * n_drafted + 1))
        elif 2 * n_right < n_drafted:
            self.length = self._FIRST


@dataclass(slots=True)
class DraftEstimates:
    """What is known of one drafter.

    Attributes:
        chances: of its tokens, by evidence.
        overall: of its tokens, whatever the evidence.
        step: seconds that drafting one more token takes.
        call: seconds that asking it takes, whatever it says.
        trust: how long its drafts may be.
    """

    chances: Chances = field(default_factory=chances_of_confidence)
    overall: Chances = field(default_factory=lambda: Chances(((0.0, 0.7),)))
    step: Mean = field(default_factory=Mean)
    call: Mean = field(default_factory=Mean)
    trust: Trust = field(default_factory=Trust)
    _saved: float = 0.0
    _rounds: float = 0.0

    @property
    def typical(self) -> float:
        """Chance of a token of which nothing is known yet."""
        return self.overall(0.0)

    def saved(self, seconds: float) -> None:
        """A round with a draft of it was sooner than plain decoding by so much."""
        self._saved = (1 - _SETTLE) * self._saved + seconds
        self._rounds = (1 - _SETTLE) * self._rounds + 1

    def left_out(self) -> None:
        """A round went without it: what is known against it fades."""
        self._saved *= 1 - _RETRY
        self._rounds *= 1 - _RETRY
        self.overall.fade(_RETRY)

    def gain(self, expected: float) -> float:
        """Seconds that a round with it is expected to save.

        Args:
            expected: what the formulas say, which rounds gone by correct.
        """
        return (self._saved + _TRIALS * expected) / (self._rounds + _TRIALS)


@dataclass(slots=True)
class DraftScheduler:
    """Chooses draft lengths.

    Attributes:
        costs: *v(n)*, of the target at this length of context.
        drafters: what is known of each, by name.
        length: ``None`` to choose; a number to verify that many always.
    """

    costs: BatchCosts
    drafters: dict[str, DraftEstimates]
    length: int | None = None

    def limit(self) -> int:
        """Tokens that a drafter may propose at most."""
        return MAX_LENGTH if self.length is None else self.length

    def worth_drafting(self, name: str) -> bool:
        """Whether a drafter that takes time should be asked at all this round."""
        estimates = self.drafters[name]
        call, step = estimates.call.value, estimates.step.value
        if self.length is not None:
            return True
        if not self.costs.is_known:  # the pass will be plain, whatever it says
            return False
        if not call or call < _FREE * self.costs(1):
            return True
        # One that was asked and has never said anything is tried again, but rarely.
        expected = _VOICE * self.costs(1)
        if step is not None:
            typical = estimates.typical
            expected = max(self._gain([typical] * n, n * step) for n in _LENGTHS)
        worth = estimates.gain(expected) > 0
        if not worth:
            estimates.left_out()
        return worth

    def is_enough(self, name: str, evidence: Sequence[float]) -> bool:
        """Whether to stop drafting behind tokens with this evidence."""
        if self.length is not None:
            return len(evidence) >= self.length
        estimates = self.drafters[name]
        step, typical = estimates.step.value, estimates.typical
        if step is None:  # one token tells what the next one costs
            return bool(evidence)
        chances = [estimates.chances(value) for value in evidence]
        now = self._gain(chances)
        return all(
            self._gain([*chances, *[typical] * n], n * step) <= now for n in _LENGTHS
        )

    def cut(self, name: str, evidence: Sequence[float], *, causal: bool = False) -> int:
        """How many tokens of a draft to verify; 0 for none.

        Args:
            name: of the drafter.
            evidence: for each of its tokens.
            causal: decide on each token without a look at those behind it. They
                depend on what was drawn in its place, and a token that is more often
                verified where it is this one is also kept more often.
        """
        if self.length is not None:
            return min(self.length, len(evidence))
        if not self.costs.is_known:
            return 0
        estimates = self.drafters[name]
        chances = [estimates.chances(value) for value in evidence]
        gains = [self._gain(chances[:n]) for n in range(len(chances) + 1)]
        if not causal:
            return gains.index(max(gains))
        for n, gain in enumerate(gains[:-1]):
            hopes = ([estimates.typical] * more for more in (0, *_LENGTHS))
            if all(self._gain([*chances[: n + 1], *hope]) <= gain for hope in hopes):
                return n
        return len(chances)

    def _gain(self, chances: Sequence[float], drafting: float = 0.0) -> float:
        """gain(n), less the seconds that drafting takes."""
        saved: float = self.costs(1) * sum(accumulate(chances, mul))
        return saved - (self.costs(len(chances) + 1) - self.costs(1)) - drafting

    def judged(self, name: str, evidence: Sequence[float], n_right: int) -> None:
        """Of a draft with this evidence so many tokens were right."""
        estimates = self.drafters[name]
        for number, value in enumerate(evidence[: n_right + 1]):
            estimates.chances.add(value, right=number < n_right)
            estimates.overall.add(0.0, right=number < n_right)

    def followed(
        self, name: str, drafting: float, kept: tuple[int, float] | None
    ) -> None:
        """A round is over in which a drafter was asked.

        Args:
            name: its name.
            drafting: seconds it took.
            kept: drafted tokens that were right, and seconds of the pass that verified
                them; None where no pass was made of its draft.
        """
        saved = -drafting
        if kept is not None:
            n_right, verifying = kept
            saved += (n_right + 1) * self.costs(1) - verifying
        self.drafters[name].saved(saved)
