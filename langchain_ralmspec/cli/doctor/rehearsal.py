"""The scheduler of speculation, rehearsed on what a stack was measured to cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from langchain_ralmspec.cli.doctor.costs import BATCH, Costs
from langchain_ralmspec.speculation import (
    GUESS_POLICIES,
    NEEDS_VECTOR,
    Estimates,
    Line,
    Plan,
    Scheduler,
)
from langchain_ralmspec.speculation.costs import Spent, fitted
from langchain_ralmspec.speculation.plan import GuessChances, StepSeconds, call_seconds

STEPS = 16
"""Steps of an answer: 64 tokens, four at a time."""

_POLICIES = tuple(GUESS_POLICIES)
_N_LEARNING = 6  # answers from which the scheduler learns
_N_TIMED = 6  # answers after these


@dataclass(slots=True)
class _Luck:
    """Decides as often as a share says so, without chance."""

    share: float
    owed: float = 0.5

    def __call__(self) -> bool:
        self.owed += self.share
        if self.owed < 1:
            return False
        self.owed -= 1
        return True


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What came of a rehearsal.

    Attributes:
        speedup: seconds of the sequential loop ÷ those of the rehearsed answers, whose
            first retrieval and last verification are waited for.
        plan: the plan by which most was written.
    """

    speedup: float
    plan: str


