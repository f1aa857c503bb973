"""A request: the writer, session and policy that a loop generates one answer with."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.ralm.events import Asked, Event, Found, RolledBack
from langchain_ralmspec.ralm.writer import Superseded

if TYPE_CHECKING:
    from collections.abc import Generator

    from langchain_ralmspec.answer.statistics import SpeculationStats
    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.ralm.hits import Hits
    from langchain_ralmspec.ralm.policies import RetrievalPolicy, Step
    from langchain_ralmspec.ralm.session import Session, Verification
    from langchain_ralmspec.ralm.writer import Writer


@dataclass(slots=True)
class Request:
    """One answer to be generated."""

    writer: Writer
    session: Session
    policy: RetrievalPolicy

    @property
    def transcript(self) -> Transcript:
        """The answer so far."""
        return self.writer.transcript

    @property
    def stats(self) -> SpeculationStats:
        """Counts and seconds."""
        return self.session.stats

    def retrieve(self, query: str) -> Generator[Event, None, Verification]:
        """Ask the store for a query, and wait.

        Raises EmptyStoreError where nothing found is an error, StoreError where the
        store fails.
        """
        yield Asked((query,))
        answer = self.session.retrieve(query)
        yield Found(query, answer.truth[0])
        return answer

    def write(self, hits: Hits, number: int) -> Step | None:
        """Write step ``number`` under documents; None when it was superseded."""
        self.stats.steps += 1
        start = time.perf_counter()
        with self.stats.timing("generating"):
            try:
                step = self.policy.write(self.writer, hits, number)
            except Superseded:
                return None
        return replace(step, written=(start, time.perf_counter()))

    def roll_back(self, mark: int, since: float) -> RolledBack:
        """Take back what was written behind a mark, and make the event that tells."""
        transcript, n_tokens = self.transcript, len(self.transcript)
        text = transcript.text_bytes(0, n_tokens)
        with self.stats.timing("generating"):
            self.writer.rewind(mark)
        n_kept = len(transcript)
        self.stats.tokens_rolled_back += n_tokens - n_kept
        text = text[len(transcript.text_bytes(0, n_kept)) :]
        return RolledBack(n_tokens - n_kept, text, since)

    def commit(self, step: Step) -> Committed:
        """Count a step as final, and make the event that tells of it."""
        if not step.strides:
            return Committed((), b"", step.hits, written=step.written)
        start, end = step.strides[0].start, step.strides[-1].end
        tokens = tuple(self.transcript.tokens[start:end])
        self.stats.tokens_kept += len(tokens)
        text = self.transcript.text_bytes(start, end)
        return Committed(tokens, text, step.hits, written=step.written)
