"""One answer being generated: events in, text out, and what was learnt on the way."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.transcript import TextStream
from langchain_ralmspec.ralm.events import Committed, Finished

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from langchain_core.documents import Document

    from langchain_ralmspec.ralm.events import Event, FinishReason, Span
    from langchain_ralmspec.speculation import SpeculationStats


class Run:
    """Iterate for the text, piece by piece; every piece is verified.

    Attributes:
        steps: every committed stride: its tokens and its documents.
        stats: counts and seconds.
        spans: what was done when, for a timeline.
        finish_reason: why the answer ended; None until it has.
    """

    def __init__(
        self,
        events: Generator[Event, None, None],
        stats: SpeculationStats,
        spans: list[Span],
        stops: Sequence[str],
    ) -> None:
        """Prepare to run; nothing happens before the first iteration."""
        self.steps: list[Committed] = []
        self.stats = stats
        self.spans = spans
        self.finish_reason: FinishReason | None = None
        self._events = events
        self._text = TextStream(stops)

    def __iter__(self) -> Iterator[str]:
        """Yield the text as it becomes certain."""
        # Closed at once when the caller leaves, not when it is collected: calls to
        # the store may be out.
        with closing(self._events):
            while (event := self._next()) is not None:
                text = ""
                if isinstance(event, Committed):
                    self.steps.append(event)
                    text = self._text.feed(event.text)
                elif isinstance(event, Finished):
                    self.finish_reason = event.reason
                    text = self._text.finish()
                if text:
                    yield text

    def _next(self) -> Event | None:
        """Advance the loop; only its own time counts, not the consumer's."""
        start = time.perf_counter()
        try:
            return next(self._events, None)
        finally:
            self.stats.seconds += time.perf_counter() - start

    @property
    def n_tokens(self) -> int:
        """Tokens of the answer so far."""
        return sum(len(step.tokens) for step in self.steps)

    @property
    def documents(self) -> list[Document]:
        """The documents used, in the order of their first use."""
        by_id = {hit.id: hit.document for step in self.steps for hit in step.hits}
        return list(by_id.values())
