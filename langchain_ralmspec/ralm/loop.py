"""Retrieval inside generation: the sequential loop, and the speculative one.

With every step the end of question + answer becomes a query, and the documents in
front of the prompt are replaced by what the query finds (RaLMSpec section 2). The
speculative loop (section 3, Algorithm 1) guesses what the store would answer, goes on
writing, and verifies several guesses in one call; the call may be in flight while the
next steps are written (section 4). A guess that is proven is not verified. Both loops
commit the same tokens under the same documents.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from langchain_ralmspec.errors import StoreTimeoutError
from langchain_ralmspec.ralm.events import Asked, Event, Found, RolledBack, Verified
from langchain_ralmspec.ralm.flights import Flights
from langchain_ralmspec.ralm.hits import ids_of, keys_of
from langchain_ralmspec.ralm.tentative import TentativeStep
from langchain_ralmspec.speculation import REPLICA
from langchain_ralmspec.speculation.plan import MAX_STEPS_PER_GUESS
from langchain_ralmspec.stores.base import Query

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from langchain_ralmspec.ralm.flights import Flight
    from langchain_ralmspec.ralm.hits import Hits, Keys
    from langchain_ralmspec.ralm.memory import Guess, LookUp
    from langchain_ralmspec.ralm.policies import Step
    from langchain_ralmspec.ralm.request import Request
    from langchain_ralmspec.ralm.session import Verification
    from langchain_ralmspec.speculation import Plan, Scheduler


def sequential(request: Request) -> Generator[Event, None, None]:
    """Wait for the store, write a step, wait for the store, …."""
    query = request.policy.query()
    for number in count():
        (hits,) = (yield from request.retrieve(query)).truth
        step = request.write(hits, number)
        assert step is not None  # noqa: S101  nothing supersedes a step here
        request.writer.prune(request.writer.mark)
        yield request.commit(step)
        if step.query is None:
            return
        query = step.query


def speculative(request: Request, scheduler: Scheduler) -> Generator[Event, None, None]:
    """Write on under guessed documents, and verify the guesses in batches."""
    policies = request.session.usable(scheduler.policies)
    scheduler = replace(scheduler, policies=policies)
    with Flights(request.session) as flights:
        yield from _Speculation(request, scheduler, flights).events()


@dataclass(slots=True)
class _Speculation:
    """The state of a speculative request.

    The guesses that are not judged yet are, in order, those in flight and those of
    ``group``. Each has a step in ``tentative`` that was written under it, but the
    newest, whose step comes next. Steps under proven guesses stand between them.
    """

    request: Request
    scheduler: Scheduler  # makes the plans, and learns from what they cost
    flights: Flights
    plan: Plan = field(init=False)  # the plan that is followed
    group: list[Guess] = field(default_factory=list)  # guesses that wait to be sent
    tentative: deque[TentativeStep] = field(default_factory=deque)
    n_committed: int = 0  # steps that are final
    _previous: Keys = ()  # documents of the step before
    _proven: Found | None = None  # the next step's documents, if these are proven
    _n_before_group: int = 0  # steps that were written when the group began

    def events(self) -> Iterator[Event]:
        """Generate the answer, step by step."""
        flights = self.flights  # the writer must not lead back to itself
        self.request.writer.is_superseded = lambda: flights.has_wrong_guess
        hits = yield from self._first()
        while True:
            step = yield from self._write(hits)
            if not self.group:
                self._replan()
            corrected: Hits | None
            if step is None or step.query is None or self.plan.policy is None:
                corrected = yield from self._verify(everything=True)
                if corrected is None and step is not None:
                    if step.query is None:
                        return
                    corrected = yield from self._retrieve(step)
            else:
                try:
                    hits = self._guess(self.plan.policy, step.query, step.hits)
                except Exception as failure:  # noqa: BLE001  raised again
                    corrected = yield from self._verified_before(failure)
                else:
                    corrected = yield from self._verify()
            if corrected is not None:
                hits = corrected

    def _verified_before(self, failure: Exception) -> Generator[Event, None, Hits]:
        """Verify all guesses before a failure, raised again if they are right."""
        if isinstance(failure, StoreTimeoutError):
            raise failure  # whoever asks once more waits as long once more
        corrected = yield from self._verify(everything=True)
        if corrected is None:
            raise failure
        return corrected

    def _replan(self) -> None:
        """Choose how to go on; who guesses, once for the whole answer.

        A cache that was not filled under another policy would make look-up seem wrong,
        so where filling it always costs next to nothing, that may change at any time.
        """
        session = self.request.session
        # Now, so that their seconds are not counted as those of guesses and calls.
        if session.fills_cache(self.scheduler.policies):
            self.scheduler = replace(self.scheduler, can_prove=session.measure())
        self.plan = self.scheduler.plan()
        if self.plan.stride > 1:
            session.prepare()
        if self.plan.policy and not session.fills_freely:
            self.scheduler = replace(self.scheduler, policies=(self.plan.policy,))

    def _first(self) -> Generator[Event, None, Hits]:
        """The first documents: guessed by a replica, or else retrieved."""
        has_replica = REPLICA in self.scheduler.policies
        self._replan()
        text = self.request.policy.query()
        # Whatever is guessed by later: nothing else knows of a first one.
        if has_replica and self.plan.policy:
            # Not measured: the first of all loads models and opens connections.
            guess = self.request.session.guess(REPLICA, text, None)
            if guess.hits:
                self._count_plan()
                hits = self._taken(guess)
                corrected = yield from self._verify()
                return hits if corrected is None else corrected
        return (yield from self._retrieve_first(text))

    def _retrieve_first(self, text: str) -> Generator[Event, None, Hits]:
        """Retrieve the first documents, into the cache if guesses will need it."""
        request, estimates = self.request, self.scheduler.estimates
        fills_cache = request.session.fills_cache(self.scheduler.policies)
        yield Asked((text,))
        with request.stats.timing("waiting"):
            answer = request.session.ask_one(Query(text), with_vectors=fills_cache)
            request.session.require(text, answer.truth[0])
        request.session.learn(answer)
        # Else it was a wider search than the sequential loop's.
        if request.session.fills_freely or not fills_cache:
            estimates.retrieved(answer.embedding, answer.searching)
        yield Found(text, answer.truth[0])
        return answer.truth[0]

    def _write(self, hits: Hits) -> Generator[Event, None, Step | None]:
        """Write the next step; it is final at once when no guess before it is open.

        Returns None when a guess turned out wrong meanwhile, or when writing failed
        under documents that may be wrong.
        """
        mark, changed = self.request.writer.mark, keys_of(hits) != self._previous
        overlapped = self.flights.are_running
        step: Step | None = None
        error: Exception | None = None
        start = time.perf_counter()
        try:
            step = self.request.write(hits, self._n_written)
        except Exception as failure:
            if not (self.flights or self.group):
                raise
            error = failure
        if step is not None and self._n_written:  # the first reads the whole prompt
            seconds = time.perf_counter() - start
            self.scheduler.estimates.generated(
                seconds, changed=changed, overlapped=overlapped
            )
        self._previous = keys_of(hits)
        written = TentativeStep(step, mark, start, error, self._proven)
        self._proven = None
        if self.flights or self.group:
            self.tentative.append(written)
        else:
            yield from self._commit(written)
        return step

    def _commit(self, written: TentativeStep) -> Iterator[Event]:
        """Make a step final whose documents are right."""
        if written.found:
            yield written.found
        if written.error:  # the sequential loop would fail here too
            raise written.error
        assert written.step is not None  # noqa: S101  its documents were right
        self.n_committed += 1
        if written.proven:
            self._count_proven(written.proven)
        writer = self.request.writer
        writer.prune(self.tentative[0].mark if self.tentative else writer.mark)
        yield self.request.commit(written.step)

    def _retrieve(self, step: Step) -> Generator[Event, None, Hits]:
        """Ask for the next documents and wait, as the sequential loop does."""
        assert step.query is not None  # noqa: S101  the caller has looked
        self._count_plan()
        answer = yield from self.request.retrieve(step.query)
        estimates = self.scheduler.estimates
        estimates.retrieved(answer.embedding, answer.searching)
        (hits,) = answer.truth
        estimates.decay()
        estimates.judged("same", right=keys_of(hits) == keys_of(step.hits))
        return hits

    def _guess(self, policy: str, query: str, current: Hits) -> Hits:
        self._count_plan()
        start = time.perf_counter()
        guess = self.request.session.guess(policy, query, current)
        self.scheduler.estimates.guessed(policy, time.perf_counter() - start)
        return self._taken(guess)

    def _taken(self, guess: Guess) -> Hits:
        """Have the next step written under a guess."""
        if guess.is_proven:
            self._proven = Found(guess.query.text, guess.hits, guess)
            return tuple(replace(hit, score=math.nan) for hit in guess.hits)
        if not self.group:
            self._n_before_group = self._n_written
        self.group.append(guess)
        return guess.hits

    @property
    def _n_written(self) -> int:
        """Steps that are final or tentative."""
        return self.n_committed + len(self.tentative)

    def _count_proven(self, guess: Guess) -> None:
        stats, estimates = self.request.stats, self.scheduler.estimates
        stats.guesses += 1
        stats.right_guesses += 1
        stats.proven_guesses += 1
        estimates.proved()
        estimates.judged("same", right=keys_of(guess.hits) == keys_of(guess.current))

    def _count_plan(self) -> None:
        """Count a decision made by the plan."""
        plans = self.request.stats.plans
        plans[self.plan.label] = plans.get(self.plan.label, 0) + 1

    def _verify(
        self, *, everything: bool = False
    ) -> Generator[Event, None, Hits | None]:
        """Send the group when it is due, and :meth:`_judge` what has come back.

        With ``everything``, send it however small, and wait for all that is out.
        """
        if self.group and (everything or self._is_due):
            # Only when fewer calls are in flight than the plan allows.
            corrected = yield from self._judge(max(self._in_flight, 1) - 1)
            if corrected is None and self.flights.has_wrong_guess:  # this group is void
                corrected = yield from self._judge(0)
            if corrected is not None:
                return corrected
            with_vectors = self.request.session.fills_cache(self.scheduler.policies)
            plan = replace(self.plan, in_flight=self._in_flight)
            yield Asked(tuple(guess.query.text for guess in self.group), verifies=True)
            self.flights.send(self.group, plan, with_vectors=with_vectors)
            self.group = []
        return (yield from self._judge(0 if everything else self._in_flight))

    @property
    def _in_flight(self) -> int:
        """Calls that may be out while the model writes.

        One at least until the first text is there, so that it is not later than in the
        sequential loop.
        """
        is_first = self.scheduler.asynchronous and not self.n_committed
        return max(self.plan.in_flight, int(is_first))

    @property
    def _is_due(self) -> bool:
        """Whether the group is full, ends in an unsure guess, or has waited for long.

        Steps under proven guesses do not fill the group, but count as waiting. The
        answer's first guess waits for no others where the model may write on meanwhile.
        """
        is_first = not self._n_written and self._in_flight > 0
        is_full = len(self.group) >= self.plan.stride
        is_unsure = self.group[-1].is_unsure(self.plan.trusted)
        n_waiting = self._n_written - self._n_before_group
        most_waiting = MAX_STEPS_PER_GUESS * self.plan.stride
        return is_first or is_full or is_unsure or n_waiting >= most_waiting

    def _judge(self, n_left: int) -> Generator[Event, None, Hits | None]:
        """Judge verifications, oldest first, until at most ``n_left`` are in flight.

        Returns the true documents under which writing has to go on: those of the first
        wrong guess, or of the newest guess if it was right and has no step yet. Else
        None.
        """
        while len(self.flights) > n_left or self.flights.has_landed:
            flight = self.flights.land()
            answer, n_right = flight.future.result(), flight.n_right
            assert n_right is not None  # noqa: S101  it has landed
            self._learn(flight, n_right)
            n_guesses = len(flight.guesses)
            yield Verified(n_guesses, n_right, flight.sent, answer.seconds)
            final, unwritten = self._pop_verified(flight.right)
            wrong = None if n_right == n_guesses else flight.guesses[n_right]
            if wrong:
                yield from self._roll_back()
                self._previous = keys_of(wrong.current)
            for written in final:
                yield from self._commit(written)
            if wrong:
                text, hits = wrong.query.text, answer.truth[n_right]
                self.request.session.require(text, hits)
                yield Found(text, hits, wrong, is_right=False)
                return hits
            if unwritten:
                yield unwritten[0]
                return unwritten[0].hits
        return None

    def _pop_verified(
        self, right: list[Found]
    ) -> tuple[list[TentativeStep], list[Found]]:
        """Remove the steps under right guesses, and under proven ones after each.

        The steps get what the store found for the guesses, with true scores. What no
        step was written under yet, at most that of the newest guess, is returned, too.
        """
        final = []
        while self.tentative and (right or self.tentative[0].proven):
            written = self.tentative.popleft()
            if not written.proven:
                found, *right = right
                written = written.under(found)
            final.append(written)
        return final, right

    def _roll_back(self) -> Iterator[RolledBack]:
        """Take back everything that was written after a wrong guess."""
        self.flights.abandon()
        self.group, self._proven = [], None
        if self.tentative:
            first = self.tentative[0]
            self.tentative.clear()
            yield self.request.roll_back(first.mark, first.since)

    def _learn(self, flight: Flight, n_right: int) -> None:
        """Cache what a verification found, and add to the estimates what it shows."""
        answer = flight.future.result()
        session, estimates = self.request.session, self.scheduler.estimates
        look_ups = self._look_ups(flight, answer)
        session.learn(answer)
        n_guesses, policy = len(flight.guesses), flight.plan.policy
        assert policy is not None  # noqa: S101  else nothing was guessed
        session.stats.verifications.append((n_guesses, answer.seconds))
        # Guesses behind a wrong guess were made for an answer that never was: whether
        # they are right says nothing, so they are not counted.
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
            session.judged(guess, right=number < n_right)
            if guess.policy != "same" and guess.current:  # none before the first
                stayed = keys_of(hits) == keys_of(guess.current)
                estimates.judged("same", right=stayed)
        for look_up, hits in zip(look_ups, answer.truth[:n_judged], strict=False):
            if look_up is None:
                continue
            ids, margin = look_up
            if self.scheduler.can_prove and margin > 0:
                estimates.proved()
            else:
                estimates.judged("lookup", right=ids == ids_of(hits), margin=margin)

    def _look_ups(self, flight: Flight, answer: Verification) -> list[LookUp | None]:
        """What look-ups would have guessed where documents were repeated."""
        # Else a few wrong ones would be the end of them.
        if flight.plan.policy != "same" or "lookup" not in self.scheduler.policies:
            return []
        pairs = zip(answer.queries, flight.guesses, strict=False)
        return [self.request.session.look_up(q, guess.current) for q, guess in pairs]
