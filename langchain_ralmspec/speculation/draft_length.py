"""How many drafted tokens to verify, from measured costs and calibrated chances.

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
from typing import TYPE_CHECKING

from langchain_ralmspec.speculation.costs import Mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.speculation.batch_costs import BatchCosts

MAX_LENGTH = 31
"""Tokens of the longest draft: with the token before them they make one pass of 32."""

# How often a token with evidence of at least so much is right, before any was counted.
_CONFIDENCE_PRIORS = ((0.0, 0.47), (0.2, 0.63), (0.4, 0.82), (0.6, 0.94), (0.8, 0.99))
_MATCH_PRIORS = (
    *((0, 0.1), (2, 0.15), (3, 0.2), (4, 0.3), (5, 0.4)),
    *((7, 0.5), (10, 0.7), (16, 0.9)),
)
_PRIOR_TOKENS = 8.0  # tokens that such a prior is worth
_FORGET = 1 / 256  # of the counts, with each further token of the same evidence
_MAX_CHANCE = 0.995  # no token is certain
_PRIOR_ROUNDS = 4.0  # rounds for which a drafter's predicted gain is believed
_FORGET_USED = 1 / 64  # of a drafter's gain so far, with each round that used it
_FORGET_UNUSED = 1 / 512  # the same, with each round that left it out
_MIN_CALL = 0.02  # of a pass: a drafter whose call takes less is always asked
_UNTRIED_GAIN = 0.1  # of a pass: what a drafter without any draft so far may save
_LOOKAHEAD = (1, 2, 3, 5, 7, 11, 15)  # further tokens whose gain is predicted


class TokenChances:
    """How often drafted tokens are accepted, by the evidence for them.

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
        """Add whether a token with this evidence was accepted."""
        bin_ = self._bin(evidence)
        self._right[bin_] = (1 - _FORGET) * self._right[bin_] + right
        self._all[bin_] = (1 - _FORGET) * self._all[bin_] + 1

    def __call__(self, evidence: float) -> float:
        """Chance that a token with this evidence is accepted."""
        bin_ = self._bin(evidence)
        right = self._right[bin_] + _PRIOR_TOKENS * self._priors[bin_]
        return min(_MAX_CHANCE, right / (self._all[bin_] + _PRIOR_TOKENS))

    def fade(self, share: float) -> None:
        """Forget this share of what was counted."""
        self._right = [(1 - share) * count for count in self._right]
        self._all = [(1 - share) * count for count in self._all]

    def _bin(self, evidence: float) -> int:
        return max(0, bisect_right(self._edges, evidence) - 1)


def chances_of_confidence() -> TokenChances:
    """Chances for drafters whose evidence is the probability they give a token."""
    return TokenChances(_CONFIDENCE_PRIORS)


def chances_of_match() -> TokenChances:
    """Chances for look-up, whose evidence grows with the match and the copied text."""
    return TokenChances(_MATCH_PRIORS)


class Trust:
    """Limit of a drafter's draft length, which grows while its drafts are right.

    Whether an answer quotes is a matter of the whole answer, so its tokens are not as
    independent as their chances are taken to be. A long draft would stake too much on
    its quoting, and a short draft costs little where it does quote.
    """

    _FIRST = 3

    def __init__(self) -> None:
        """Start with short drafts."""
        self.length = self._FIRST  # tokens of the next draft at most

    def earned(self, n_drafted: int, n_right: int) -> None:
        """Double the limit behind a draft all right; reset it behind a mostly wrong."""
        if n_right == n_drafted:
            self.length = min(MAX_LENGTH, max(self.length, 2 * n_drafted + 1))
        elif 2 * n_right < n_drafted:
            self.length = self._FIRST


