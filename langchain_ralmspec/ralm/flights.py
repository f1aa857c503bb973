"""Verifications on their way: at once, or in worker threads while the model writes."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
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


@dataclass(frozen=True, slots=True)
class Flight:
    """One verification on its way.

    Attributes:
        guesses: what it verifies, in order.
        plan: by which these were made.
        future: its answer.
        span: when it was out.
    """

    guesses: tuple[Guess, ...]
    plan: Plan
    future: Future[Answer]
    span: Span

    @property
    def n_right(self) -> int | None:
        """Guesses before the first wrong one; None without an answer."""
        if not self.future.done() or self.future.exception():
            return None
        pairs = zip(self.guesses, self.future.result().truth, strict=True)
        right = takewhile(lambda pair: ids_of(pair[0].hits) == ids_of(pair[1]), pairs)
        return sum(1 for _ in right)


class Flights:
    """The verifications of one request, oldest first.

    A synchronous one is done when :meth:`send` returns. The others run in threads
    of this request alone, which end with their calls: leaving the ``with`` block
    starts no queued call any more and waits for none that runs.
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

    def __len__(self) -> int:
        """Verifications sent and not yet judged."""
        return len(self._flights)

    @property
    def has_landed(self) -> bool:
        """Whether the oldest has its answer."""
        return bool(self._flights) and self._flights[0].future.done()

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
                return self._session.ask(
                    [guess.text for guess in guesses],
                    [guess.query for guess in guesses],
                    with_vectors=with_vectors,
                )
            finally:
                span.end = time.perf_counter()

        self._flights.append(Flight(tuple(guesses), plan, self._start(ask, plan), span))

    def land(self) -> Flight:
        """Wait for the oldest and take it off.

        Raises:
            EmptyStoreError: its store found nothing.
            StoreError: its store or encoder failed.
        """
        flight = self._flights.popleft()
        with self._session.stats.timing("waiting"):
            flight.future.result()
        return flight

    def abandon(self) -> None:
        """Forget all that are out: a guess before theirs was wrong.

        What runs already runs to its end, unheard.
        """
        for flight in self._flights:
            flight.future.cancel()
        self._flights.clear()

    def _start(self, ask: Callable[[], Answer], plan: Plan) -> Future[Answer]:
        if plan.in_flight:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max(IN_FLIGHT), "ralmspec-verify")
            # In the caller's context, which tracing and the like go by.
            return self._executor.submit(contextvars.copy_context().run, ask)
        future: Future[Answer] = Future()
        with self._session.stats.timing("waiting"):
            future.set_result(ask())
        return future
