"""Retrieval inside generation: the sequential loop, and the speculative one.

Every step the end of question + answer becomes a query, and the documents in front
of the prompt are replaced by what it finds (RaLMSpec section 2). The speculative
loop (section 3, Algorithm 1) guesses what the store would answer, goes on writing,
and asks for several queries in one call; the call may be out while the next steps
are written (section 4). A guess that is proven is not asked for. Both loops commit the
same tokens under the same documents.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from langchain_ralmspec.ralm.events import (
    Committed,
    Event,
    Finished,
    RolledBack,
    Span,
    Verified,
)
from langchain_ralmspec.ralm.flights import Flights
from langchain_ralmspec.ralm.writer import Interrupted, ids_of
from langchain_ralmspec.speculation import GUESS_POLICIES
from langchain_ralmspec.speculation.stride import MOST_STEPS
from langchain_ralmspec.stores.base import Query

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from langchain_ralmspec.ralm.flights import Flight
    from langchain_ralmspec.ralm.policies import RetrievalPolicy, Step
    from langchain_ralmspec.ralm.session import Answer, Guess, Hits, Session
    from langchain_ralmspec.ralm.writer import Writer
    from langchain_ralmspec.speculation import Plan, StrideScheduler


@dataclass(slots=True)
class Request:
    """One answer to be generated.

    Attributes:
        writer: generates.
        session: retrieves.
        policy: says when to retrieve.
        spans: what was done when, for a timeline.
    """

    writer: Writer
    session: Session
    policy: RetrievalPolicy
    spans: list[Span] = field(default_factory=list)

    def write(self, hits: Hits, number: int) -> tuple[Step | None, Span]:
        """Write step ``number`` under documents; None when that was interrupted."""
        self.session.stats.steps += 1
        start = time.perf_counter()
        span = Span("generating", start, start)
        self.spans.append(span)
        try:
            return self.policy.write(self.writer, hits, number), span
        except Interrupted:
            return None, span
        finally:
            span.end = time.perf_counter()
            self.session.stats.spend(span.end - start, "generating")

    def retrieve(self, text: str) -> Answer:
        """Wait for the documents of one query."""
        start = time.perf_counter()
        answer = self.session.retrieve(text)
        end = time.perf_counter()
        self.spans.append(Span("verifying", start, end, kept=True, queries=1))
        return answer

    def commit(self, step: Step, span: Span) -> Committed:
        """Count a step as final, and tell of it."""
        span.kept = True
        transcript = self.writer.transcript
        if not step.strides:
            return Committed((), b"", step.hits)
        start, end = step.strides[0].start, step.strides[-1].end
        tokens = tuple(transcript.tokens[start:end])
        self.session.stats.tokens_kept += len(tokens)
        return Committed(tokens, transcript.text_bytes(start, end), step.hits)


def sequential(request: Request) -> Generator[Event, None, None]:
    """Wait for the store, write a step, wait for the store, …."""
    query = request.policy.first_query()
    for number in count():
        (hits,) = request.retrieve(query).truth
        step, span = request.write(hits, number)
        assert step is not None  # noqa: S101  nothing interrupts this loop
        request.writer.prune(request.writer.mark)
        yield request.commit(step, span)
        if step.query is None:
            assert step.reason  # noqa: S101  it is complete
            yield Finished(step.reason)
            return
        query = step.query


def speculative(
    request: Request, scheduler: StrideScheduler
) -> Generator[Event, None, None]:
    """Write on under guessed documents, and verify the guesses in batches."""
    policies = request.session.usable(scheduler.policies)
    scheduler = replace(scheduler, policies=policies)
    with Flights(request.session, request.spans) as flights:
        yield from _Speculation(request, scheduler, flights).events()


@dataclass(frozen=True, slots=True)
class _Open:
    """A step that stands on guesses.

    Attributes:
        step: the step; None when it was interrupted, its uselessness being known,
            or failed.
        error: why it failed.
        span: when it was written.
        mark: where to rewind the writer to, to take it back.
        proven: the guess that it was written on, if that needs no verification; then it
            is as right as the step before it.
    """

    step: Step | None
    span: Span
    mark: int
    error: Exception | None = None
    proven: Guess | None = None


@dataclass(slots=True)
class _Speculation:
    """The state of a speculative request.

    The guesses that are not judged yet are, in order, those in flight and those of
    ``group``. Each has a step in ``open`` that was written on it, but the newest,
    whose step comes next. Steps on proven guesses stand between those.

    Attributes:
        request: what is asked.
        scheduler: makes the plans, and learns from what they cost.
        flights: verifications that are out.
        plan: the one that is followed.
        group: guesses that wait to be sent.
        open: steps that stand on guesses.
        n_committed: steps that are final.
    """

    request: Request
    scheduler: StrideScheduler
    flights: Flights
    plan: Plan = field(init=False)
    group: list[Guess] = field(default_factory=list)
    open: deque[_Open] = field(default_factory=deque)
    n_committed: int = 0
    _previous: tuple[str, ...] = ()  # documents of the step before
    _proven: Guess | None = None  # what the next step stands on, if it is proven
    _n_before: int = 0  # steps there were when the group began
    _since: tuple[int, float] = (0, 0.0)  # steps and seconds at the last verified point
    _promise: Plan | None = None  # the plan first followed since

    def events(self) -> Iterator[Event]:  # noqa: C901, PLR0912  one loop, one screen
        """The answer, step by step."""
        flights = self.flights  # the writer must not lead back to itself
        self.request.writer.is_useless = lambda: flights.are_doomed
        hits = self._first()
        while True:
            step = yield from self._write(hits)
            if not self.group:
                self._replan()
            corrected: Hits | None
            if step is None:
                corrected = yield from self._judge_all()
            elif step.query is None:
                corrected = yield from self._judge_all()
                if corrected is None:
                    self._review()
                    assert step.reason  # noqa: S101  it is complete
                    yield Finished(step.reason)
                    return
            elif self.plan.policy is None:
                corrected = yield from self._judge_all()
                if corrected is None:
                    corrected = self._retrieve(step)
            else:
                try:
                    hits = self._guess(self.plan.policy, step.query, step.hits)
                except Exception:
                    corrected = yield from self._judge_all()
                    if corrected is None:
                        raise
                else:
                    corrected = yield from self._verify()
            if corrected is not None:
                hits = corrected
            if not (self.flights or self.group):
                self._review()

    def _replan(self) -> None:
        """Choose how to go on; the guess policy, once for the whole answer.

        A cache that another policy did not fill would give look-up a bad name.
        """
        session = self.request.session
        # Both before the time that they take is taken for what guesses and calls cost.
        if self._may_look_up:
            session.measure()
            self.scheduler = replace(self.scheduler, can_prove=session.can_prove)
        self.plan = self.scheduler.plan()
        if self.plan.stride > 1:
            session.prepare()
        if self.plan.policy and len(self.scheduler.policies) > 1:
            self.scheduler = replace(self.scheduler, policies=(self.plan.policy,))

    def _review(self) -> None:
        """At a verified point: compare what the plan has taken with its promise."""
        stats = self.request.session.stats
        seconds = stats.seconds_generating + stats.seconds_guessing
        seconds += stats.seconds_waiting
        n_before, before = self._since
        n_steps = self.n_committed - n_before
        self._since = (self.n_committed, seconds)
        plan, self._promise = self._promise, None
        if plan and plan.policy and plan.rate and n_steps:
            self.scheduler.estimates.followed(
                plan, n_steps=n_steps, seconds=seconds - before, predicted=plan.rate
            )

    def _first(self) -> Hits:
        """Retrieve the first documents, into the cache if guesses will need it."""
        request, estimates = self.request, self.scheduler.estimates
        self._replan()
        looks_up = self._may_look_up
        text = request.policy.first_query()
        start = time.perf_counter()
        answer = request.session.ask([Query(text)], with_vectors=looks_up)
        request.session.require(text, answer.truth[0])
        end = time.perf_counter()
        request.spans.append(Span("verifying", start, end, kept=True, queries=1))
        request.session.stats.spend(end - start, "waiting")
        request.session.learn(answer)
        if not looks_up:  # else it was a wider search than the sequential loop's
            estimates.retrieved(answer.seconds, answer.embedding, answer.waiting)
        self._since = (0, request.session.stats.seconds_waiting)
        return answer.truth[0]

    @property
    def _may_look_up(self) -> bool:
        """Whether a plan to come may need vectors in the cache."""
        return any(GUESS_POLICIES[p].needs_vector for p in self.scheduler.policies)

    @property
    def _looks_up(self) -> bool:
        """Whether guesses of the plan need vectors in the cache."""
        policy = self.plan.policy
        return policy is not None and GUESS_POLICIES[policy].needs_vector

    def _write(self, hits: Hits) -> Generator[Event, None, Step | None]:
        """Write the next step; final at once when no guess before it is open.

        Returns:
            The step; None when it came to nothing: a guess turned out wrong meanwhile,
            or it failed under documents that may be wrong.
        """
        mark, changed = self.request.writer.mark, ids_of(hits) != self._previous
        overlapped = self.flights.are_running
        error: Exception | None = None
        try:
            step, span = self.request.write(hits, self._n_written)
        except Exception as failure:
            if not (self.flights or self.group):
                raise
            step, span, error = None, self.request.spans[-1], failure
        if step is not None:
            seconds = span.end - span.start
            self.scheduler.estimates.generated(
                seconds, changed=changed, overlapped=overlapped
            )
        self._previous = ids_of(hits)
        written = _Open(step, span, mark, error, self._proven)
        self._proven = None
        if self.flights or self.group:
            self.open.append(written)
        else:
            yield self._commit(written)
        return step

    def _commit(self, written: _Open) -> Committed:
        if written.error:  # so it fails in the sequential loop
            raise written.error
        assert written.step is not None  # noqa: S101  it stood on right guesses
        self.n_committed += 1
        if written.proven:
            self._count_proven(written.proven)
        writer = self.request.writer
        writer.prune(self.open[0].mark if self.open else writer.mark)
        return self.request.commit(written.step, written.span)

    def _retrieve(self, step: Step) -> Hits:
        """Ask for the next documents and wait, as the sequential loop does."""
        assert step.query is not None  # noqa: S101  the caller has looked
        self._follow()
        answer = self.request.retrieve(step.query)
        estimates = self.scheduler.estimates
        estimates.retrieved(answer.seconds, answer.embedding, answer.waiting)
        (hits,) = answer.truth
        estimates.left_alone()
        estimates.judged("same", right=ids_of(hits) == ids_of(step.hits))
        return hits

    def _guess(self, policy: str, query: str, current: Hits) -> Hits:
        """Guess the next documents."""
        self._follow()
        start = time.perf_counter()
        guess = self.request.session.guess(policy, query, current)
        self.scheduler.estimates.guessed(policy, time.perf_counter() - start)
        if guess.is_proven:
            self._proven = guess
        else:
            if not self.group:
                self._n_before = self._n_written
            self.group.append(guess)
        return guess.hits

    @property
    def _n_written(self) -> int:
        """Steps that are final, or may become it."""
        return self.n_committed + len(self.open)

    def _count_proven(self, guess: Guess) -> None:
        """Count a guess that needed no verification."""
        stats, estimates = self.request.session.stats, self.scheduler.estimates
        stats.guesses += 1
        stats.right_guesses += 1
        stats.proven_guesses += 1
        estimates.proved()
        stayed = ids_of(guess.hits) == ids_of(guess.current)
        estimates.judged("same", right=stayed)

    def _follow(self) -> None:
        """Count a decision that follows the plan."""
        plans = self.request.session.stats.plans
        plans[self.plan.label] = plans.get(self.plan.label, 0) + 1
        self._promise = self._promise or self.plan

    def _verify(self) -> Generator[Event, None, Hits | None]:
        """Send the group when it is due, and judge what has come back."""
        if self.group and self._is_due:
            corrected = yield from self._send()
            if corrected is not None:
                return corrected
        return (yield from self._judge(self.plan.in_flight))

    @property
    def _is_due(self) -> bool:
        """Whether the group is full, or unsure, or has waited for long.

        Steps on proven guesses do not fill it, but wait with it.
        """
        is_full = len(self.group) >= self.plan.stride
        is_unsure = self.group[-1].is_unsure(self.plan.trusted)
        n_waiting = self._n_written - self._n_before
        return is_full or is_unsure or n_waiting >= MOST_STEPS * self.plan.stride

    def _judge_all(self) -> Generator[Event, None, Hits | None]:
        """Send what is left, and wait until every guess is judged."""
        if self.group:
            corrected = yield from self._send()
            if corrected is not None:
                return corrected
        return (yield from self._judge(0))

    def _send(self) -> Generator[Event, None, Hits | None]:
        """Send the group, as soon as fewer calls are out than may be."""
        corrected = yield from self._judge(max(self.plan.in_flight, 1) - 1)
        if corrected is None:
            self.flights.send(self.group, self.plan, with_vectors=self._looks_up)
            self.group = []
        return corrected

    def _judge(self, n_left: int) -> Generator[Event, None, Hits | None]:
        """Judge verifications, oldest first, until ``n_left`` at most are out.

        Returns:
            The true documents in the place of the first wrong guess, from which
            writing has to go on; None when all were right.
        """
        while len(self.flights) > n_left or self.flights.has_landed:
            flight = self.flights.land()
            truth, n_right = flight.future.result().truth, flight.n_right
            assert n_right is not None  # noqa: S101  it has landed
            self._learn(flight, n_right)
            yield Verified(len(flight.guesses), n_right)
            final = self._take_off(n_right)
            all_right = n_right == len(flight.guesses)
            if not all_right:
                yield from self._roll_back()
                self._previous = ids_of(flight.guesses[n_right].current)
            for written in final:
                yield self._commit(written)
            if not all_right:
                text = flight.guesses[n_right].query.text
                self.request.session.require(text, truth[n_right])
                return truth[n_right]
        return None

    def _take_off(self, n_right: int) -> list[_Open]:
        """Steps that stand on so many right guesses, and on proven ones behind them.

        The newest guess may be right and have no step yet.
        """
        final = []
        while self.open and (n_right or self.open[0].proven):
            written = self.open.popleft()
            if not written.proven:
                n_right -= 1
            final.append(written)
        return final

    def _roll_back(self) -> Iterator[RolledBack]:
        """Take back everything that stands on a wrong guess."""
        request = self.request
        self.flights.abandon()
        self.group, self._proven = [], None
        if self.open:
            length = len(request.writer.transcript)
            with request.session.stats.timing("generating"):
                request.writer.rewind(self.open[0].mark)
            self.open.clear()
            n_tokens = length - len(request.writer.transcript)
            request.session.stats.tokens_rolled_back += n_tokens
            yield RolledBack(n_tokens)

    def _learn(self, flight: Flight, n_right: int) -> None:
        """Keep what a verification found, and what it tells about costs and guesses."""
        answer = flight.future.result()
        session, estimates = self.request.session, self.scheduler.estimates
        session.learn(answer)
        n_guesses, policy = len(flight.guesses), flight.plan.policy
        assert policy is not None  # noqa: S101  else nothing was guessed
        flight.span.kept = n_right == n_guesses
        session.stats.verifications.append((n_guesses, answer.seconds))
        # Guesses behind a wrong one were made for an answer that never was: their
        # being right or wrong says nothing, so they are not counted.
        n_judged = min(n_right + 1, n_guesses)
        session.stats.rounds += 1
        session.stats.guesses += n_judged
        session.stats.right_guesses += n_right
        # Where the cache was not filled yet, guesses of another policy stood in.
        if all(guess.policy == policy for guess in flight.guesses):
            overlapped = flight.plan.in_flight > 0
            estimates.verified(policy, n_guesses, answer.seconds, overlapped=overlapped)
        pairs = zip(flight.guesses[:n_judged], answer.truth, strict=False)
        for number, (guess, hits) in enumerate(pairs):
            estimates.judged(guess.policy, right=number < n_right, margin=guess.margin)
            if guess.policy != "same":
                stayed = ids_of(hits) == ids_of(guess.current)
                estimates.judged("same", right=stayed)