@dataclass(slots=True)
class Rehearsal:
    """Answers that only cost: the scheduler is told what each thing takes here.

    So a plan is followed only if the scheduler comes to it by itself, from what it
    assumes at first and from what it is told.

    Args:
        costs: what things take, and how many guesses are right.
        policies: the guess policies it may choose from.
        stride: guesses in a call; None lets the scheduler choose.
        asynchronous: whether the model may write on while a call is out.
    """

    costs: Costs
    policies: Sequence[str]
    stride: int | None = None
    asynchronous: bool = True
    _estimates: Estimates = field(init=False)
    _chances: dict[str, GuessChances] = field(init=False)
    _lines: dict[str, Line] = field(init=False)
    _right: dict[str, _Luck] = field(init=False)
    _proven: _Luck = field(init=False)

    def __post_init__(self) -> None:
        """Tell the scheduler how the guesses that were measured have ended."""
        self._estimates = Estimates()
        self._retrieved()  # the first one is not believed
        for policy, judged in self.costs.guesses.items():
            for n in range(judged.n - judged.proven):
                self._estimates.judged(policy, right=n < judged.right - judged.proven)
            for _ in range(judged.proven):
                self._estimates.proved()
        # As far as is known: few guesses are mixed with what it takes for granted.
        self._chances = {
            policy: self._estimates.chances(policy, can_prove=self.costs.can_prove)
            for policy in _POLICIES
        }
        self._lines = {
            policy: verification(self.costs, policy) for policy in GUESS_POLICIES
        }
        shares = self._chances.items()
        self._right = {policy: _Luck(each.accuracy) for policy, each in shares}
        self._proven = _Luck(self._chances["lookup"].proven)

    def run(self) -> Rehearsed:
        """Let the scheduler learn, and then time it."""
        for _ in range(_N_LEARNING):
            self._answer(Counter())
        plans: Counter[str] = Counter()
        seconds = sum(self._answer(plans) for _ in range(_N_TIMED))
        slow = _N_TIMED * STEPS * (self._step(None).mean + self.costs.retrieval)
        return Rehearsed(slow / seconds, plans.most_common(1)[0][0])

    def _answer(self, plans: Counter[str]) -> float:
        """Seconds of an answer; counts the steps by each plan."""
        scheduler = Scheduler(
            self._estimates,
            policies=self.policies,
            stride=self.stride,
            asynchronous=self.asynchronous,
            can_prove=self.costs.can_prove,
        )
        seconds = self.costs.retrieval + self._step(None).mean
        self._generated(overlapped=False)
        n_steps, last = 1, 0.0
        while n_steps < STEPS:
            plan = scheduler.plan()
            if plan.policy:
                if not self.costs.fills_freely:  # then once for the whole answer
                    scheduler = replace(scheduler, policies=(plan.policy,))
                kept, took, last = self._speculate(plan, plan.policy, STEPS - n_steps)
            else:
                kept, took, last = 1, self._wait(), 0.0
            plans[plan.label] += kept
            n_steps += kept
            seconds += took
        return seconds + last

    def _wait(self) -> float:
        """A step of the sequential loop."""
        self._retrieved()
        self._estimates.decay()
        self._estimates.judged("same", right=self._right["same"]())
        self._generated(overlapped=False)
        return self.costs.retrieval + self._step(None).mean

    def _speculate(
        self, plan: Plan, policy: str, most: int
    ) -> tuple[int, float, float]:
        """One call's guesses: steps kept, seconds, and what the last call may add."""
        overlapped, chances = plan.in_flight > 0, self._chances[policy]
        guess, line = guess_seconds(self.costs, policy), self._lines[policy]
        slowed = self.costs.overlap[policy] if overlapped else 1.0
        step = self._step(policy, slowed)
        n_right, n_sent, n_proven = self._guesses(policy, min(plan.stride, most))
        call = line(n_sent)
        self._generated(slowed, overlapped=overlapped)
        self._estimates.guessed(policy, guess)
        self._estimates.verified(policy, n_sent, call, overlapped=overlapped)
        seconds = call_seconds(
            chances,
            n_sent,
            plan.in_flight,
            step=step,
            verification=call,
            computing=self._estimates.computing(policy, call),
        )
        kept = min(n_right + 1, n_sent) + n_proven
        seconds *= kept / chances.kept(n_sent)
        written, last = n_sent * step.mean, 0.0
        if overlapped:
            last = step.expected_longer(n_sent, call) - written
        return min(kept, most), seconds * min(1.0, most / kept), last

    def _guesses(self, policy: str, n_sent: int) -> tuple[int, int, int]:
        """Judge a call's guesses: those before a wrong one, all, and the proven."""
        n_right = n_proven = 0
        # Who is judged in hindsight; look-ups only where they have a cache then.
        beside = "same" if policy != "same" else "lookup"
        is_judged = beside == "same" or self.costs.fills_freely
        for _ in range(n_sent):
            while policy == "lookup" and n_proven < n_sent and self._proven():
                self._estimates.proved()
                n_proven += 1
            is_right = self._right[policy]()
            self._estimates.judged(policy, right=is_right)
            if is_judged and beside in self.costs.guesses:
                self._estimates.judged(beside, right=self._right[beside]())
            if not is_right:
                break
            n_right += 1
        return n_right, n_sent, n_proven

    def _step(self, policy: str | None, slowed: float = 1.0) -> StepSeconds:
        """What a step takes here, a policy's guess included, or without a guess."""
        return StepSeconds.of(
            slowed * self.costs.unchanged,
            slowed * self.costs.changed,
            self._chances["same"].accuracy,
            guess=guess_seconds(self.costs, policy) if policy else 0.0,
            repeats=policy == "same",
        )

    def _generated(self, slowed: float = 1.0, *, overlapped: bool) -> None:
        """Tell the scheduler of a step of each kind."""
        kinds = {False: self.costs.unchanged, True: self.costs.changed}
        for changed, seconds in kinds.items():
            self._estimates.generated(
                slowed * seconds, changed=changed, overlapped=overlapped
            )

    def _retrieved(self) -> None:
        once = self.costs.call(1)
        self._estimates.retrieved(
            Spent(once.embedding, once.embedding_waiting),
            Spent(once.searching, once.waiting),
        )


def guess_seconds(costs: Costs, policy: str) -> float:
    """Seconds of embedding the query, for a policy that looks at its vector."""
    needed = NEEDS_VECTOR[policy]
    return costs.call(1).embedding if needed else 0.0


def verification(costs: Costs, policy: str) -> Line:
    """*b(s)*; a guess that has embedded its query spares that."""
    looks_up = NEEDS_VECTOR[policy]
    calls = (costs.call(n, with_vectors=looks_up) for n in (1, BATCH))
    return fitted((c.n_queries, c.searching if looks_up else c.seconds) for c in calls)
