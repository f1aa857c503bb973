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
    FinishReason,
    RolledBack,
    Verified,
)
from langchain_ralmspec.ralm.session import Hits, Session, ids_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_ralmspec.ralm.writer import Branch, Writer
    from langchain_ralmspec.stores.base import Query


@dataclass(frozen=True, slots=True)
class Stride:
    """Tokens ``start`` to ``end`` of the answer, written on one branch.

    Attributes:
        branch: the documents and their KV.
        start: length of the answer before it.
        end: length of the answer after it.
        reason: why the answer is complete; None when it goes on.
    """

    branch: Branch
    start: int
    end: int
    reason: FinishReason | None


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

    def open(self, hits: Hits) -> Branch:
        """Start writing under documents."""
        with self.session.stats.timing("generating"):
            return self.writer.open(hits)

    def move(self, branch: Branch, hits: Hits) -> Branch:
        """Stay on the branch if its documents are ``hits``, else open another."""
        return branch if ids_of(branch.hits) == ids_of(hits) else self.open(hits)

    def write(self, branch: Branch) -> Stride:
        """Generate one stride on a branch."""
        start = len(self.writer.transcript)
        self.session.stats.steps += 1
        with self.session.stats.timing("generating"):
            reason = self.writer.write(branch, self.stride)
        return Stride(branch, start, len(self.writer.transcript), reason)

    def commit(self, stride: Stride) -> Committed:
        """Count a stride as final, and tell of it."""
        transcript = self.writer.transcript
        tokens = tuple(transcript.tokens[stride.start : stride.end])
        self.session.stats.tokens_kept += len(tokens)
        text = transcript.text_bytes(stride.start, stride.end)
        return Committed(tokens, text, stride.branch.hits)


def sequential(request: Request) -> Iterator[Event]:
    """Generate a stride, wait for the store, generate the next one."""
    session = request.session
    branch = request.open(session.retrieve(request.query_text()))
    while True:
        stride = request.write(branch)
        yield request.commit(stride)
        if stride.reason:
            yield Finished(stride.reason)
            return
        branch = request.move(branch, session.retrieve(request.query_text()))


def speculative(request: Request, speculation_stride: int) -> Iterator[Event]:
    """Generate up to ``speculation_stride`` strides, then verify their guesses."""
    session = request.session
    text = request.query_text()
    (hits,) = session.verify([text], [session.encode(text)])
    branch = request.open(hits)
    while True:
        # A round. Its first stride stands on verified documents: it is final.
        strides = [request.write(branch)]
        yield request.commit(strides[0])
        guesses = _speculate(request, strides, speculation_stride)
        if guesses:
            truth = session.verify(
                [guess.text for guess in guesses], [guess.query for guess in guesses]
            )
            n_right = _count_right(guesses, truth)
            yield _judged(session, len(guesses), n_right)
            for stride in strides[1 : n_right + 1]:
                yield request.commit(stride)
            if n_right < len(guesses):
                yield _roll_back(request, strides[n_right])
                branch = request.move(strides[n_right].branch, truth[n_right])
                continue
        if strides[-1].reason:
            yield Finished(strides[-1].reason)
            return
        branch = request.move(strides[-1].branch, truth[-1])


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
        branch = strides[-1].branch
        text = request.query_text()
        query = session.encode(text)
        hits = session.guess(query, branch.hits)
        guesses.append(Guess(text, query, hits))
        if len(guesses) == speculation_stride:
            break
        strides.append(request.write(request.move(branch, hits)))
    return guesses


def _count_right(guesses: list[Guess], truth: list[Hits]) -> int:
    """Number of guesses before the first wrong one."""
    pairs = zip(guesses, truth, strict=True)
    return sum(
        1
        for _ in takewhile(lambda pair: ids_of(pair[0].hits) == ids_of(pair[1]), pairs)
    )


def _judged(session: Session, n_guesses: int, n_right: int) -> Verified:
    # Guesses behind a wrong one were made for an answer that never was: their
    # being right or wrong says nothing, so they are not counted.
    session.stats.rounds += 1
    session.stats.guesses += min(n_right + 1, n_guesses)
    session.stats.right_guesses += n_right
    return Verified(n_guesses, n_right)


def _roll_back(request: Request, last: Stride) -> RolledBack:
    """Forget everything written after a stride.

    Its branch needs no repair: wrong documents were written on other branches, and
    if the branch itself went on, its documents were the wrong guess.
    """
    transcript = request.writer.transcript
    n_tokens = len(transcript) - last.end
    transcript.truncate(last.end)
    request.session.stats.tokens_rolled_back += n_tokens
    return RolledBack(n_tokens)
