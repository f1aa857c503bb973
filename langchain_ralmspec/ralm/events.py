"""Events that the loops yield while they generate an answer."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_ralmspec.answer.events import Committed


@dataclass(frozen=True, slots=True)
class Verified:
    """A call with ``n_guesses`` came back: ``n_right`` stand before a wrong one."""

    n_guesses: int
    n_right: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Tokens written after a wrong guess were dropped; none of them was committed."""

    n_tokens: int


Event = Committed | Verified | RolledBack
