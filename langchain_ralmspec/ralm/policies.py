"""When to retrieve while an answer is written, and with which query.

A policy writes *steps*: a step is generated under one list of documents, up to the next
query. The loops know nothing else about a policy, so all speculate alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.text import is_blank

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ralmspec.ralm.hits import Hits
    from langchain_ralmspec.ralm.writer import Stride, Writer

MAX_SENTENCE = 64
"""Most tokens of a sentence; a longer one is cut here (as FLARE does)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What was written under one list of documents, and the next query."""

    hits: Hits
    strides: tuple[Stride, ...]  # what stays in the answer; none when all was a draft
    query: str | None  # None when the answer is complete
    # From when to when it was written, by ``time.perf_counter()``.
    written: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class RetrievalPolicy(ABC):
    """Decides when to retrieve, and writes the answer in between.

    Attributes:
        query: gives the end of question + answer as text: the next query.
    """

    query: Callable[[], str]

    @abstractmethod
    def write(self, writer: Writer, hits: Hits, number: int) -> Step:
        """Write step ``number`` (from 0) under ``hits``, up to the next query."""


@dataclass(frozen=True, slots=True)
class FixedStride(RetrievalPolicy):
    """Retrieve every ``n_tokens`` tokens (RaLMSpec section 2; in-context RALM)."""

    n_tokens: int

    def write(self, writer: Writer, hits: Hits, number: int) -> Step:
        """Write one stride."""
        stride = writer.write(hits, self.n_tokens)
        return Step(hits, (stride,), None if stride.reason else self.query())


@dataclass(frozen=True, slots=True)
class Flare(RetrievalPolicy):
    """Retrieve when the next sentence is doubtful (FLARE, arXiv 2305.06983).

    A sentence is written ahead. It stays if the model gave every token at least the
    probability ``threshold``; else it is taken back and becomes the query for the
    documents under which it is written again.
    """

    threshold: float

    def write(self, writer: Writer, hits: Hits, number: int) -> Step:
        """Write the sentence that was looked up, and all sure sentences after it."""
        strides = [writer.write(hits, MAX_SENTENCE, sentence=True)]
        while not strides[-1].reason:
            mark = writer.mark
            ahead = writer.write(hits, MAX_SENTENCE, sentence=True)
            if ahead.least_probability < self.threshold:
                said = writer.transcript.text_bytes(ahead.start, ahead.end)
                writer.rewind(mark)
                query = said.decode("utf-8", "ignore").strip()
                if is_blank(query):
                    query = self.query()
                return Step(hits, tuple(strides), query)
            strides.append(ahead)
        return Step(hits, tuple(strides), None)


@dataclass(frozen=True, slots=True)
class IterRetGen(RetrievalPolicy):
    """Answer, retrieve with the answer, answer again (Iter-RetGen, 2305.15294).

    The query is the whole of question + answer; of ``n_rounds`` answers the last stays.
    """

    n_rounds: int

    def write(self, writer: Writer, hits: Hits, number: int) -> Step:
        """Write a whole answer, which stays in the last round."""
        mark = writer.mark
        stride = writer.write(hits, writer.transcript.max_tokens)
        if number + 1 >= self.n_rounds:
            return Step(hits, (stride,), None)
        query = self.query()
        writer.rewind(mark)
        return Step(hits, (), query)
