"""The scheduler of all three methods: how many guesses to send, and when.

It fills the formulas of :mod:`langchain_ralmspec.speculation.plan` with what requests
have measured: *costs* of calls, and a *calibration* of whoever guesses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_ralmspec.speculation.measured import Estimates
from langchain_ralmspec.speculation.plan import (
    EXPLORING,
    IN_FLIGHT,
    SEQUENTIAL,
    STRIDES,
    GuessChances,
    Plan,
    StepSeconds,
    call_seconds,
    gain,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Scheduler:
    """Chooses how to go on, from measured costs and calibrated chances."""

    estimates: Estimates = field(default_factory=Estimates)  # shared with others
    policies: Sequence[str] = ("lookup", "same")  # to choose from
    stride: int | None = None  # None to choose; else always as many are verified
    # Whether calls may be in flight while the model writes; with a given stride one is.
    asynchronous: bool = True
    can_prove: bool = False  # whether the store's answers to look-ups may be proven

    def plan(self) -> Plan:
        """The best plan by the estimates; the sequential one when none is better."""
        with self.estimates.lock:
            return self._best_plan()

    def _best_plan(self) -> Plan:
        estimates = self.estimates
        step, retrieval = estimates.step(None, overlapped=False), estimates.retrieval()
        best, best_rate = SEQUENTIAL, 0.0
        if self.stride is None:
            if step is None or retrieval is None:
                return SEQUENTIAL  # which measures both
            once = step.mean + retrieval
            if once == 0:
                return SEQUENTIAL
            best_rate = (1 + EXPLORING) / once
        for overlapped in self._modes:
            for policy in self.policies:
                for plan in self._plans(policy, overlapped=overlapped):
                    if plan.rate > best_rate:
                        best, best_rate = plan, plan.rate
        return best

    @property
    def _modes(self) -> Sequence[bool]:
        """Whether calls are in flight while the model writes, in plans to consider."""
        if not self.asynchronous:
            return (False,)
        return (False, True) if self.stride is None else (True,)

    def _plans(self, policy: str, *, overlapped: bool) -> Iterator[Plan]:
        """Yield a policy's plans, each with its verified steps per second, E / T.

        Of equally good plans the simplest comes first.
        """
        estimates = self.estimates
        step = estimates.step(policy, overlapped=overlapped) or StepSeconds(0.0)
        chances = estimates.chances(policy, can_prove=self.can_prove)
        # Doubling from what was measured, so that no guess at b(s) is far off.
        strides = [s for s in STRIDES if s <= 2 * estimates.largest]
        if self.stride is not None:
            strides, chances = [self.stride], GuessChances(estimates.accuracy(policy))
        for stride in strides:
            verification = estimates.verification(
                policy, chances.sent(stride), overlapped=overlapped
            )
            computing = estimates.computing(policy, verification)
            for in_flight in IN_FLIGHT if overlapped else (0,):
                seconds = call_seconds(
                    chances,
                    stride,
                    in_flight,
                    step=step,
                    verification=verification,
                    computing=computing,
                )
                rate = chances.kept(stride) / seconds if seconds else float("inf")
                trusted = chances.trusted if stride > 1 else None  # it leaves anyway
                yield Plan(policy, stride, in_flight, trusted, rate)

    def limit(self, name: str) -> int:
        """The most tokens that a drafter may propose."""
        if self.stride is not None:
            return self.stride
        return self.estimates.source(name).longest

    def worth_drafting(self, name: str) -> bool:
        """Whether a drafter should be asked at all this round."""
        with self.estimates.lock:
            if self.stride is not None:
                return True
            if not self.estimates.passes.knows(1):
                return False  # the pass will be plain, whatever it says
            source, single = self.estimates.source(name), self._pass(1)
            asking, token = source.asking(1), source.token(1)
            if asking is None or asking < EXPLORING * single:
                return True
            expected = 0.0  # one that never had a draft has only shown what it costs
            if token is not None:
                chance = source.right()
                expected = max(self._gain([chance] * n, n * token) for n in STRIDES)
            return source.pays(expected, single)

    def is_enough(self, name: str, evidence: Sequence[float]) -> bool:
        """Whether to stop drafting behind tokens with this evidence."""
        if self.stride is not None:
            return len(evidence) >= self.stride
        with self.estimates.lock:
            source = self.estimates.source(name)
            token, chance = source.token(1), source.right()
            if token is None:  # one token tells what the next one costs
                return bool(evidence)
            chances = [source.right(value) for value in evidence]
            now = self._gain(chances)
            return all(
                self._gain([*chances, *[chance] * n], n * token) <= now for n in STRIDES
            )

    def cut(self, name: str, evidence: Sequence[float], *, causal: bool = False) -> int:
        """How many tokens of a draft, with this evidence for each, to verify.

        With ``causal``, decide on each token without a look at those behind it. They
        depend on what was drawn in its place, and a token that is more often verified
        where it is this one is also kept more often.
        """
        if self.stride is not None:
            return min(self.stride, len(evidence))
        with self.estimates.lock:
            if not self.estimates.passes.knows(1):
                return 0
            source = self.estimates.source(name)
            chances = [source.right(value) for value in evidence]
            gains = [self._gain(chances[:n]) for n in range(len(chances) + 1)]
            if causal:
                return self._causal_cut(chances, gains, source.right())
            best = max(gains)
            pays = best > 0 and source.pays(best, self._pass(1))
            return gains.index(best) if pays else 0

    def _causal_cut(
        self, chances: Sequence[float], gains: Sequence[float], chance: float
    ) -> int:
        for n, now in enumerate(gains[:-1]):
            hopes = ([chance] * more for more in (0, *STRIDES))
            if all(self._gain([*chances[: n + 1], *hope]) <= now for hope in hopes):
                return n
        return len(chances)

    def _pass(self, n: int) -> float:
        return self.estimates.passes(n) or 0.0

    def _gain(self, chances: Sequence[float], drafting: float = 0.0) -> float:
        return gain(chances, self._pass, drafting)

    def drafted(self, name: str, n: int, seconds: float) -> None:
        """Add what asking a drafter took, which gave ``n`` tokens."""
        with self.estimates.lock:
            source = self.estimates.source(name)
            source.asking.add(1, seconds)
            if n:
                source.token.add(1, seconds / n)

    def passed(self, n: int, seconds: float) -> None:
        """Add what a pass of the target over ``n`` tokens took."""
        with self.estimates.lock:
            self.estimates.passes.add(n, seconds)

    def earned(self, name: str, n_drafted: int, n_right: int) -> None:
        """Let a drafter's drafts grow while they are right (:meth:`Source.earn`)."""
        with self.estimates.lock:
            self.estimates.source(name).earn(n_drafted, n_right)

    def judged(self, name: str, evidence: Sequence[float], n_right: int) -> None:
        """Add that the first ``n_right`` tokens of a draft were accepted."""
        with self.estimates.lock:
            source = self.estimates.source(name)
            for number, value in enumerate(evidence[: n_right + 1]):
                source.right.add(right=number < n_right, evidence=value)

    def followed(
        self, name: str, drafting: float, verified: tuple[int, int, float] | None
    ) -> None:
        """Add what a round in which a drafter was asked has saved.

        ``drafting`` is its seconds; ``verified`` are the drafted tokens, those of them
        that were right, and the seconds of their pass; None without such a pass.
        """
        with self.estimates.lock:
            single = self._pass(1)
            if verified is None and drafting < EXPLORING * single:
                return  # it was asked because that takes next to nothing
            saved = -drafting
            if verified is not None:
                n_drafted, n_right, verifying = verified
                # No pass takes more than as many of one token, but in a slow moment,
                # for which the drafter is not to blame.
                verifying = min(verifying, (n_drafted + 1) * single)
                saved += (n_right + 1) * single - verifying
            self.estimates.source(name).settle(saved)
