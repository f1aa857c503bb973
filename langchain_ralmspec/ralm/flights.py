"""Verification calls in flight: made at once, or in threads while the model writes."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Self

from langchain_ralmspec.errors import StoreTimeoutError
from langchain_ralmspec.ralm.events import Found
from langchain_ralmspec.stores.call_threads import Call
from langchain_ralmspec.stores.waiting import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ralmspec.ralm.memory import Guess
    from langchain_ralmspec.ralm.session import Session, Verification
    from langchain_ralmspec.speculation import Plan


_PATIENCE = 5.0  # seconds to wait for calls that read the caller's memory


@dataclass(slots=True)
class Flight:
    """One verification in flight, of guesses made by one plan."""

    guesses: tuple[Guess, ...]
    plan: Plan
    future: Future[Verification]
    with_vectors: bool  # whether the documents found are to fill the cache
    sent: float  # when, by ``time.perf_counter()``
    ended: float | None = None  # likewise, where it did by itself

    def end(self, _: object) -> None:
        """Note that there is an answer, or that there will be none."""
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long it was out, or has been until now."""
        return (self.ended or time.perf_counter()) - self.sent

    @property
    def n_right(self) -> int | None:
        """Guesses before the first wrong guess; None while that is not known."""
        if not self.future.done() or self.future.exception():
            return None
        # Queries that were asked one by one end at the first wrong guess.
        pairs = zip(self.guesses, self.future.result().truth, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0].is_right(pair[1]), pairs))

    @property
    def right(self) -> list[Found]:
        """What the queries of right guesses before the first wrong one find."""
        pairs = zip(self.guesses, self.future.result().truth, strict=False)
        found = [Found(guess.query.text, hits, guess) for guess, hits in pairs]
        return found[: self.n_right]


class Flights:
    """The verifications of one request, oldest first.

    A synchronous verification is done when :meth:`send` returns. The others run in
    threads of this request alone, which end with their calls: leaving the ``with``
    block starts no queued call any more, and waits some seconds for running calls, but
    only where they read memory that the caller may change next, and answer in time.
    """

    def __init__(self, session: Session) -> None:
        """Start without verifications and without threads."""
        self._session = session
        self._flights: deque[Flight] = deque()
        self._abandoned: list[Future[Verification]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.abandon()
        self._session.waiting.close()
        is_worker = threading.current_thread().name.startswith(THREADS)
        hangs = isinstance(error, StoreTimeoutError)
        for future in self._abandoned if hangs else ():
            if isinstance(future, Call):  # or it keeps its place from others
                future.give_up()
        if self._session.reads_shared_memory and not (is_worker or hangs):
            # Not for ever: the garbage collector may be leaving the block, in a
            # thread that holds what the call waits for.
            wait(self._abandoned, _PATIENCE)

    def __len__(self) -> int:
        """Number of verifications sent and not yet landed."""
        return len(self._flights)

    @property
    def has_landed(self) -> bool:
        """Whether the store has answered the oldest verification."""
        return bool(self._flights) and self._flights[0].future.done()

    @property
    def are_running(self) -> bool:
        """Whether any call is out now, abandoned calls included."""
        self._abandoned = [future for future in self._abandoned if not future.done()]
        out = (flight.future for flight in self._flights)
        return bool(self._abandoned) or not all(future.done() for future in out)

    @property
    def has_wrong_guess(self) -> bool:
        """Whether a guess in flight is known to be wrong: what follows it is void."""
        return any(
            flight.n_right not in (None, len(flight.guesses))
            for flight in self._flights
        )

    def send(self, guesses: list[Guess], plan: Plan, *, with_vectors: bool) -> None:
        """Ask the store whether guesses are right, in one call."""
        ask = partial(
            self._session.asked,
            [guess.query for guess in guesses],
            with_vectors=with_vectors,
        )
        sent = time.perf_counter()
        future = self._start(ask, in_thread=plan.in_flight > 0)
        flight = Flight(tuple(guesses), plan, future, with_vectors, sent)
        future.add_done_callback(flight.end)
        self._flights.append(flight)

    def land(self) -> Flight:
        """Remove the oldest verification, and wait for its result.

        A call that failed is made again here, query by query: the reason may have been
        another thread, or a query written under a wrong guess, which the sequential
        loop would not have asked; or each of many queries is in time, and all are not.
        Raises StoreError where it fails once more, for the first query that does.
        """
        flight = self._flights.popleft()
        with self._session.stats.timing("waiting"):
            try:
                self._session.waiting.result_of(flight.future)
            except Exception as error:
                first, *others = (guess.query for guess in flight.guesses)
                is_late = isinstance(error, StoreTimeoutError)
                if is_late and not others and not self._session.may_be_sooner(first):
                    raise
                answer = self._ask_one_by_one(flight)
                # Both count, or the scheduler would not know what such calls take.
                answer.seconds += flight.seconds
                flight.future = Future()
                flight.future.set_result(answer)
        return flight

    def _ask_one_by_one(self, flight: Flight) -> Verification:
        """Ask the store query by query, up to the first wrong guess."""
        whole: Verification | None = None
        for guess in flight.guesses:
            part = self._session.ask_one(guess.query, with_vectors=flight.with_vectors)
            whole = part if whole is None else whole.joined(part)
            if not guess.is_right(part.truth[0]):
                break
        assert whole is not None  # noqa: S101  a flight has guesses
        return whole

    def abandon(self) -> None:
        """Forget all verifications in flight, since a guess before theirs was wrong.

        A call that runs already runs to its end, but nobody takes its result.
        """
        for flight in self._flights:
            if not flight.future.cancel():
                self._abandoned.append(flight.future)
        self._flights.clear()

    def _start(
        self, ask: Callable[[], Verification], *, in_thread: bool
    ) -> Future[Verification]:
        if in_thread:
            return self._session.waiting.start(ask)
        future: Future[Verification] = Future()
        with self._session.stats.timing("waiting"):
            try:
                future.set_result(self._session.waiting.call(ask))
            except Exception as error:  # noqa: BLE001  handled by land()
                future.set_exception(error)
        return future
