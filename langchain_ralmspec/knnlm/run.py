"""One text being continued: rounds in, text out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.transcript import TextStream
from langchain_ralmspec.knnlm.loop import generate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_ralmspec.knnlm.loop import NeighbourRequest
    from langchain_ralmspec.speculation import SpeculationStats, StrideScheduler


class NeighbourRun:
    """Iterate for the text, piece by piece; every piece is verified.

    Attributes:
        request: what is asked; its ``finish_reason`` says why the text ended.
    """

    def __init__(
        self,
        request: NeighbourRequest,
        scheduler: StrideScheduler | None,
        stops: Sequence[str],
    ) -> None:
        """Prepare to run; nothing happens before the first iteration."""
        self.request = request
        self._text = TextStream(stops)
        self._rounds = generate(request, scheduler)

    def __iter__(self) -> Iterator[str]:
        """Yield the text as it becomes certain."""
        while True:
            start = time.perf_counter()
            written = next(self._rounds, None)
            # Only the loop's own time counts, not the consumer's.
            self.stats.seconds += time.perf_counter() - start
            if written is None:
                break
            if text := self._text.feed(written.text):
                yield text
        if text := self._text.finish():
            yield text

    @property
    def stats(self) -> SpeculationStats:
        """Counts and seconds."""
        return self.request.stats

    @property
    def tokens(self) -> list[int]:
        """Tokens of the text so far."""
        return self.request.transcript.tokens
