"""How likely a guess is right, from how often guesses like it were.

What is guessed may be a document, a token of a draft or a token of a kNN-LM. Some come
with *evidence*, a number that is larger when the guess is surer: the probability that
a drafter gives a token, the length of the match that a draft is copied behind, or the
margin of a look-up (:meth:`SessionCache.margin`).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.speculation.costs import FORGET

if TYPE_CHECKING:
    from collections.abc import Callable

# Chance of a guess of which nothing is known: high, so that it is tried. Look-ups are
# right in 85 to 98 % of cases; "same", in 75 %, is judged without being used.
PRIOR_CHANCE = 0.95
# Guesses, or rounds, that a belief is worth beside what was measured. In simulated
# answers of 200 tokens a drafter of no use cost 1.7 %, with 8 it cost 2.5 %; with 2
# drafts of quotes were left alone too soon, and 2 % of the time was lost by that.
PRIOR_WEIGHT = 4.0
# Tokens in common behind which half of all copied tokens are right: of drafts from long
# texts 15, 20, 30, 40, 50, 70 and 90 % were behind 2, 3, 4, 5, 7, 10 and 16 tokens.
_HALF_RIGHT = 7.0

MAX_CHANCE = 1 - FORGET / 2
"""Nothing is believed to be surer: more cannot be seen in 1 / ``FORGET`` guesses."""


def chance_of_match(length: float) -> float:
    """Chance of a copied token, before any was judged, by the tokens in common."""
    ratio = _HALF_RIGHT / length if length > 0 else math.inf
    return 1 / (1 + ratio * ratio)


def chance_of_probability(probability: float) -> float:
    """Chance of a drafted token, before any was judged, by its drafter's probability.

    A little more than was measured, so that drafts are tried: at probabilities of 0.1,
    0.3, 0.5, 0.7 and 0.9 it was 0.47, 0.63, 0.82, 0.94 and 0.99.
    """
    return 1 - (1 - min(max(probability, 0.0), 1.0)) ** 2 / 2


@dataclass(slots=True)
class _Count:
    """Guesses that were judged, the older ones of less weight."""

    right: float = 0.0
    n: float = 0.0

    def add(self, right: float) -> None:
        self.fade()
        self.right += right
        self.n += 1

    def fade(self, n_events: int = 1) -> None:
        kept = (1 - FORGET) ** n_events
        self.right *= kept
        self.n *= kept

    def chance(self, prior: float) -> float:
        right = self.right + PRIOR_WEIGHT * prior
        return min(MAX_CHANCE, right / (self.n + PRIOR_WEIGHT))


@dataclass(frozen=True, slots=True)
class Border:
    """Parts guesses by their evidence into sure and unsure ones."""

    trusted: float  # a guess whose evidence is less is unsure
    unsure: float  # share of unsure guesses
    accuracy: float  # share of right ones among sure guesses
    accuracy_unsure: float  # share of right ones among unsure guesses


class Calibration:
    """P(right | evidence): a share of guesses like this, drawn to a prior while few.

    Evidence on a scale that is known has a prior chance; its bins are the halves,
    quarters, eighths … of all chances, towards 0 as towards 1. Evidence on another
    scale, as a margin has, is told apart by rank alone: see :attr:`border`.
    """

    def __init__(
        self,
        prior: Callable[[float], float] | None = None,
        start: float = PRIOR_CHANCE,
    ) -> None:
        """Start without guesses.

        Args:
            prior: the chance of a guess by its evidence; None where the scale of the
                evidence is not known, or there is none.
            start: the chance of a guess whatever the evidence.
        """
        self._prior, self._start = prior, start
        self._all = _Count()
        self._bins: defaultdict[int, _Count] = defaultdict(_Count)
        # Evidence of the latest guesses, and whether they were right; None for events
        # without a guess, which push older ones out as well. A share of so many is as
        # sure as one that forgets.
        self._latest: deque[tuple[float, bool] | None] = deque(maxlen=round(2 / FORGET))
        self._border: Border | None = None
        self._is_drawn = True

    def __call__(self, evidence: float | None = None) -> float:
        """Chance that a guess with this evidence is right; with any, if it is None."""
        if evidence is None or self._prior is None or not math.isfinite(evidence):
            return self._all.chance(self._start)
        prior = self._prior(evidence)
        return self._bins[_bin(prior)].chance(prior)

    def add(self, *, right: bool, evidence: float | None = None) -> None:
        """Add whether a guess was right."""
        self._all.add(right)
        if evidence is None or not math.isfinite(evidence):
            return
        if self._prior is not None:
            self._bins[_bin(self._prior(evidence))].add(right)
        else:
            self._latest.append((evidence, right))
            self._is_drawn = False

    def fade(self, n_events: int = 1) -> None:
        """Age by events without a guess, so that bad luck is forgotten in the end."""
        self._all.fade(n_events)
        if self._latest:
            self._latest.extend([None] * n_events)
            self._is_drawn = False

    @property
    def border(self) -> Border | None:
        """Under which rank guesses are unsure: the lowest half, quarter, eighth ….

        Of these the one that luck explains least; None where luck explains all.
        """
        if not self._is_drawn:
            self._is_drawn = True
            known = [each for each in self._latest if each is not None]
            self._border = _drawn(sorted(known))
        return self._border


def _bin(chance: float) -> int:
    """1 from a half to three quarters, 2 to seven eighths, …; below a half under 0."""
    chance = min(max(chance, 1 - MAX_CHANCE), MAX_CHANCE)
    is_low = chance < 1 / 2
    return int(math.log2(chance)) - 1 if is_low else int(-math.log2(1 - chance))


def _drawn(guesses: list[tuple[float, bool]]) -> Border | None:
    """The border between ascending evidence that luck explains least."""
    n, best, least_luck = len(guesses), None, 2.0  # standard deviations
    wrong = sum(not right for _, right in guesses)
    size = n // 2
    while size:
        trusted = guesses[size][0]
        below = [right for evidence, right in guesses if evidence < trusted]
        size //= 2
        if not below:
            continue
        wrong_below, share = len(below) - sum(below), wrong / n
        expected = share * len(below)
        deviation = math.sqrt(expected * (1 - share) * (1 - len(below) / n))
        # A whole guess more or less is the least that luck can do.
        surplus = wrong_below - expected - 1 / 2
        if surplus > least_luck * deviation:
            least_luck = surplus / deviation if deviation else math.inf
            above = _Count(n - len(below) - (wrong - wrong_below), n - len(below))
            best = Border(
                trusted,
                len(below) / n,
                above.chance(PRIOR_CHANCE),
                1 - wrong_below / len(below),
            )
    return best
