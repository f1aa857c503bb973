"""How much to guess before asking: the formulas of the three methods.

A *plan* is how to go on: who guesses, how many guesses a verification call carries (the
speculation stride *s*), and how many such calls may be in flight while the model writes
on (*d*; 0 is synchronous). With a step costing *a*, a call of *s* queries *b(s)* and a
guess being right with probability *γ*, a call yields

    E(s) = (1 - γ^s) / (1 - γ)        verified steps, and takes
    T(s, 0) = s·a + b(s)              seconds, the paper's synchronous objective, or
    T(s, d) = γ^s·max(s·a, b(s)/d, c(s)) + (1 - γ^s)·(s·a + b(s))

where *c(s)* is the part of *b(s)* that computes instead of waiting, which calls in
flight cannot share. OS³, the optimal speculation stride scheduler (RaLMSpec section 4),
takes the plan of the greatest E / T, or the sequential loop, 1 / (a + b(1)), where that
is no slower: *s* = 0. The paper's asynchronous objective writes one stride while a call
is out; here writing goes on until *d* calls are.

Three further things are ours. Steps differ: one under other documents than the step
before takes longer, and the mean of the longer of two is more than the longer mean. So
with *S(n)* the seconds of n steps, *m* what the step behind a wrong guess takes more
than others, where guesses repeat the documents before, and *Γ* = γ^s,

    T(s, 0) = s·a + b(s) + (1 - Γ)·m
    T(s, d) = max(W, Γ·E[max(S(s), c(s))]) + (1 - Γ)·(s·a + b(s) + m)
    W = Γ·s·a + Γ^d·(1 - Γ) / (1 - Γ^d)·(E[max(S(d·s), b(s))] - d·s·a)

where *W* has no call wait until *d* are out, as none is behind a wrong guess; without
differences, and where Γ is 1, that is the formula above (:class:`StepSeconds`). Where
the evidence for guesses tells which are unsure (see
:mod:`langchain_ralmspec.speculation.calibration`), a call may leave at the first unsure
guess, before anything is written on it. And guesses that are proven need no call:
:class:`GuessChances` says what these two make of E and T.

A draft of RAPID is verified together with the token before it, in one pass of the
target: with *v(n)* the seconds of a pass of n tokens, *P_i* the chance that the first
i tokens of the draft are all right, and *a* = *v(1)* what each of them saves,

    gain(n) = v(1)·(P_1 + … + P_n) - (v(n + 1) - v(1))

seconds are won by verifying n tokens of it (:func:`gain`); that *n* is taken for which
they are most, and 0 where they are never any. RAPID (section 3) drafts a fixed number:
on a GPU v(n) hardly differs from v(1), but on a CPU it does.

What is tried without being known to pay is limited to ``EXPLORING`` of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXPLORING = 0.02
"""Share of the time that "auto" may lose by trying what may not pay.

It is what is lost at worst where nothing pays, and less than one run differs from
another; so a gain that is predicted to be no greater is taken for none. Somebody who
is asked for less than this share of a round is always asked.
"""

MAX_STEPS_PER_GUESS = 4
"""A call waits for at most this many steps per guess, steps on proven guesses included.