@dataclass(slots=True)
class DraftEstimates:
    """What has been measured of one drafter."""

    # How often its tokens are accepted, by evidence, and whatever the evidence.
    chances: TokenChances = field(default_factory=chances_of_confidence)
    overall: TokenChances = field(default_factory=lambda: TokenChances(((0.0, 0.7),)))
    step: Mean = field(default_factory=Mean)  # seconds of drafting one more token
    call: Mean = field(default_factory=Mean)  # seconds of asking for any draft
    trust: Trust = field(default_factory=Trust)
    _saved: float = 0.0
    _rounds: float = 0.0

    @property
    def typical(self) -> float:
        """Chance of a token before its evidence is known."""
        return self.overall(0.0)

    def saved(self, seconds: float) -> None:
        """Add the seconds that a round with its draft saved over plain decoding."""
        self._saved = (1 - _FORGET_USED) * self._saved + seconds
        self._rounds = (1 - _FORGET_USED) * self._rounds + 1

    def left_out(self) -> None:
        """Age the losses of a drafter by one round that did without it."""
        self._saved *= 1 - _FORGET_UNUSED
        self._rounds *= 1 - _FORGET_UNUSED
        self.overall.fade(_FORGET_UNUSED)

    def gain(self, expected: float) -> float:
        """Seconds that a round may save: what formulas expect, corrected by rounds."""
        return (self._saved + _PRIOR_ROUNDS * expected) / (self._rounds + _PRIOR_ROUNDS)


@dataclass(slots=True)
class DraftScheduler:
    """Chooses how many tokens each drafter drafts, and how many of them to verify."""

    costs: BatchCosts  # v(n), of the target at this length of context
    drafters: dict[str, DraftEstimates]  # by name
    length: int | None = None  # None to choose; else always as many are verified

    def limit(self) -> int:
        """The most tokens that a drafter may propose."""
        return MAX_LENGTH if self.length is None else self.length

    def worth_drafting(self, name: str) -> bool:
        """Whether a drafter that takes time should be asked at all this round."""
        estimates = self.drafters[name]
        call, step = estimates.call.value, estimates.step.value
        if self.length is not None:
            return True
        if not self.costs.is_known:  # the pass will be plain, whatever it says
            return False
        if not call or call < _MIN_CALL * self.costs(1):
            return True
        # A drafter that was asked and never had a draft is tried again, but rarely.
        expected = _UNTRIED_GAIN * self.costs(1)
        if step is not None:
            typical = estimates.typical
            expected = max(self._gain([typical] * n, n * step) for n in _LOOKAHEAD)
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
            self._gain([*chances, *[typical] * n], n * step) <= now for n in _LOOKAHEAD
        )

    def cut(self, name: str, evidence: Sequence[float], *, causal: bool = False) -> int:
        """How many tokens of a draft, with this evidence for each, to verify.

        With ``causal``, decide on each token without a look at those behind it. They
        depend on what was drawn in its place, and a token that is more often verified
        where it is this one is also kept more often.
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
            hopes = ([estimates.typical] * more for more in (0, *_LOOKAHEAD))
            if all(self._gain([*chances[: n + 1], *hope]) <= gain for hope in hopes):
                return n
        return len(chances)

    def _gain(self, chances: Sequence[float], drafting: float = 0.0) -> float:
        """gain(n) of tokens with these chances, less the seconds of drafting them."""
        saved: float = self.costs(1) * sum(accumulate(chances, mul))
        return saved - (self.costs(len(chances) + 1) - self.costs(1)) - drafting

    def judged(self, name: str, evidence: Sequence[float], n_right: int) -> None:
        """Add that the first ``n_right`` tokens of a draft were accepted."""
        estimates = self.drafters[name]
        for number, value in enumerate(evidence[: n_right + 1]):
            estimates.chances.add(value, right=number < n_right)
            estimates.overall.add(0.0, right=number < n_right)

    def followed(
        self, name: str, drafting: float, kept: tuple[int, float] | None
    ) -> None:
        """Add what a round in which a drafter was asked has saved.

        ``drafting`` is its seconds; ``kept`` are the drafted tokens that were right,
        and the seconds of the pass that verified them; None without such a pass.
        """
        saved = -drafting
        if kept is not None:
            n_right, verifying = kept
            saved += (n_right + 1) * self.costs(1) - verifying
        self.drafters[name].saved(saved)
