"""What speculation can be expected to win, from what a stack costs."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_ralmspec.cli.doctor.facts import Facts
from langchain_ralmspec.cli.doctor.rehearsal import Rehearsal, Rehearsed
from langchain_ralmspec.speculation.plan import SEQUENTIAL
from langchain_ralmspec.stores.encoding import LOCAL_EMBEDDINGS

_WAITING = 0.7  # share of a search in which nothing computes, if it is remote
_NETWORK = 0.005  # seconds; a shorter search tells nothing about that


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """Speed-ups over the sequential loop.

    Attributes:
        ceiling: if retrieval cost nothing.
        synchronous: by the scheduler, when the model waits for every verification.
        asynchronous: by the scheduler, when it may write on meanwhile.
        speedup: under the user's settings.
        plan: what is followed most under these.
    """

    ceiling: float
    synchronous: float
    asynchronous: float
    speedup: float
    plan: str

    @property
    def best(self) -> float:
        """The greater of those by the scheduler."""
        return max(self.synchronous, self.asynchronous)


def expect(facts: Facts) -> Gains:
    """Work out what can be won with a stack, under any settings and the user's."""
    costs, settings = facts.costs, facts.settings
    chosen = None if settings.guess_policy == "auto" else settings.guess_policy
    stride = settings.speculation_stride
    followed = Rehearsed(1.0, SEQUENTIAL.label)
    free = {
        asynchronous: rehearse(facts, asynchronous=asynchronous)
        for asynchronous in (False, True)
    }
    if settings.speculation and facts.model.repeatable:
        followed = free[settings.asynchronous]
        if chosen or stride != "auto":
            followed = rehearse(
                facts,
                policy=chosen,
                stride=None if stride == "auto" else stride,
                asynchronous=settings.asynchronous,
            )
    return Gains(
        ceiling=1 + costs.retrieval / costs.step,
        synchronous=free[False].speedup,
        asynchronous=free[True].speedup,
        speedup=followed.speedup,
        plan=followed.plan,
    )


def rehearse(
    facts: Facts,
    *,
    policy: str | None = None,
    stride: int | None = None,
    asynchronous: bool = True,
) -> Rehearsed:
    """What the scheduler comes to; None lets it choose policy or stride."""
    usable = list(facts.costs.guesses)
    chosen = [
        each for each in usable if each == policy
    ]  # not where the store has no vectors
    policies = chosen or usable
    return Rehearsal(facts.costs, policies, stride, asynchronous).run()


def is_remote(facts: Facts) -> bool:
    """Whether the store is elsewhere: so it says, or so its searches wait."""
    if facts.store.is_remote is not None:
        return facts.store.is_remote
    call = facts.costs.call(1)
    return call.searching > _NETWORK and call.waiting > _WAITING * call.searching


def is_hosted(facts: Facts) -> bool:
    """Whether queries are embedded elsewhere: so the waiting for it says.

    On a busy machine the thread waits for an encoder in this process, too.
    """
    if facts.store.embeddings in LOCAL_EMBEDDINGS:
        return False
    waiting = facts.costs.parts["waiting for embeddings"]
    return waiting > max(_NETWORK, _WAITING * facts.costs.call(1).embedding)
