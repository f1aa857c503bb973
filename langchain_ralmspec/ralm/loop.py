"""Retrieval inside generation: the sequential loop, and the speculative one.

Every ``stride`` tokens the end of question + answer becomes a query, and the
documents in front of the prompt are replaced by what it finds (RaLMSpec section
2). The speculative loop (section 3, Algorithm 1) guesses what the store would
answer, goes on generating, and asks for several queries in one call. Both commit
the same tokens under the same documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from langchain_ralmspec.ralm.events import (
    Committed,
    Event,
    Finished,
    RolledBack,
    Verified,
)
from langchain_ralmspec.ralm.writer import ids_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_ralmspec.ralm.session import Hits, Session
    from langchain_ralmspec.ralm.writer import Stride, Writer
    from langchain_ralmspec.stores.base import Query


@dataclass(frozen=True, slots=True)
class Guess:
    """What the query after a stride is thought to find.

    Attributes:
        text: the query.
        query: the query, embedded, when the guess needed that.
        hits: the documents guessed.
    """

    text: str
    query: Query | None
    hits: Hits


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to be generated.

    Attributes:
        writer: generates.
        session: retrieves.
        query_text: gives the current query, from question + answer so far.
        stride: tokens generated between two retrievals.
    """

    writer: Writer
    session: Session
    query_text: Callable[[], str]
    stride: int

    def write(self, hits: Hits) -> Stride:
        """Generate one stride under documents."""
        self.session.stats.steps += 1
        with self.session.stats.timing("generating"):
            return self.writer.write(hits, self.stride)

    def commit(self, stride: Stride) -> Committed:
        """Count a stride as final, and tell of it."""
        transcript = self.writer.transcript
        tokens = tuple(transcript.tokens[stride.start : stride.end])
        self.session.stats.tokens_kept += len(tokens)
        text = transcript.text_bytes(stride.start, stride.end)
        return Committed(tokens, text, stride.hits)


def sequential(request: Request) -> Iterator[Event]:
    """Wait for the store, generate a stride, wait for the store, …."""
    while True:
        stride = request.write(request.session.retrieve(request.query_text()))
        request.writer.prune()
        yield request.commit(stride)
        if stride.reason:
            yield Finished(stride.reason)
            return


def speculative(request: Request, speculation_stride: int) -> Iterator[Event]:
    """Generate up to ``speculation_stride`` strides, then verify their guesses."""
    session = request.session
    text = request.query_text()
    (hits,) = session.verify([text], [session.encode(text)])
    while True:
        # A round. Its first stride stands on verified documents: it is final.
        request.writer.prune()
        strides = [request.write(hits)]
        yield request.commit(strides[0])
        guesses = _speculate(request, strides, speculation_stride)
        if guesses:
            truth = session.verify(
                [guess.text for guess in guesses], [guess.query for guess in guesses]
            )
            n_right = _count_right(guesses, truth)
            yield _judged(session, len(guesses), n_right)
            wrong = strides[n_right + 1 :]
            if wrong:
                yield _roll_back(request, wrong)
            for stride in strides[1 : n_right + 1]:
                yield request.commit(stride)
            hits = truth[min(n_right, len(truth) - 1)]
            if n_right < len(guesses):
                continue
        if strides[-1].reason:
            yield Finished(strides[-1].reason)
            return


def _speculate(
    request: Request, strides: list[Stride], speculation_stride: int
) -> list[Guess]:
    """Guess after every stride and write the next; stops where the answer does.

    Appends to ``strides``. The last guess is verified before anything is written
    on it, so there are as many guesses as strides, or one fewer when the answer is
    complete.
    """
    session = request.session
    guesses: list[Guess] = []
    while not strides[-1].reason:
        text = request.query_text()
        query = session.encode(text)
        hits = session.guess(query, strides[-1].hits)
        guesses.append(Guess(text, query, hits))
        if len(guesses) == speculation_stride:
            break
        strides.append(request.write(hits))
    return guesses


def _count_right(guesses: list[Guess], truth: list[Hits]) -> int:
    """Number of guesses before the first wrong one."""
    pairs = zip(guesses, truth, strict=True)
    right = takewhile(lambda pair: ids_of(pair[0].hits) == ids_of(pair[1]), pairs)
    return sum(1 for _ in right)


def _judged(session: Session, n_guesses: int, n_right: int) -> Verified:
    # Guesses behind a wrong one were made for an answer that never was: their
    # being right or wrong says nothing, so they are not counted.
    session.stats.rounds += 1
    session.stats.guesses += min(n_right + 1, n_guesses)
    session.stats.right_guesses += n_right
    return Verified(n_guesses, n_right)


def _roll_back(request: Request, wrong: list[Stride]) -> RolledBack:
    """Take back the strides that were written under wrong documents."""
    n_tokens = wrong[-1].end - wrong[0].start
    request.session.stats.tokens_rolled_back += n_tokens
    with request.session.stats.timing("generating"):
        request.writer.take_back(wrong)
    return RolledBack(n_tokens)
