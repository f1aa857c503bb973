"""How many drafted tokens to verify: measured costs, calibrated chances, 0 included.

A target pass over n tokens takes *v(n)* seconds. On a GPU v(n) hardly differs from
v(1), so RAPID (section 3) drafts a fixed number of tokens. On a CPU it does differ,
and a fixed length loses most of the time. So every draft is gated by its own gain: n
of its tokens are verified where that makes

    gain(n) = v(1)·(P_1 + … + P_n) - (v(n + 1) - v(1))

greatest, with P_i the chance that the first i tokens are all accepted; none where no
gain is positive. The chances come from the drafter's *evidence* for each token (its
probability, or the length of a match) through a table of how often such evidence was
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

PROBES = (1, 2, 4, 8, 16, 32)
"""Batch sizes worth measuring before the first draft; others are as they are used."""

MAX_LENGTH = max(PROBES) - 1
"""Tokens of the longest draft: with the token before them they make one pass."""

# How often evidence of a kind is right, before that was counted here.
_CONFIDENCE = ((0.0, 0.47), (0.2, 0.63), (0.4, 0.82), (0.6, 0.94), (0.8, 0.99))
_MATCH = ((0, 0.2), (3, 0.35), (4, 0.5), (5, 0.65), (7, 0.8), (10, 0.9), (16, 0.97))
_PRIOR_WEIGHT = 4.0
_FORGET = 1 / 256
_MAX_CHANCE = 0.995
_TRIALS = 4.0  # drafts for which a drafter is given credit
_SETTLE = 1 / 64  # of its gain so far is forgotten with each round that used it
_RETRY = 1 / 512  # of what is known against it, with each round that did not
_PROMISING = 0.5  # chance of a draft's first token
_FREE = 0.02  # of a pass: drafting that takes less need not be thought about
_LENGTHS = (1, 2, 3, 5, 7, 11, 15)  # drafts whose gain is looked at in advance


class BatchCosts:
    """*v(n)*: seconds of a target pass over n tokens, as far as they were measured."""

    def __init__(self) -> None:
        """Start without measurements."""
        self._seconds: dict[int, Mean] = {}

    def add(self, n_tokens: int, seconds: float) -> None:
        """Take a measurement in."""
        self._seconds.setdefault(n_tokens, Mean(window=16)).add(seconds)

    @property
    def sizes(self) -> list[int]:
        """The sizes that were measured, ascending."""
        return sorted(self._seconds)

    def __call__(self, n_tokens: int) -> float:
        """Seconds for ``n_tokens``; on a line between neighbours that were measured.

        Raises:
            ValueError: nothing was measured yet.
        """
        if not self._seconds:
            msg = "no batch was timed yet"
            raise ValueError(msg)
        if n_tokens in self._seconds:
            return self._at(n_tokens)
        sizes = self.sizes
        above = bisect_right(sizes, n_tokens)
        if above == 0 or len(sizes) == 1:
            return self._at(sizes[0])
        # Beyond the largest the last slope goes on.
        low, high = sizes[min(above, len(sizes) - 1) - 1 :][:2]
        slope = (self._at(high) - self._at(low)) / (high - low)
        return max(self._at(low), self._at(low) + slope * (n_tokens - low))

    def _at(self, size: int) -> float:
        value = self._seconds[size].value
        assert value is not None  # noqa: S101  a mean is made to hold one
        return value


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
    """For drafters whose evidence is how many tokens before it matched."""
    return Chances(_MATCH)


@dataclass(slots=True)
class DraftEstimates:
    """What is known of one drafter.

    Attributes:
        chances: of its tokens, by evidence.
        overall: of its tokens, whatever the evidence.
        step: seconds that drafting one more token takes.
    """

    chances: Chances = field(default_factory=chances_of_confidence)
    overall: Chances = field(default_factory=lambda: Chances(((0.0, 0.7),)))
    step: Mean = field(default_factory=Mean)
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


class Trust:
    """How long the drafts of an answer may be: longer while they are right.

    Whether an answer quotes is a matter of the whole answer, so its tokens are not as
    independent as their chances are taken to be. A long draft at its beginning would
    stake too much on it, and a short one costs little where it does quote.

    Attributes:
        length: tokens of the next draft at most.
    """

    _FIRST = 7

    def __init__(self) -> None:
        """Start with little."""
        self.length = self._FIRST

    def earned(self, n_drafted: int, n_right: int) -> None:
        """A draft was verified: all right doubles the length, mostly wrong ends that."""
        if n_right == n_drafted:
            self.length = min(MAX_LENGTH, max(self.length, 2 * n_drafted + 1))
        elif 2 * n_right < n_drafted:
            self.length = self._FIRST


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
        """Whether a drafter that takes time should begin at all this round."""
        estimates = self.drafters[name]
        step, typical = estimates.step.value, estimates.typical
        if self.length is not None or not step or not self.costs.sizes:
            return True
        if step < _FREE * self.costs(1):
            return True
        gains = [self._gain([typical] * n, n * step) for n in _LENGTHS]
        worth = estimates.gain(max(gains)) > 0
        if not worth:
            estimates.left_out()
        return worth

    def is_enough(self, name: str, evidence: Sequence[float]) -> bool:
        """Whether to stop drafting behind tokens with this evidence."""
        if self.length is not None:
            return len(evidence) >= self.length
        estimates = self.drafters[name]
        step, typical = estimates.step.value, estimates.typical
        if self._is_blind or step is None:
            # One token tells whether probing is worth it, and what the next one costs.
            return bool(evidence)
        chances = [estimates.chances(value) for value in evidence]
        now = self._gain(chances)
        return all(
            self._gain([*chances, *[typical] * n], n * step) <= now for n in _LENGTHS
        )

    @property
    def _is_blind(self) -> bool:
        """Whether v(n) was not measured yet."""
        return not any(n > 1 for n in self.costs.sizes)

    def is_worth_probing(self, name: str, evidence: Sequence[float]) -> bool:
        """Whether a draft is good enough to measure for it what batches cost."""
        chance = self.drafters[name].chances(evidence[0])
        return self.length is None and self._is_blind and chance >= _PROMISING

    def cut(
        self, name: str, evidence: Sequence[float], *, in_order: bool = False
    ) -> int:
        """How many tokens of a draft to verify; 0 for none.

        Args:
            name: of the drafter.
            evidence: for each of its tokens.
            in_order: decide on each token without a look at those behind it. They
                depend on what was drawn in its place, and a token that is more often
                verified where it is this one is also kept more often.
        """
        if self.length is not None:
            return min(self.length, len(evidence))
        if self._is_blind:
            return 0
        estimates = self.drafters[name]
        chances = [estimates.chances(value) for value in evidence]
        gains = [self._gain(chances[:n]) for n in range(len(chances) + 1)]
        if not in_order:
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
