"""One answer being generated: a loop's events in, text out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.statistics import AnswerStats

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from langchain_ralmspec.answer.events import FinishReason
    from langchain_ralmspec.answer.transcript import Transcript

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


class Run(Generic[Stats]):
    """Iterate for the text of one answer, piece by piece; no piece is taken back."""

    def __init__(
        self, events: Generator[Any, None, None], request: Request[Stats]
    ) -> None:
        """Prepare to run; nothing happens before the first iteration."""
        self.request: Any = request
        self.steps: list[Committed] = []  # so far
        self.stats: Stats = request.stats
        self.finish_reason: FinishReason | None = None  # until it has ended
        self._events = events
        self._transcript = request.transcript
        self._n_tokens = 0

    def __iter__(self) -> Iterator[str]:
        """Yield the text as it becomes certain; only what was not yielded before."""
        while (event := self._next()) is not None:
            if isinstance(event, Committed) and (text := self._commit(event)):
                yield text
        self.finish_reason = self._transcript.finish_reason
        if text := self._transcript.release(self._n_tokens, is_final=True):
            yield text

    def _next(self) -> Any:
        """Advance the loop; only its own time counts, not the consumer's."""
        start = time.perf_counter()
        try:
            return next(self._events, None)
        finally:
            self.stats.seconds += time.perf_counter() - start

    def _commit(self, event: Committed) -> str:
        """Note what is final now; returns the text that became certain by it."""
        if not self._n_tokens:
            self.stats.first_token = self.stats.seconds
        self.steps.append(event)
        self._n_tokens += len(event.tokens)
        return self._transcript.release(self._n_tokens)

    @property
    def tokens(self) -> list[int]:
        """Tokens of the answer that are final."""
        return self._transcript.tokens[: self._n_tokens]
