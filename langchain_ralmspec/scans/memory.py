"""Whether there is memory for a copy of a matrix."""

from __future__ import annotations

from langchain_ralmspec import machine

_SHARE = 0.75  # of the free memory that a copy may take


def has_room(n_bytes: int) -> bool:
    """Whether there is memory for a copy, and a quarter of what is free left."""
    spare = machine.free_memory()
    return spare is None or n_bytes <= _SHARE * spare
