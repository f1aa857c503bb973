"""What drafting could have brought, had one known the answer before.

Look-up drafts depend on nothing but the tokens so far, so those of a finished answer
can be made again at every position, and any policy can be played through on them. A
model's drafts cannot without running it: there a formula has to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product, takewhile
from operator import mul

import numpy as np

from langchain_ralmspec.rapid import PromptLookupDrafter

Cost = Callable[[int], float]
"""*v(n)*: seconds of a target pass over n tokens."""

Round = tuple[str | None, int, int]
"""Who drafted, how many tokens, and how many of them were accepted."""

LEAST_EVIDENCES = (0, 1, 2, 3, 4, 5, 7, 10, 16)
LENGTHS = (1, 2, 3, 5, 7, 11, 15, 23, 31)
"""Of drafts, as fixed policies have them."""

END = -1
"""Stands for the token that ends an answer unwritten; nobody drafts it."""


@dataclass(frozen=True, slots=True)
class PassCosts:
    """*v(n)*: the cost of a pass over n tokens, on lines between ``known`` sizes.

    Nothing is believed beforehand, unlike by the scheduler: a benchmark judges it.
    """

    known: dict[int, float]

    @property
    def sizes(self) -> list[int]:
        """The sizes that are known, ascending."""
        return sorted(self.known)

    def __call__(self, n_tokens: int) -> float:
        """The cost; beyond the largest size the last slope goes on, if it rises."""
        if n_tokens in self.known:
            return self.known[n_tokens]
        sizes = self.sizes
        if n_tokens < sizes[-1] or len(sizes) == 1:
            costs = [self.known[size] for size in sizes]
            return float(np.interp(n_tokens, sizes, costs))
        low, high = sizes[-2:]
        slope = (self.known[high] - self.known[low]) / (high - low)
        return self.known[high] + max(0.0, slope) * (n_tokens - high)


@dataclass(frozen=True, slots=True)
class Place:
    """A position of an answer, and the draft that there was for it.

    ``evidence`` is look-up's for the first of the ``drafted`` tokens, of which the
    first ``right`` ones are the answer's.
    """

    evidence: int = 0
    drafted: int = 0
    right: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """Verify ``length`` tokens of a draft of enough evidence; None is never enough."""

    least_evidence: int | None = None
    length: int = 0

    @property
    def label(self) -> str:
        """For a report."""
        if self.least_evidence is None:
            return "never draft"
        if self.least_evidence == 0:
            return f"{self.length} tokens of every match"
        return f"{self.length} tokens on an evidence of {self.least_evidence} or more"


POLICIES = (
    Policy(),
    *(Policy(least, length) for least, length in product(LEAST_EVIDENCES, LENGTHS)),
)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to play through, from its second token on: the prompt gives one."""

    places: tuple[Place, ...]
    cost: Cost

    @property
    def plain(self) -> float:
        """Seconds of plain decoding."""
        return len(self.places) * self.cost(1)

    def seconds(self, policy: Policy) -> float:
        """Seconds by a policy."""
        position, seconds = 0, 0.0
        while position < len(self.places):
            drafted, right = _draft(self.places, position, policy)
            seconds += self.cost(drafted + 1)
            position += right + 1
        return seconds

    @property
    def least_seconds(self) -> float:
        """Seconds of the best draft length at every place, known beforehand.

        Of a draft with so many right tokens any number may be verified. Passes that
        cost more the longer they are leave none of the wrong ones worth it.
        """
        costs = [self.cost(n) for n in range(1, LENGTHS[-1] + 2)]
        least = [0.0] * (len(self.places) + 1)
        for position in reversed(range(len(self.places))):
            place = self.places[position]
            # As in a policy: nothing is wanted behind the last token.
            longest = min(place.drafted, len(self.places) - position - 1)
            least[position] = min(
                costs[n] + least[position + min(n, place.right) + 1]
                for n in range(longest + 1)
            )
        return least[0]


def _draft(places: Sequence[Place], position: int, policy: Policy) -> tuple[int, int]:
    """Tokens that a policy verifies at a position, and those that are right."""
    place = places[position]
    if policy.least_evidence is None or place.evidence < policy.least_evidence:
        return 0, 0
    # The pass gives a token of its own, and nothing is wanted behind the last one.
    drafted = min(policy.length, place.drafted, len(places) - position - 1)
    return drafted, min(drafted, place.right)


def lookup_places(prompt: Sequence[int], answer: Sequence[int]) -> tuple[Place, ...]:
    """What look-up would have drafted behind every token of a finished answer.

    ``END`` stands behind an answer's tokens if it ended by itself.
    """
    drafter, places = PromptLookupDrafter(len(prompt)), []
    prefix = [*prompt, *answer[:1]]
    for position in range(1, len(answer)):
        draft = drafter.propose(prefix, LENGTHS[-1])
        evidence = int(draft.evidence[0]) if draft.tokens else 0
        right = n_agreeing(draft.tokens, answer[position:])
        places.append(Place(evidence, len(draft.tokens), right))
        prefix.append(answer[position])
    return tuple(places)


def n_agreeing(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens at the beginning are the same."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def best_policy(answers: Sequence[Answered]) -> tuple[Policy, float]:
    """The fixed policy that is best for all answers together, and its speed-up.

    That is at least 1, for one of the policies is never to draft.
    """
    plain = sum(answer.plain for answer in answers)
    if not plain:
        return Policy(), 1.0
    seconds = {
        policy: sum(answer.seconds(policy) for answer in answers) for policy in POLICIES
    }
    best = min(POLICIES, key=seconds.__getitem__)
    return best, plain / seconds[best]


def oracle(answers: Sequence[Answered]) -> float:
    """Speed-up of perfect foresight: of every draft what is best to verify.

    Nobody who drafts the same can be sooner, :func:`best_policy` included.
    """
    plain = sum(answer.plain for answer in answers)
    return plain / sum(answer.least_seconds for answer in answers) if plain else 1.0


def ceiling(cost: Cost) -> float:
    """Speed-up were every token drafted, for nothing, and right."""
    return max(n * cost(1) / cost(n) for n in (1, *(one + 1 for one in LENGTHS)))


def acceptance_by_position(rounds: Iterable[Round]) -> list[tuple[int, int]]:
    """For each position in a draft: judged tokens, and accepted ones.

    A token is judged once all before it in its draft were accepted.
    """
    judged: list[tuple[int, int]] = []
    for _, drafted, accepted in rounds:
        for position in range(min(drafted, accepted + 1)):
            if position == len(judged):
                judged.append((0, 0))
            n, right = judged[position]
            judged[position] = n + 1, right + (position < accepted)
    return judged


def model_attainable(
    judged: Sequence[tuple[int, int]], typical: float, step: float, cost: Cost
) -> float:
    """What drafts by a model allow: the best length, were it fixed; at least 1.

    It is the max of E(n)·v(1) / (n·step + v(n + 1)), with E(n) the tokens that a round
    gives.

    Args:
        judged: the model's :func:`acceptance_by_position`.
        typical: acceptance where a position was never judged.
        step: seconds of a drafted token.
        cost: of the target's passes.
    """
    chances = [
        judged[n][1] / judged[n][0] if n < len(judged) else typical
        for n in range(LENGTHS[-1])
    ]
    prefixes = accumulate(chances, mul)  # that so many are all accepted
    expected: list[float] = list(accumulate(prefixes, initial=1.0))
    return max(expected[n] * cost(1) / (n * step + cost(n + 1)) for n in (0, *LENGTHS))
