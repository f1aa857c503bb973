"""Verifications on their way: at once, or in worker threads while the model writes."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Self

from langchain_ralmspec.ralm.events import Span
from langchain_ralmspec.ralm.writer import ids_of
from langchain_ralmspec.speculation.stride import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from langchain_ralmspec.ralm.session import Answer, Guess, Session
    from langchain_ralmspec.speculation import Plan


THREADS = "ralmspec-verify"
"""What the names of the threads begin with that verify."""


_PATIENCE = 5.0  # seconds to wait for calls that read memory of the caller's


def _is_worker() -> bool:
    """Whether this is a thread that verifies."""
    return threading.current_thread().name.startswith(THREADS)


@dataclass(slots=True)
class Flight:
    """One verification on its way.

    Attributes:
        guesses: what it verifies, in order.
        plan: by which these were made.
        future: its answer.
        span: when it was out.
        with_vectors: whether its answer is to fill the cache.
    """

    guesses: tuple[Guess, ...]
    plan: Plan
    future: Future[Answer]
    span: Span
    with_vectors: bool

    @property
    def n_right(self) -> int | None:
        """Guesses before the first wrong one; None without an answer."""
        if not self.future.done() or self.future.exception():
            return None
        # There are fewer answers where they were asked for one by one.
        pairs = zip(self.guesses, self.future.result().truth, strict=False)
        right = takewhile(lambda pair: ids_of(pair[0].hits) == ids_of(pair[1]), pairs)
        return sum(1 for _ in right)


class Flights:
    """The verifications of one request, oldest first.

    A synchronous one is done when :meth:`send` returns. The others run in threads
    of this request alone, which end with their calls: leaving the ``with`` block
    starts no queued call any more, and waits for those that run, some seconds, only
    where they read memory that the caller may change next. (Python itself waits for all
    when it ends: give a client of a server a timeout.)
    """

    def __init__(self, session: Session, spans: list[Span]) -> None:
        """Start with none; no thread is made before it is needed.

        Args:
            session: asks the store.
            spans: where to write when each was out.
        """
        self._session = session
        self._spans = spans
        self._flights: deque[Flight] = deque()
        self._abandoned: list[Future[Answer]] = []
        self._executor: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()
        if self._executor:
            self._executor.shutdown(wait=False, cancel_futures=True)
            if self._session.reads_shared_memory and not _is_worker():
                # Not for ever: the garbage collector may be who leaves, in a thread
                # that holds what the call waits for.
                wait(self._abandoned, _PATIENCE)

    def __len__(self) -> int:
        """Verifications sent and not yet judged."""
        return len(self._flights)

    @property
    def has_landed(self) -> bool:
        """Whether the oldest has its answer."""
        return bool(self._flights) and self._flights[0].future.done()

    @property
    def are_running(self) -> bool:
        """Whether any call is out now, those that nobody listens to included."""
        self._abandoned = [future for future in self._abandoned if not future.done()]
        out = (flight.future for flight in self._flights)
        return bool(self._abandoned) or not all(future.done() for future in out)

    @property
    def are_doomed(self) -> bool:
        """Whether one is known to hold a wrong guess: what stands on it is useless."""
        return any(
            flight.n_right not in (None, len(flight.guesses))
            for flight in self._flights
        )

    def send(self, guesses: list[Guess], plan: Plan, *, with_vectors: bool) -> None:
        """Ask the store whether guesses are right, in one call."""
        now = time.perf_counter()
        span = Span("verifying", now, now, queries=len(guesses))
        self._spans.append(span)

        def ask() -> Answer:
            span.end = span.start = time.perf_counter()
            try:
                queries = [guess.query for guess in guesses]
                return self._session.ask(queries, with_vectors=with_vectors)
            finally:
                span.end = time.perf_counter()

        future = self._start(ask, plan)
        flight = Flight(tuple(guesses), plan, future, span, with_vectors)
        self._flights.append(flight)

    def land(self) -> Flight:
        """Wait for the oldest and take it off.

        A call that failed is made again here, query by query: another thread may
        have been the reason, or a query that stands on a wrong guess, which the
        sequential loop would not have asked.

        Raises:
            StoreError: the store or encoder failed once more.
        """
        flight = self._flights.popleft()
        with self._session.stats.timing("waiting"):
            if flight.future.exception():
                answer = self._in_turn(flight)
                flight.future = Future()
                flight.future.set_result(answer)
        return flight

    def _in_turn(self, flight: Flight) -> Answer:
        """Ask query by query, up to the first whose guess was wrong."""
        whole: Answer | None = None
        for guess in flight.guesses:
            part = self._session.ask([guess.query], with_vectors=flight.with_vectors)
            whole = part if whole is None else whole.joined(part)
            if ids_of(part.truth[0]) != ids_of(guess.hits):
                break
        assert whole is not None  # noqa: S101  a flight has guesses
        return whole

    def abandon(self) -> None:
        """Forget all that are out: a guess before theirs was wrong.

        What runs already runs to its end, unheard.
        """
        for flight in self._flights:
            if not flight.future.cancel():
                self._abandoned.append(flight.future)
        self._flights.clear()

    def _start(self, ask: Callable[[], Answer], plan: Plan) -> Future[Answer]:
        if plan.in_flight:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max(IN_FLIGHT), THREADS)
            # In the caller's context, which tracing and the like go by.
            return self._executor.submit(contextvars.copy_context().run, ask)
        future: Future[Answer] = Future()
        with self._session.stats.timing("waiting"):
            try:
                future.set_result(ask())
            except Exception as error:  # noqa: BLE001  looked at when it lands
                future.set_exception(error)
        return future
