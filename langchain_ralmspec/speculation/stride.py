"""OS³, the optimal speculation stride scheduler (RaLMSpec section 4), extended.

Of all plans the scheduler takes the one with the most verified steps per second, E / T
(see :mod:`langchain_ralmspec.speculation.plan`), or the sequential loop where that
makes no fewer, 1 / (a + b(1)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.speculation.plan import (
    IN_FLIGHT,
    SEQUENTIAL,
    STRIDES,
    GuessChances,
    Plan,
    call_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_ralmspec.speculation.estimates import Estimates

_MIN_GAIN = 1.02  # of the sequential rate; a smaller predicted gain is noise


@dataclass(frozen=True)
class StrideScheduler:
    """Chooses how to go on, from measured costs and guess accuracies."""

    estimates: Estimates  # shared with other requests
    policies: Sequence[str] = ("lookup", "same")  # to choose from
    stride: int | None = None  # None to choose; a number to speculate with it always
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
            best_rate = _MIN_GAIN / (step + retrieval)
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
        step = estimates.step(policy, overlapped=overlapped) or 0.0
        chances = estimates.chances(policy, can_prove=self.can_prove)
        # Doubling from what was measured, so that no guess at b(s) is far off.
        strides = [s for s in STRIDES if s <= 2 * estimates.largest]
        if self.stride is not None:
            strides, chances = [self.stride], GuessChances(estimates.accuracy(policy))
        for stride in strides:
            verification = estimates.verification(
                policy, chances.sent(stride), overlapped=overlapped
            )
            for in_flight in IN_FLIGHT if overlapped else (0,):
                seconds = call_seconds(
                    chances,
                    stride,
                    in_flight,
                    step=step,
                    verification=verification,
                    computing=estimates.computing(policy, verification),
                )
                rate = chances.kept(stride) / max(seconds, 1e-9)
                trusted = chances.trusted if stride > 1 else None  # it leaves anyway
                yield Plan(policy, stride, in_flight, trusted, rate)
