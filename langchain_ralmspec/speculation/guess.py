"""How the next document is guessed while the store is not asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ralmspec.speculation.cache import SessionCache, Vector

Ids: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuessPolicy:
    """A rule that guesses as many ids as the last step's documents are.

    Attributes:
        guess: from the cache, the query's vector and the last step's documents.
        needs_vector: whether the rule looks at the vector, which then is computed
            before every guess instead of in one batch at verification.
    """

    guess: Callable[[SessionCache, Vector | None, Ids], Ids]
    needs_vector: bool


def _nearest(cache: SessionCache, vector: Vector | None, current: Ids) -> Ids:
    if vector is None or not current:
        return current
    return cache.top(vector, len(current))


GUESS_POLICIES = {
    # The paper's: the cached documents nearest to the query (section 3).
    "lookup": GuessPolicy(_nearest, needs_vector=True),
    # The last step's documents again: free, and right four times in five.
    "same": GuessPolicy(lambda _cache, _vector, current: current, needs_vector=False),
}
"""By the name that constructors take as ``guess_policy``."""

REPLICA = "replica"
"""A look-up where a replica of the store is asked too: the best that either knows."""

NEEDS_VECTOR = {
    **{name: policy.needs_vector for name, policy in GUESS_POLICIES.items()},
    REPLICA: True,
}
"""By the name that plans have: whether a policy looks at the query's vector."""
