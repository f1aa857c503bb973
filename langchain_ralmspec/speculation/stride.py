"""OS³, the optimal speculation stride scheduler (RaLMSpec section 4), extended.

A *plan* is how to go on: which guess policy, how many guesses a verification call
carries (the speculation stride *s*), and how many such calls may be in flight while
the model writes on (*d*; 0 is synchronous). With a step costing *a*, a call of *s*
queries *b(s)* and a guess being right with probability *γ*, a call yields

    E(s) = (1 - γ^s) / (1 - γ)        verified steps, and takes
    T(s, 0) = s·a + b(s)              seconds, the paper's synchronous objective, or
    T(s, d) = γ^s·max(s·a, b(s)/d, c(s)) + (1 - γ^s)·(s·a + b(s))

where *c(s)* is the part of *b(s)* that computes instead of waiting, which calls in
flight cannot share. The paper's asynchronous objective writes one stride while a
call is out; here writing goes on until *d* calls are. The plan with the greatest
E / T is chosen, or none where the sequential rate 1 / (a + b(1)) is no less. How far
the promises of a kind of plan were off is measured, and taken off the next ones.

Ours are two further things. Where unsure guesses are known for it (see
:mod:`langchain_ralmspec.speculation.confidence`), a call may leave at the first of
them, before anything is written on it. And guesses that are proven need no call. See
:class:`Chances` for what that makes of E and T.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from langchain_ralmspec.speculation.confidence import Confidence
from langchain_ralmspec.speculation.costs import CallCosts, Mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

P = ParamSpec("P")

MAX_ACCURACY = 0.995
"""A guess accuracy beyond this is not believed: it would make strides endless."""

MOST_STEPS = 4
"""Steps to each guess of a call, proven ones among them, for which it may wait."""

STRIDES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64)
IN_FLIGHT = (1, 2, 3, 4, 6, 8)

# What is believed of a policy before it was tried: enough to have it tried.
_PRIOR_ACCURACY = {"lookup": 0.95, "same": 0.85}
_PRIOR_PROVEN = 0.3  # where guesses may be
_PRIOR_WEIGHT = 4.0
_BIAS_WEIGHT = 6.0  # steps for which a kind of plan is given credit
_FORGOTTEN = 0.05  # weight, in calls, under which costs say nothing any more
_LOCAL_WAITS = 0.5  # share of its time that a local search may wait, for its threads
_WORTHWHILE = 1.02  # a predicted gain below this is noise


@dataclass(frozen=True, slots=True)
class Plan:
    """How to go on until the next verification.

    Attributes:
        policy: name of the guess policy; None runs sequentially.
        stride: guesses in one verification call.
        in_flight: calls that may be out while the model writes; 0 waits for each.
        trusted: a guess whose margin is under this is unsure, and its call leaves at
            once; None where every call is filled.
        rate: verified steps per second, E / T, that the formulas promise of it.
    """

    policy: str | None = None
    stride: int = 0
    in_flight: int = 0
    trusted: float | None = field(default=None, compare=False)
    rate: float = field(default=0.0, compare=False)

    @property
    def is_ahead(self) -> bool:
        """Whether anything is written before the guess under it is verified."""
        return self.stride > 1 or self.in_flight > 0

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
class Chances:
    """What becomes of the guesses of one call.

    A call of at most *s* guesses ends early at an unsure one. With *u* their share,
    and *q* = γ·(1 - u) the chance that a guess is both sure and right,

        E(s) = (1 - q^s) / (1 - q)          steps are kept of
        N(s) = (1 - (1 - u)^s) / u          that are written, one a guess, and
        q^s + u·γ_u·E(s)                    is the chance that every guess is right.

    Without unsure guesses, *u* = 0, these are the paper's E(s), *s* and *γ^s*. Guesses
    that are proven are not in the call. With *p* their share among all, there are
    1 / (1 - p) steps to each of the others, of which no more than four are counted on.

    Attributes:
        accuracy: *γ*, of a sure guess that is not proven.
        unsure: *u*.
        accuracy_unsure: *γ_u*, of an unsure guess.
        trusted: a margin under this makes a guess unsure; None: none is.
        proven: *p*.
    """

    accuracy: float
    unsure: float = 0.0
    accuracy_unsure: float = 0.0
    trusted: float | None = None
    proven: float = 0.0

    def kept(self, stride: int) -> float:
        """Steps that a verification is expected to keep: E(s), and the proven ones."""
        return self._right(stride) * self._steps

    def written(self, stride: int) -> float:
        """Steps that are written for it: N(s), and the proven ones."""
        return self.sent(stride) * self._steps

    def sent(self, stride: int) -> float:
        """N(s): guesses of a call."""
        return _geometric(1 - self.unsure, stride)

    def all_right(self, stride: int) -> float:
        """Chance that no guess of a call is wrong."""
        filled = (self.accuracy * (1 - self.unsure)) ** stride
        return filled + self.unsure * self.accuracy_unsure * self._right(stride)

    @property
    def _steps(self) -> float:
        """To each guess of a call."""
        return min(1 / (1 - self.proven), MOST_STEPS)

    def _right(self, stride: int) -> float:
        """E(s): right guesses before a wrong one, and the step behind them."""
        return _geometric(self.accuracy * (1 - self.unsure), stride)


def _geometric(ratio: float, n: int) -> float:
    """1 + ratio + … of ``n`` terms."""
    return n if ratio == 1 else (1 - ratio**n) / (1 - ratio)


def call_seconds(
    chances: Chances,
    stride: int,
    in_flight: int,
    *,
    step: float,
    verification: float,
    computing: float = 0.0,
) -> float:
    """T(s, d): expected seconds for each verification call.

    Args:
        chances: of its guesses.
        stride: *s*.
        in_flight: *d*.
        step: *a*, seconds of a step, its guess included.
        verification: *b(N(s))*, seconds of a call.
        computing: *c(s)*, seconds of it that no two calls can spend at once.
    """
    writing = chances.written(stride) * step
    in_turn = writing + verification
    if in_flight == 0:
        return in_turn
    all_right = chances.all_right(stride)
    overlapped = max(writing, verification / in_flight, computing)
    return all_right * overlapped + (1 - all_right) * in_turn


class _Share:
    """Of right guesses, say, among about the last ``window``."""

    def __init__(self, window: int = 128) -> None:
        self._keep = 1 - 1 / window
        self._some = self._all = 0.0

    def add(self, *, belongs: bool) -> None:
        self.fade()
        self._some += belongs
        self._all += 1

    def fade(self) -> None:
        self._some *= self._keep
        self._all *= self._keep

    def value(self, prior: float) -> float:
        """Nearer to ``prior`` the less is known."""
        some = prior * _PRIOR_WEIGHT + self._some
        return min(MAX_ACCURACY, some / (_PRIOR_WEIGHT + self._all))


class _Bias:
    """Actual ÷ predicted seconds of a step, over about the last ``window`` steps.

    The formulas leave things out: cores that two threads share, answers that end,
    wrong guesses that come in runs. What they miss is the same next time.
    """

    def __init__(self, window: int = 96) -> None:
        self._window = window
        self._ratios = self._steps = 0.0

    def add(self, n_steps: int, ratio: float) -> None:
        self.fade(n_steps)
        self._ratios += n_steps * ratio
        self._steps += n_steps

    def fade(self, n_steps: int) -> None:
        keep = (1 - 1 / self._window) ** n_steps
        self._ratios *= keep
        self._steps *= keep

    def value(self, prior: float) -> float:
        """Nearer to ``prior`` the less is known."""
        return (self._ratios + _BIAS_WEIGHT * prior) / (self._steps + _BIAS_WEIGHT)


def _in_turn(
    method: Callable[Concatenate[Estimates, P], None],
) -> Callable[Concatenate[Estimates, P], None]:
    """One thread at a time."""

    @wraps(method)
    def locked(self: Estimates, /, *args: P.args, **kwargs: P.kwargs) -> None:
        with self.lock:
            method(self, *args, **kwargs)

    return locked


@dataclass(slots=True)
class Estimates:
    """What was measured so far; outlives requests, so that none starts cold.

    Requests of several threads may add to it, and plan by it, at once.

    Attributes:
        contention: actual ÷ predicted seconds, before that was measured, of plans
            that write while a search computes on the same cores.
        lock: held by whoever reads or adds.
    """

    contention: float = 1.0
    lock: RLock = field(default_factory=RLock)
    _generation: dict[tuple[bool, bool], Mean] = field(default_factory=dict)
    _guess: dict[str, Mean] = field(default_factory=dict)
    _verification: dict[tuple[str, bool], CallCosts] = field(default_factory=dict)
    _bias: dict[tuple[str, bool, bool], _Bias] = field(default_factory=dict)
    _confidence: Confidence = field(default_factory=Confidence)
    _is_warm: bool = False
    _proven: _Share = field(default_factory=_Share)  # of look-ups
    _waiting: Mean = field(default_factory=Mean)
    _retrieval: Mean = field(default_factory=Mean)
    _embedding: Mean = field(default_factory=Mean)
    _accuracy: dict[str, _Share] = field(
        default_factory=lambda: {name: _Share() for name in _PRIOR_ACCURACY}
    )

    @_in_turn
    def generated(self, seconds: float, *, changed: bool, overlapped: bool) -> None:
        """A step was written: under other documents than the last? Beside a call?"""
        self._generation.setdefault((changed, overlapped), Mean()).add(seconds)

    @_in_turn
    def guessed(self, policy: str, seconds: float) -> None:
        """A guess was made in so many seconds, embedding its query included."""
        self._guess.setdefault(policy, Mean()).add(seconds)

    @_in_turn
    def retrieved(self, seconds: float, embedding: float, waiting: float) -> None:
        """One query was retrieved with nothing beside it.

        Args:
            seconds: all of it.
            embedding: seconds of it in the query encoder.
            waiting: seconds of it in which this machine had nothing to do.
        """
        if not self._is_warm:  # the first one loads models and opens connections
            self._is_warm = True
            return
        self._retrieval.add(seconds)
        self._embedding.add(embedding)
        self._waiting.add(waiting / max(seconds - embedding, 1e-9))

    @_in_turn
    def verified(
        self, policy: str, n_queries: int, seconds: float, *, overlapped: bool
    ) -> None:
        """A call came back, with or without the model writing beside it."""
        costs = self._verification.setdefault((policy, overlapped), CallCosts())
        costs.add(n_queries, seconds)

    @_in_turn
    def judged(self, policy: str, *, right: bool, margin: float | None = None) -> None:
        """A guess that this policy made, or would have made, was right or wrong.

        Args:
            policy: that one.
            right: whether it was right.
            margin: by which the cache covered its query, where that is known.
        """
        self._accuracy[policy].add(belongs=right)
        if policy == "lookup":
            self._proven.add(belongs=False)
        if margin is not None:
            self._confidence.add(margin, right=right)

    @_in_turn
    def proved(self) -> None:
        """A look-up was proven: right without a verification."""
        self._proven.add(belongs=True)

    @_in_turn
    def followed(
        self, plan: Plan, *, n_steps: int, seconds: float, predicted: float
    ) -> None:
        """A plan was followed from one verified point to another.

        Args:
            plan: the plan.
            n_steps: steps that were kept.
            seconds: what they took, with all that was for nothing.
            predicted: steps per second that the plan had promised.
        """
        assert plan.policy is not None  # noqa: S101  sequential steps promise nothing
        ratio = seconds * predicted / n_steps
        kind = plan.policy, plan.in_flight > 0, plan.is_ahead
        self._bias.setdefault(kind, _Bias()).add(n_steps, ratio)
        self._fade(n_steps, but=kind)

    def bias(self, plan: Plan) -> float:
        """Actual ÷ predicted seconds of plans of a kind, as far as is known.

        What is written ahead may be for nothing. Plans that write nothing ahead have a
        record of their own: where guesses are proven they still win after bad luck.
        """
        assert plan.policy is not None  # noqa: S101  sequential steps promise nothing
        overlapped = plan.in_flight > 0
        busy = 1 - self._idle if overlapped else 0.0
        prior = 1 + (self.contention - 1) * busy
        bias = self._bias.get((plan.policy, overlapped, plan.is_ahead))
        return bias.value(prior) if bias else prior

    @_in_turn
    def left_alone(self) -> None:
        """A step was not guessed: what is known of guesses fades.

        So bad luck is forgotten in the end, and a policy tried again.
        """
        for share in (*self._accuracy.values(), self._proven):
            share.fade()
        self._confidence.fade()
        self._fade(1)
        # One slow guess must not be the last one.
        verified = {policy for policy, _ in self._verification}
        for policy in list(self._guess):
            if policy not in verified:
                self._guess.pop(policy, None)

    def _fade(self, n_steps: int, but: tuple[str, bool, bool] | None = None) -> None:
        """Forget slowly what is not put to the test, so that it is tried again."""
        for kind, bias in self._bias.items():
            if kind != but:
                bias.fade(n_steps)
        made = but and but[:2]
        for key, costs in list(self._verification.items()):
            if key != made and costs.fade(n_steps) < _FORGOTTEN:
                del self._verification[key]
                for changed in (False, True) if key[1] else ():
                    self._generation.pop((changed, True), None)

    def accuracy(self, policy: str) -> float:
        """*γ* of a policy."""
        return self._accuracy[policy].value(_PRIOR_ACCURACY[policy])

    def chances(self, policy: str, *, can_prove: bool = False) -> Chances:
        """Of a policy's guesses; told apart by their margins as soon as these tell.

        Args:
            policy: that one.
            can_prove: whether its guesses may be proven.
        """
        if policy != "lookup":
            return Chances(self.accuracy(policy))
        proven = self._proven.value(_PRIOR_PROVEN) if can_prove else 0.0
        split = self._confidence.split
        if split is None:
            return Chances(self.accuracy(policy), proven=proven)
        return Chances(
            min(MAX_ACCURACY, split.accuracy),
            split.unsure,
            split.accuracy_unsure,
            split.trusted,
            proven,
        )

    def step(self, policy: str | None, *, overlapped: bool) -> float | None:
        """*a*, the guess included; None before any step was written.

        Steps under new documents cost more than others, and how many there are
        depends on the text, not on the plan: so the two are averaged apart.
        """
        changed = self._generating(changed=True, overlapped=overlapped)
        unchanged = self._generating(changed=False, overlapped=overlapped)
        if changed is None or unchanged is None:
            return None
        stays = self.accuracy("same")
        generation = stays * unchanged + (1 - stays) * changed
        return generation + (self._guessing(policy) if policy else 0.0)

    def _generating(self, *, changed: bool, overlapped: bool) -> float | None:
        """Nearest thing known: of the other mode, then of the other kind of step."""
        for key in (
            (changed, overlapped),
            (changed, not overlapped),
            (not changed, overlapped),
            (not changed, not overlapped),
        ):
            if key in self._generation:
                return self._generation[key].value
        return None

    def _guessing(self, policy: str) -> float:
        known = self._guess.get(policy)
        if known is not None:
            return known.value or 0.0
        return (self._embedding.value or 0.0) if policy == "lookup" else 0.0

    def retrieval(self) -> float | None:
        """*b(1)* of the sequential loop."""
        return self._retrieval.value

    def verification(self, policy: str, n_queries: float, *, overlapped: bool) -> float:
        """*b(s)*: seconds of a call.

        What was not tried is taken for as cheap as one retrieval alone, so that it
        is tried: searches beside a writing model say little of those without.
        """
        costs = self._verification.get((policy, overlapped))
        once = self._once(policy)
        return costs(n_queries, once) if costs else once

    @property
    def largest(self) -> int:
        """The largest *s* that *b(s)* was measured with, by any policy in any mode.

        Were it known by policy, one that was not tried yet could never win against
        another's larger strides.
        """
        return max([1, *(costs.largest for costs in self._verification.values())])

    def _once(self, policy: str) -> float:
        """One retrieval, without what the guess has paid already."""
        return max(0.0, (self._retrieval.value or 0.0) - self._guessing(policy))

    def computing(self, policy: str, verification: float) -> float:
        """*c(s)*: seconds of a call that no other call can share.

        Those in the query encoder, where the guess has not paid them, and the busy
        share of the rest.
        """
        embedding = 0.0 if policy == "lookup" else self._embedding.value or 0.0
        return verification - self._idle * max(0.0, verification - embedding)

    @property
    def _idle(self) -> float:
        """Share of a search in which this machine has nothing to do.

        A local search waits too, for threads of its own; but so would the next.
        """
        waits = self._waiting.value or 0.0
        return max(0.0, waits - _LOCAL_WAITS) / (1 - _LOCAL_WAITS)


@dataclass(frozen=True)
class StrideScheduler:
    """Chooses plans from estimates.

    Attributes:
        estimates: what is known; shared with other requests.
        policies: names of the guess policies to choose from.
        stride: ``None`` to choose; a number to speculate with that stride always.
        asynchronous: whether calls may be in flight while the model writes. With a
            given stride at least one then is.
        can_prove: whether the store's answers to look-ups may be proven.
    """

    estimates: Estimates
    policies: Sequence[str] = ("lookup", "same")
    stride: int | None = None
    asynchronous: bool = True
    can_prove: bool = False

    def plan(self) -> Plan:
        """The best plan as far as is known; sequential when none is better."""
        with self.estimates.lock:
            return self._best_plan()

    def _best_plan(self) -> Plan:
        estimates = self.estimates
        step, retrieval = estimates.step(None, overlapped=False), estimates.retrieval()
        best, best_rate = SEQUENTIAL, 0.0
        if self.stride is None:
            if step is None or retrieval is None:
                return SEQUENTIAL  # which measures both
            best_rate = _WORTHWHILE / (step + retrieval)
        for overlapped in self._modes:
            for policy in self.policies:
                for plan in self._plans(policy, overlapped=overlapped):
                    rate = plan.rate / estimates.bias(plan)
                    if rate > best_rate:
                        best, best_rate = plan, rate
        return best

    @property
    def _modes(self) -> Sequence[bool]:
        """Whether calls may be, or have to be, in flight while the model writes."""
        if not self.asynchronous:
            return (False,)
        return (False, True) if self.stride is None else (True,)

    def _plans(self, policy: str, *, overlapped: bool) -> Iterator[Plan]:
        """Those of a policy, with the verified steps per second, E / T, of each.

        Of equally good ones the simplest comes first.
        """
        estimates = self.estimates
        step = estimates.step(policy, overlapped=overlapped) or 0.0
        chances = estimates.chances(policy, can_prove=self.can_prove)
        # Doubling from what was measured, so that no guess at b(s) is far off.
        strides = [s for s in STRIDES if s <= 2 * estimates.largest]
        if self.stride is not None:
            strides, chances = [self.stride], Chances(estimates.accuracy(policy))
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
