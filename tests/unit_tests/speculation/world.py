"""A simulated world in which true costs and guess accuracies are known."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from langchain_ralmspec.speculation import Estimates, Line, Plan, Scheduler
from langchain_ralmspec.speculation.costs import Spent
from langchain_ralmspec.speculation.plan import (
    IN_FLIGHT,
    SEQUENTIAL,
    STRIDES,
    GuessChances,
    StepSeconds,
    call_seconds,
)


@dataclass
class World:
    """What things truly cost, in seconds, and how often guesses are right."""

    generation: float
    embedding: float
    search: Line
    accuracy: dict[str, float]
    alone: float | None = None  # seconds of a search for one, if it is none for many
    waits: bool = False  # whether searching is waiting, as for a server
    encoder_waits: bool = False  # whether embedding is, as a service does it
    noise: float = 0.0
    # Look-ups whose margins tell that they are unsure: their share, and how many of
    # them are right. The others are right as often as `accuracy` has it.
    unsure: float = 0.0
    accuracy_unsure: float = 0.0
    proven: float = 0.0  # share of look-ups that need no verification
    contention: float = 1.0  # how many times as long a step takes beside a call
    clock: float = 0.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def searching(self, n_queries: float) -> float:
        if n_queries == 1 and self.alone is not None:
            return self.alone
        return self.search(n_queries)

    def writing(self, plan: Plan) -> float:
        """Seconds of a step."""
        return self.generation * (self.contention if plan.in_flight else 1.0)

    def retrieval(self) -> float:
        return self.embedding + self.searching(1)

    def guess(self, policy: str) -> float:
        return self.embedding if policy == "lookup" else 0.0

    def verification(self, policy: str, n_queries: float) -> float:
        embedding = 0.0 if policy == "lookup" else self.embedding
        return embedding + self.searching(n_queries)

    def computing(self, policy: str, n_queries: float) -> float:
        searching = 0.0 if self.waits else self.searching(n_queries)
        embeds = policy != "lookup" and not self.encoder_waits
        return searching + (self.embedding if embeds else 0.0)

    def chances(self, plan: Plan) -> GuessChances:
        accuracy, unsure = self.accuracy[plan.policy or ""], self.unsure
        if plan.policy != "lookup":
            return GuessChances(accuracy)
        if plan.trusted is not None:
            return GuessChances(
                accuracy, unsure, self.accuracy_unsure, 0.0, self.proven
            )
        accuracy = accuracy * (1 - unsure) + self.accuracy_unsure * unsure
        return GuessChances(accuracy, proven=self.proven)

    def rate(self, plan: Plan) -> float:
        """Verified steps a second in the long run."""
        if plan.policy is None:
            return 1 / (self.generation + self.retrieval())
        chances = self.chances(plan)
        sent = chances.sent(plan.stride)
        seconds = call_seconds(
            chances,
            plan.stride,
            plan.in_flight,
            step=StepSeconds(self.writing(plan) + self.guess(plan.policy)),
            verification=self.verification(plan.policy, sent),
            computing=self.computing(plan.policy, sent),
        )
        return chances.kept(plan.stride) / seconds

    def best_rate(self, *, asynchronous: bool) -> float:
        flights = (0, *IN_FLIGHT) if asynchronous else (0,)
        plans = itertools.starmap(
            Plan, itertools.product(("lookup", "same"), STRIDES, flights)
        )
        return max(self.rate(SEQUENTIAL), *map(self.rate, plans))

    def retrieve(self, estimates: Estimates) -> None:
        waiting = self.searching(1) if self.waits else 0.0
        encoding = self.embedding if self.encoder_waits else 0.0
        estimates.retrieved(
            Spent(self.embedding, encoding), Spent(self.searching(1), waiting)
        )

    def tell(self, estimates: Estimates, plan: Plan) -> int:
        """Follow a plan for one verification; returns the steps that it kept."""
        overlapped = plan.in_flight > 0

        def noisy(seconds: float) -> float:
            return seconds * float(np.exp(self.noise * self.rng.normal()))

        def write() -> float:
            seconds = noisy(self.writing(plan))
            estimates.generated(seconds, changed=False, overlapped=overlapped)
            return seconds

        if plan.policy is None:
            self.clock += write() + noisy(self.retrieval())
            self.retrieve(estimates)
            estimates.decay()
            stayed = self.rng.random() < self.accuracy["same"]
            estimates.judged("same", right=bool(stayed))
            return 1
        right: list[bool] = []
        margins: list[float | None] = []
        n_proven = 0
        trusted = -1.0 if plan.trusted is None else plan.trusted
        while len(right) < plan.stride:
            write()
            estimates.guessed(plan.policy, noisy(self.guess(plan.policy)))
            if plan.policy == "lookup" and self.rng.random() < self.proven:
                if all(right):  # else it stands on a wrong guess
                    estimates.proved()
                    n_proven += 1
                continue
            margin, is_right = self.luck(plan.policy)
            margins.append(margin)
            right.append(is_right)
            if margin is not None and margin < trusted:
                break
        n_right = [*right, False].index(False)
        for is_right, margin in zip(right[: n_right + 1], margins, strict=False):
            estimates.judged(plan.policy, right=is_right, margin=margin)
            if plan.policy != "same":
                stayed = self.rng.random() < self.accuracy["same"]
                estimates.judged("same", right=bool(stayed))
        estimates.verified(
            plan.policy,
            len(right),
            noisy(self.verification(plan.policy, len(right))),
            overlapped=overlapped,
        )
        kept = min(n_right + 1, len(right)) + n_proven
        expected = self.chances(plan).kept(plan.stride)
        self.clock += expected / self.rate(plan)
        return kept

    def luck(self, policy: str) -> tuple[float | None, bool]:
        """Margin of a guess, and whether it is right."""
        if policy != "lookup" or not self.unsure:
            return None, bool(self.rng.random() < self.accuracy[policy])
        is_unsure = self.rng.random() < self.unsure
        share = self.accuracy_unsure if is_unsure else self.accuracy[policy]
        margin = self.rng.random() * (-1 if is_unsure else 1)
        return float(margin), bool(self.rng.random() < share)


def run(world: World, n_steps: int, *, asynchronous: bool = True) -> Scheduler:
    scheduler = Scheduler(
        Estimates(), asynchronous=asynchronous, can_prove=world.proven > 0
    )
    world.retrieve(scheduler.estimates)
    steps = 0
    while steps < n_steps:
        steps += world.tell(scheduler.estimates, scheduler.plan())
    return scheduler
