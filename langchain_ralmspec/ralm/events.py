"""Events that the loops yield while they generate an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from langchain_ralmspec.answer.events import Committed


@dataclass(frozen=True, slots=True)
class Verified:
    """A call with ``n_guesses`` came back: ``n_right`` stand before a wrong one."""

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


Event = Committed | Verified | RolledBack
