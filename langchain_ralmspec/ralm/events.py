"""Events that the loops yield while they generate an answer."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_ralmspec.answer.events import Committed


@dataclass(frozen=True, slots=True)
class Verified:
    """One verification call came back.

    Attributes:
        n_guesses: guesses in the call.
        n_right: guesses before the first wrong one.
    """

    n_guesses: int
    n_right: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Tokens written after a wrong guess were dropped; none of them was committed.

    Attributes:
        n_tokens: tokens dropped.
    """

    n_tokens: int


Event = Committed | Verified | RolledBack