Else a guess behind a long run of proven ones would wait for its verification for ever.
Half of all look-ups are proven at most, which makes two steps per guess on average.
"""


def _sizes(most: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, …: the powers of two, and halfway between them."""
    powers = [2**power for power in range(most.bit_length())]
    halfway = [power + power // 2 for power in powers]
    return tuple(sorted({size for size in (*powers, *halfway) if size <= most}))


# Rows of the benchmarks with documents came to 24 at most; with 97 % of its guesses
# right, a kNN-LM of 2 million entries comes to 32 in simulation.
STRIDES = _sizes(64)
"""Guesses of a call that are considered."""

# As many requests as are out at once elsewhere (``max_concurrency``).
IN_FLIGHT = _sizes(8)
"""Calls in flight that are considered."""

LONGEST_DRAFT = STRIDES[-1] // 2 - 1
"""Tokens of the longest draft: with the token before them they make one pass of 32."""

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Plan:
    """How to go on until the next verification."""

    policy: str | None = None  # name of the guess policy; None runs sequentially
    stride: int = 0  # guesses in one verification call
    in_flight: int = 0  # calls that may be out while the model writes
    # A guess with a margin under this is unsure, and its call leaves at once; None
    # where every call is filled.
    trusted: float | None = field(default=None, compare=False)
    # Verified steps per second, E / T, that the formulas predict.
    rate: float = field(default=0.0, compare=False)

    @property
    def label(self) -> str:
        """For people: ``lookup 4``, ``lookup ≤16``, ``same 1×4`` or ``sequential``."""
        if self.policy is None:
            return "sequential"
        flights = f"×{self.in_flight}" if self.in_flight else ""
        at_most = "" if self.trusted is None else "≤"
        return f"{self.policy} {at_most}{self.stride}{flights}"


SEQUENTIAL = Plan()


@dataclass(frozen=True, slots=True)
class GuessChances:
    """How likely the guesses of one call are to be sure, right or proven.

    A call of at most *s* guesses ends early at an unsure one. With *u* the share of
    unsure guesses, and *q* = γ·(1 - u) the chance that a guess is both sure and right,

        N(s) = (1 - (1 - u)^s) / u          steps are written, one a guess,
        E(s) = (1 - q^s) / (1 - q)          of these steps are kept, and
        q^s + u·γ_u·E(s)                    is the chance that every guess is right.

    Without unsure guesses, *u* = 0, these are the paper's *s*, E(s) and *γ^s*. Guesses
    that are proven are not in the call. With *p* the share of proven guesses among all,
    there are 1 / (1 - p) steps to each guess of a call; no more than
    ``MAX_STEPS_PER_GUESS`` are counted on.
    """

    accuracy: float  # γ, of a sure guess that is not proven
    unsure: float = 0.0  # u
    accuracy_unsure: float = 0.0  # γ_u, of an unsure guess
    trusted: float | None = None  # a margin under this makes a guess unsure
    proven: float = 0.0  # p

    def kept(self, stride: int) -> float:
        """Steps that a call is expected to keep: E(s), and those on proven guesses."""
        return self._right(stride) * self._steps_per_guess

    def written(self, stride: int) -> float:
        """Steps written for a call: N(s), and those on proven guesses."""
        return self.sent(stride) * self._steps_per_guess

    def sent(self, stride: int) -> float:
        """N(s): guesses of a call."""
        return _geometric(1 - self.unsure, stride)

    def all_right(self, stride: int) -> float:
        """Chance that no guess of a call is wrong."""
        filled = (self.accuracy * (1 - self.unsure)) ** stride
        return filled + self.unsure * self.accuracy_unsure * self._right(stride)

    @property
    def _steps_per_guess(self) -> float:
        return min(1 / (1 - self.proven), MAX_STEPS_PER_GUESS)

    def _right(self, stride: int) -> float:
        """E(s): right guesses before a wrong one, and the step behind them."""
        return _geometric(self.accuracy * (1 - self.unsure), stride)


def _geometric(ratio: float, n: int) -> float:
    """1 + ratio + ratio² + …, ``n`` terms."""
    return n if ratio == 1 else (1 - ratio**n) / (1 - ratio)


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """What a step takes, its guess included.

    A step under other documents than the step before takes longer than one under the
    same, by the reading; how long each kind takes is not taken to vary.
    """

    mean: float  # a, of steps under right guesses
    deviation: float = 0.0  # standard deviation from one of them to another
    # What the first step behind a wrong guess takes more: where guesses repeat the
    # documents before, only that one is under others.
    behind_wrong: float = 0.0

    @classmethod
    def of(
        cls,
        unchanged: float,
        changed: float,
        stays: float,
        *,
        guess: float = 0.0,
        repeats: bool = False,
    ) -> StepSeconds:
        """Mix steps of both kinds.

        Args:
            unchanged: seconds of a step under the documents of the step before.
            changed: seconds of one under others.
            stays: how often documents are those of the step before.
            guess: seconds of a guess.
            repeats: whether guesses repeat the documents of the step before.
        """
        reading = max(0.0, changed - unchanged)
        if repeats:
            return cls(unchanged + guess, behind_wrong=reading)
        deviation = math.sqrt(stays * (1 - stays)) * reading
        return cls(unchanged + (1 - stays) * reading + guess, deviation)

    def expected_longer(self, n_steps: float, other: float) -> float:
        """Mean of the longer one of writing ``n_steps`` steps and ``other`` seconds.

        The seconds of the steps are taken for normally distributed: see Clark 1961,
        "The greatest of a finite set of random variables".
        """
        writing, deviation = n_steps * self.mean, math.sqrt(n_steps) * self.deviation
        if not deviation:
            return max(writing, other)
        surplus = (writing - other) / deviation
        share, density = _NORMAL.cdf(surplus), _NORMAL.pdf(surplus)
        return other + (writing - other) * share + deviation * density


def call_seconds(
    chances: GuessChances,
    stride: int,
    in_flight: int,
    *,
    step: StepSeconds,
    verification: float,
    computing: float = 0.0,
) -> float:
    """T(s, d): expected seconds for each verification call.

    Args:
        chances: how likely the call's guesses are to be right.
        stride: *s*.
        in_flight: *d*.
        step: *a*, and how it varies.
        verification: *b(N(s))*, seconds of a call.
        computing: *c(s)*, seconds of a call that no two calls can spend at once.
    """
    n_steps, all_right = chances.written(stride), chances.all_right(stride)
    writing = n_steps * step.mean
    serial = writing + verification
    wrong = (1 - all_right) * (serial + step.behind_wrong)
    if in_flight == 0:
        return all_right * serial + wrong
    # Behind a wrong guess no call is out: the next d are sent without a wait.
    n_out, full = in_flight * n_steps, all_right**in_flight
    waiting = step.expected_longer(n_out, verification) - n_out * step.mean
    shared = all_right * writing + waiting * full / _geometric(all_right, in_flight)
    busy = all_right * step.expected_longer(n_steps, computing)
    return max(shared, busy) + wrong


def gain(
    chances: Sequence[float], seconds: Callable[[int], float], drafting: float = 0.0
) -> float:
    """Expected seconds that verifying a draft wins.

    Args:
        chances: of each token that it is right, those before it being right.
        seconds: *v*, of a pass over a number of tokens.
        drafting: seconds of drafting them, if that is still to be done.
    """
    single = seconds(1)
    saved: float = single * sum(accumulate(chances, mul))
    return saved - (seconds(len(chances) + 1) - single) - drafting
