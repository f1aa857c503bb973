"""What a report calls things, and how it says times and counts."""

from __future__ import annotations

PARTS = {
    "preparing": "preparing: loading, splitting, searching",
    "generating": "writing",
    "reading": "reading documents",
    "void": "writing what was taken back",
    "guessing": "guessing",
    "waiting": "waiting for the store",
    "prefilling": "reading the prompt",
    "drafting": "drafting",
    "verifying": "the target's passes",
    "call": "verification: all guesses right",
    "miss": "verification: one was wrong",
    "rest": "everything else",
}
"""Kinds of bars, and what they are called."""

ORIGINS = {
    "known": "documents known before",
    "confirmed": "guessed, then confirmed",
    "proven": "guessed, and proven",
}

_MINUTES = 120  # seconds; below, nobody counts in minutes


def seconds(value: float) -> str:
    """A time as people write it: 3 digits, in seconds, milliseconds or minutes."""
    value = round(value, 6)  # no more is kept
    if value >= _MINUTES:
        return f"{value / 60:,.1f} min"
    return f"{value:.3g} s" if value >= 1 or not value else f"{1000 * value:.3g} ms"


def n_of(count: float, what: str) -> str:
    """A count and what is counted."""
    return f"{count:,.0f} {what}" if count == 1 else f"{count:,.0f} {_PLURALS[what]}"


_PLURALS = {
    "call": "calls",
    "guess": "guesses",
    "query": "queries",
    "step": "steps",
    "token": "tokens",
    "verification": "verifications",
}
