"""One answer being generated: a loop's events in, text out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.statistics import AnswerStats
from langchain_ralmspec.arguments import Live
from langchain_ralmspec.engine.request_queue import OPEN
from langchain_ralmspec.errors import RaLMSpecError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from langchain_ralmspec.answer.events import FinishReason
    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.engine.request_queue import Place
    from langchain_ralmspec.report import Record

Stats = TypeVar("Stats", bound=AnswerStats)
Stats_co = TypeVar("Stats_co", bound=AnswerStats, covariant=True)


class Request(Protocol[Stats_co]):
    """What a method's loop is asked to do, as far as a run looks at it."""

    @property
    def transcript(self) -> Transcript:
        """Receives the answer."""

    @property
    def stats(self) -> Stats_co:
        """Counts and seconds."""


class Run(Live, Generic[Stats]):
    """Iterate for the text of one answer, piece by piece; no piece is taken back."""

    instead = "keep its text, or what to_json() gives"

    def __init__(
        self,
        events: Generator[Any, None, None],
        request: Request[Stats],
        question: str = "",
        place: Place | None = None,
    ) -> None:
        """Prepare to run; nothing happens before the first iteration.

        That waits for the ``place``, if there is one, and keeps it until it ends.
        """
        self.question = question  # what was asked, for a report
        request.stats.spans = []
        self.request: Any = request
        self.steps: list[Committed] = []  # so far
        self.stats: Stats = request.stats
        self.finish_reason: FinishReason | None = None  # until it has ended
        # What the loop told, and when, by `time.perf_counter()`.
        self.log: list[tuple[float, Any]] = []
        self.began: float | None = None  # by the same clock
        self._events, self._place = events, place or OPEN.place()
        self._transcript = request.transcript
        self._n_tokens = 0
        self._certain = ""  # text that was yielded

    def __iter__(self) -> Iterator[str]:
        """Yield the text as it becomes certain; only what was not yielded before.

        An error of this package that ends it has that text, as its ``partial``.
        """
        with self._place:
            while (event := self._next()) is not None:
                if isinstance(event, Committed) and (text := self._commit(event)):
                    self._certain += text
                    yield text
        self.finish_reason = self._transcript.finish_reason
        if text := self._transcript.release(self._n_tokens, is_final=True):
            yield text

    def _next(self) -> Any:
        """Advance the loop; only its own time counts, not the consumer's."""
        start = time.perf_counter()
        if self.began is None:
            self.began = start
        try:
            with self._place.used():
                event = next(self._events, None)
        except RaLMSpecError as error:
            error.partial = self._certain
            raise
        finally:
            now = time.perf_counter()
            self.stats.seconds += now - start
        if event is not None:
            self.log.append((now, event))
        return event

    def _commit(self, event: Committed) -> str:
        """Note what is final now; returns the text that became certain by it."""
        if not self._n_tokens:
            self.stats.first_token = self.stats.seconds
        self.steps.append(event)
        self._n_tokens += len(event.tokens)
        return self._transcript.release(self._n_tokens)

    @property
    def pieces(self) -> list[str]:
        """What each of the :attr:`tokens` adds to the text."""
        return self._transcript.pieces(self._n_tokens)

    def to_json(self) -> str:
        """What a report shows, as JSON: ``ralmspec report`` makes a page of it.

        It holds the answer, what was asked and the first words of the documents.
        """
        return self._record().to_json()

    def to_html(self, title: str | None = None) -> str:
        """A page about this answer: where its time went, and what became of guesses.

        The page is one file that loads nothing and runs no script.

        Args:
            title: of the page; None takes the question.

        Raises:
            MissingExtraError: jinja2 is not installed.
        """
        from langchain_ralmspec.report import page

        return page(self._record(), title)

    def _repr_html_(self) -> str:
        """The page, as notebooks show it: in a frame, so that nothing leaks."""
        from langchain_ralmspec.report import embedded

        return embedded(self._record())

    def _record(self) -> Record:
        from langchain_ralmspec.answer.record import record_of

        return record_of(self)

    @property
    def tokens(self) -> list[int]:
        """Tokens of the answer that are final."""
        return self._transcript.tokens[: self._n_tokens]
