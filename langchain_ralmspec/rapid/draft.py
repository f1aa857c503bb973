"""What a drafter is: something that proposes how an answer may go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens.

    Attributes:
        tokens: ids of the target's vocabulary, in order.
        probabilities: *q*, the drafter's distribution that each token was drawn
            from, shape ``(len(tokens), n_vocab)``; None where it has none, which
            rules out knowledge transfer.
        evidence: for each token how sure the drafter is of it, from 0 to 1 as a
            probability; empty where it cannot tell. (Of look-up: the tokens matched.)
    """

    tokens: tuple[int, ...] = ()
    probabilities: NDArray[np.float64] | None = None
    evidence: tuple[float, ...] = ()

    def cut(self, length: int) -> Draft:
        """The draft's first ``length`` tokens."""
        rows = self.probabilities
        return Draft(
            self.tokens[:length],
            None if rows is None else rows[:length],
            self.evidence[:length],
        )


@runtime_checkable
class Drafter(Protocol):
    """Proposes tokens; any object with these two may be given as ``drafter``."""

    name: str

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        """Propose at most ``n`` tokens behind ``prefix``.

        Args:
            prefix: all tokens so far, prompt and answer, in the target's vocabulary.
                It grows from call to call, and must not be changed.
            n: at least 1.

        Returns:
            A draft, empty where nothing comes to mind.
        """
        ...
