"""How the next document is guessed while the store is not asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from langchain_ralmspec.speculation.cache import SessionCache, Vector

Ids: TypeAlias = tuple[str, ...]
GuessPolicy: TypeAlias = Callable[["SessionCache", "Vector | None", Ids], Ids]
"""Guesses as many ids as the last step's documents are.

From the cache, the query's vector and the last step's documents.
"""


def _nearest(cache: SessionCache, vector: Vector | None, current: Ids) -> Ids:
    if vector is None or not current:
        return current
    return cache.top(vector, len(current))


GUESS_POLICIES: dict[str, GuessPolicy] = {
    # The paper's: the cached documents nearest to the query (section 3).
    "lookup": _nearest,
    # The last step's documents again: free, and right three times in four.
    "same": lambda _cache, _vector, current: current,
}
"""By the name that constructors take as ``guess_policy``."""

REPLICA = "replica"
"""A look-up where a replica of the store is asked too: the best that either knows."""

NEEDS_VECTOR = {"lookup": True, "same": False, REPLICA: True}
"""By the name that plans have: whether a policy looks at the query's vector.

Then it is computed before every guess instead of in one batch at verification.
"""
