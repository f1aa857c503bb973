"""How the next document is guessed while the store is not asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from langchain_ralmspec.speculation.cache import SessionCache, Vector


class GuessPolicy(Protocol):
    """A rule that guesses the documents of the next step.

    Attributes:
        needs_vector: whether :meth:`guess` looks at the query's vector, which then is
            computed before every guess instead of in one batch at verification.
    """

    needs_vector: bool

    def guess(
        self, cache: SessionCache, vector: Vector | None, current: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Guess as many ids as ``current`` (the last step's documents) has."""


class Lookup:
    """The paper's: the cached documents nearest to the query (section 3)."""

    needs_vector = True

    def guess(
        self, cache: SessionCache, vector: Vector | None, current: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Look the query up in the cache."""
        return current if vector is None else cache.top(vector, len(current))


class SameDocument:
    """The last step's documents again: free, and right four times in five."""

    needs_vector = False

    def guess(
        self, cache: SessionCache, vector: Vector | None, current: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Repeat the current documents."""
        return current


GUESS_POLICIES: dict[str, type[Lookup | SameDocument]] = {
    "lookup": Lookup,
    "same": SameDocument,
}
"""By the name that constructors take as ``guess_policy``."""
