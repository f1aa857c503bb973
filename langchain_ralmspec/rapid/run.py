"""One answer about a long context: rounds in, text out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.transcript import TextStream
from langchain_ralmspec.rapid.loop import generate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_ralmspec.rapid.loop import LongRequest, Written
    from langchain_ralmspec.rapid.statistics import DraftStats


class LongRun:
    """Iterate for the text, piece by piece; every piece is verified.

    Attributes:
        request: what is asked; its ``finish_reason`` says why the answer ended.
        written: the rounds' tokens and who proposed them.
    """

    def __init__(self, request: LongRequest, stops: Sequence[str]) -> None:
        """Prepare to run; nothing happens before the first iteration."""
        self.request = request
        self.written: list[Written] = []
        self._text = TextStream(stops)
        self._rounds = generate(request)

    def __iter__(self) -> Iterator[str]:
        """Yield the text as it becomes certain; only what was not yielded before."""
        stats = self.stats
        while True:
            start = time.perf_counter()
            written = next(self._rounds, None)
            # Only the loop's own time counts, not the consumer's.
            stats.seconds += time.perf_counter() - start
            if written is None:
                break
            if not self.written:
                stats.first_token = stats.seconds
            self.written.append(written)
            if text := self._text.feed(written.text):
                yield text
        if text := self._text.finish():
            yield text

    @property
    def stats(self) -> DraftStats:
        """Counts and seconds."""
        return self.request.stats

    @property
    def tokens(self) -> list[int]:
        """Tokens of the answer so far."""
        return self.request.transcript.tokens
