"""What speculation can be expected to win, from what a stack costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from langchain_ralmspec.bench.bounds import Bounds, fitted
from langchain_ralmspec.cli.doctor.costs import BATCH, Costs
from langchain_ralmspec.cli.doctor.facts import Facts
from langchain_ralmspec.speculation import (
    GUESS_POLICIES,
    Estimates,
    StrideScheduler,
)
from langchain_ralmspec.speculation.costs import Spent
from langchain_ralmspec.speculation.plan import IN_FLIGHT

_WAITING = 0.7  # share of a search in which nothing computes, if it is remote
_NETWORK = 0.005  # seconds; a shorter search tells nothing about that


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """Speed-ups over the sequential loop.

    Attributes:
        ceiling: if retrieval cost nothing.
        synchronous: attainable when the model waits for every verification.
        asynchronous: attainable when it writes on meanwhile.
        plan: what the scheduler chooses with these costs, under the user's settings.
        accuracy: of each policy's guesses, as the scheduler believes it.
    """

    ceiling: float
    synchronous: float
    asynchronous: float
    plan: str
    accuracy: dict[str, float]

    @property
    def best(self) -> float:
        """The greater of the attainable ones."""
        return max(self.synchronous, self.asynchronous)


def expect(facts: Facts, policies: Iterable[str] = GUESS_POLICIES) -> Gains:
    """Work out what can be won with a stack, and these guess policies."""
    costs, estimates, in_flight = facts.costs, estimated(facts), calls_in_flight(facts)
    accuracy = {policy: estimates.accuracy(policy) for policy in policies}

    def attainable(*, overlapped: bool) -> float:
        return max(
            _bounds(costs, policy, accuracy[policy], in_flight * overlapped).attainable
            for policy in accuracy
        )

    return Gains(
        ceiling=1 + costs.retrieval / costs.step,
        synchronous=attainable(overlapped=False),
        asynchronous=attainable(overlapped=True),
        plan=_plan(facts, estimates),
        accuracy=accuracy,
    )


def is_remote(facts: Facts) -> bool:
    """Whether the store is elsewhere: so it says, or so its searches wait."""
    if facts.store.is_remote is not None:
        return facts.store.is_remote
    call = facts.costs.call(1)
    return call.searching > _NETWORK and call.waiting > _WAITING * call.seconds


def calls_in_flight(facts: Facts) -> int:
    """Calls that may gain by being out at once; those of a local store compute."""
    return max(IN_FLIGHT) if is_remote(facts) else 1


def estimated(facts: Facts) -> Estimates:
    """What a scheduler would know after having paid these costs."""
    costs, estimates = facts.costs, Estimates()
    # A scheduler keeps one number for all policies, and is on the way to the best.
    seconds = {False: costs.step, True: costs.step * min(costs.overlap.values())}
    for changed in (False, True):
        for overlapped in (False, True):
            estimates.generated(
                seconds[overlapped], changed=changed, overlapped=overlapped
            )
    once = costs.call(1)
    for _ in range(2):  # the first one is not believed
        estimates.retrieved(
            Spent(once.embedding, once.embedding_waiting),
            Spent(once.searching, once.waiting),
        )
    for policy, judged in costs.guesses.items():
        estimates.guessed(policy, _guess_seconds(costs, policy))
        for n in range(judged.n):
            estimates.judged(policy, right=n < judged.right)
        for n_queries, spent in _verifications(costs, policy):
            for overlapped in (False, True):
                estimates.verified(policy, n_queries, spent, overlapped=overlapped)
    return estimates


def _bounds(costs: Costs, policy: str, accuracy: float, in_flight: int) -> Bounds:
    guess = _guess_seconds(costs, policy)
    if in_flight:  # what the other thread takes from every step
        guess += costs.step * (costs.overlap[policy] - 1)
    return Bounds(
        generation=costs.step,
        retrieval=costs.retrieval,
        guess=guess,
        verification=fitted(_verifications(costs, policy)),
        guess_accuracy=accuracy,
        max_in_flight=in_flight,
    )


def _guess_seconds(costs: Costs, policy: str) -> float:
    """Embedding the query, for a policy that looks at its vector."""
    needed = GUESS_POLICIES[policy].needs_vector
    return costs.call(1).embedding if needed else 0.0


def _verifications(costs: Costs, policy: str) -> list[tuple[int, float]]:
    """Queries and seconds; a guess that has embedded its query spares that."""
    looks_up = GUESS_POLICIES[policy].needs_vector
    calls = (costs.call(n, with_vectors=looks_up) for n in (1, BATCH))
    return [(c.n_queries, c.searching if looks_up else c.seconds) for c in calls]


def _plan(facts: Facts, estimates: Estimates) -> str:
    settings = facts.settings
    if not (settings.speculation and facts.model.repeatable):
        return "sequential"
    chosen, stride = settings.guess_policy, settings.speculation_stride
    scheduler = StrideScheduler(
        estimates,
        policies=tuple(GUESS_POLICIES) if chosen == "auto" else (chosen,),
        stride=None if stride == "auto" else stride,
        asynchronous=settings.asynchronous,
    )
    return scheduler.plan().label
