"""What one call did: counts and seconds."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Span = tuple[str, float, float]
"""What a loop was doing, from when to when, by ``time.perf_counter()``."""

LAID_OUT = frozenset(
    {
        "generating",
        "guessing",
        "waiting",
        "prefilling",
        "drafting",
        "verifying",
        "reading",
    }
)
"""Parts of which a loop does one at a time; ``reading`` lies within ``generating``."""


@dataclass(slots=True, kw_only=True)  # so that subclasses' fields come first
class AnswerStats:
    """Seconds of one call.

    Attributes:
        seconds: of the loop, without what the consumer of a stream does meanwhile.
        first_token: seconds from the call to the first token.
        prompt_tokens: tokens of the prompt, without documents in front that change.
        spans: what was done when, for a report; None where nobody keeps it.
    """

    seconds: float = 0.0
    first_token: float = 0.0
    prompt_tokens: int = 0
    spans: list[Span] | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def timing(self, *parts: str) -> Iterator[None]:
        """Add the time of a block to the seconds of ``parts``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spend(time.perf_counter() - start, *parts)

    def spend(self, seconds: float, *parts: str) -> None:
        """Add to ``seconds_<part>`` of each part, which has ended just now."""
        for part in parts:
            name = f"seconds_{part}"
            setattr(self, name, getattr(self, name) + seconds)
            self._lay_out(part, seconds)

    @contextmanager
    def laying_out(self, part: str) -> Iterator[None]:
        """Note when a block ran that is counted under another part."""
        start = time.perf_counter()
        yield
        self._lay_out(part, time.perf_counter() - start)

    def _lay_out(self, part: str, seconds: float) -> None:
        """Note that a part has taken so long up to now."""
        spans = self.spans
        if spans is None or part not in LAID_OUT:
            return
        end = time.perf_counter()
        start = end - seconds
        if spans and spans[-1][0] == part and start - spans[-1][2] < _SAME_SPAN:
            start = spans.pop()[1]
        spans.append((part, start, end))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, for metadata and JSON."""
        figures = asdict(replace(self, spans=None))
        del figures["spans"]
        return figures


_SAME_SPAN = 1e-3
"""Seconds between two spans of one part that are told as one: nobody sees them, and an
answer that is written token by token, in one go, is one span."""


@dataclass(slots=True)
class SpeculationStats(AnswerStats):
    """What guessing and verifying did in one call.

    Attributes:
        steps: what was written between two retrievals, kept or not.
        guesses: documents (or ordered lists of them) guessed, and then verified or
            proven.
        right_guesses: guesses that the store confirmed, or that were proven.
        proven_guesses: guesses that needed no verification, since what the session had
            seen left no other answer.
        rounds: verifications.
        store_calls: calls to the store, the first retrieval included.
        queries: queries sent in those calls.
        tokens_kept: generated tokens that are part of the answer.
        tokens_rolled_back: generated tokens that a wrong guess cost.
        read_tokens: tokens up to the last document that the model read, each time it
            did; what stands behind it is read with the question.
        cached_tokens: those of them whose KV was kept from before instead.
        verifications: queries and seconds of every verification that was used,
            its query embedding included unless the guess had done it.
        plans: decisions by the plan they followed, e.g. ``{"lookup 4": 12}``.
        seconds_generating: in the model: prefilling documents and decoding.
        seconds_guessing: for guesses, on the thread that generates: embedding their
            queries and looking them up.
        seconds_embedding: in the query encoder, for guesses or verifications.
        seconds_searching: in the store.
        seconds_waiting: with the model idle for a retrieval or verification.
        seconds_embedding_idle: of those in the query encoder, the seconds in which the
            thread that asked had nothing to do: waiting for a service, or for threads
            of an encoder in this process.
        seconds_searching_idle: likewise of those in the store.
    """

    steps: int = 0
    guesses: int = 0
    right_guesses: int = 0
    proven_guesses: int = 0
    rounds: int = 0
    store_calls: int = 0
    queries: int = 0
    tokens_kept: int = 0
    tokens_rolled_back: int = 0
    read_tokens: int = 0
    cached_tokens: int = 0
    verifications: list[tuple[int, float]] = field(default_factory=list)
    plans: dict[str, int] = field(default_factory=dict)
    seconds_generating: float = 0.0
    seconds_guessing: float = 0.0
    seconds_embedding: float = 0.0
    seconds_searching: float = 0.0
    seconds_waiting: float = 0.0
    seconds_embedding_idle: float = 0.0
    seconds_searching_idle: float = 0.0

    @property
    def guess_accuracy(self) -> float | None:
        """Share of guesses that were right; None before the first."""
        return self.right_guesses / self.guesses if self.guesses else None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, for metadata and JSON."""
        # `super()` knows nothing of a class that slots have made anew.
        return AnswerStats.as_dict(self) | {
            "verifications": [list(each) for each in self.verifications],
            "guess_accuracy": self.guess_accuracy,
        }
