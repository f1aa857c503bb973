"""Events that the loops yield while they generate an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.events import Committed

if TYPE_CHECKING:
    from langchain_ralmspec.ralm.hits import Hits
    from langchain_ralmspec.ralm.memory import Guess


@dataclass(frozen=True, slots=True)
class Asked:
    """The store is asked next: for one query, or to verify the guesses for some."""

    queries: tuple[str, ...]
    verifies: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A query of the answer has its documents, and these are final.

    There is one for each query that the sequential loop asks, in its order. Those of a
    verification come behind its :class:`Verified`, up to the first wrong guess.
    """

    query: str
    hits: Hits
    guess: Guess | None = None  # None where the store was waited for
    is_right: bool = True  # the guess


@dataclass(frozen=True, slots=True)
class Verified:
    """A call with ``n_guesses`` came back: ``n_right`` stand before a wrong one.

    Calls come back in the order in which they were sent. Those sent after one with a
    wrong guess do not: nobody takes their answers any more.
    """

    n_guesses: int
    n_right: int
    # When it was sent, by ``time.perf_counter()``, and how long the answer took.
    sent: float = field(default=0.0, compare=False)
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Tokens written after a wrong guess were dropped; none of them was committed."""

    n_tokens: int
    text: bytes = field(default=b"", compare=False)  # of these tokens
    # When the first of it began to be written, by ``time.perf_counter()``.
    since: float = field(default=0.0, compare=False)


Event = Committed | Asked | Found | Verified | RolledBack
