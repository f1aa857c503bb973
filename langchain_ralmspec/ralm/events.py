"""What happens in a request, as its loop tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from langchain_ralmspec.answer.events import Committed


@dataclass(frozen=True, slots=True)
class Verified:
    """One batched store call came back.

    Attributes:
        n_guesses: guesses in the call.
        n_right: how many of them, from the first on, were right.
    """

    n_guesses: int
    n_right: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A wrong guess: ``n_tokens`` tokens, none of them committed, were dropped."""

    n_tokens: int


Event = Committed | Verified | RolledBack


@dataclass(slots=True)
class Span:
    """When something was done, for a timeline.

    Attributes:
        kind: the model was generating, or a retrieval or verification was out.
        start: seconds on the clock of ``time.perf_counter``.
        end: the same; equal to ``start`` until it is over.
        kept: whether its result was used; a wrong guess makes that of later ones
            useless.
        queries: queries of a verification.
    """

    kind: Literal["generating", "verifying"]
    start: float
    end: float
    kept: bool = False
    queries: int = 0
