"""Steps that may have to be taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from langchain_ralmspec.ralm.events import Found
    from langchain_ralmspec.ralm.memory import Guess
    from langchain_ralmspec.ralm.policies import Step


@dataclass(frozen=True, slots=True)
class TentativeStep:
    """A step written under documents that are not verified yet."""

    step: Step | None  # None when writing it failed or was superseded
    mark: int  # where to rewind the writer to, to take the step back
    since: float  # when it began to be written, by ``time.perf_counter()``
    error: Exception | None = None  # why writing it failed
    found: Found | None = None  # its documents, once they are verified or proven

    @property
    def proven(self) -> Guess | None:
        """The guess it was written under, if that needs no verification.

        Then the step is as right as the one before.
        """
        guess = self.found and self.found.guess
        return guess if guess and guess.is_proven else None

    def under(self, found: Found) -> Self:
        """The step under documents that were verified, with their true scores."""
        step = self.step and replace(self.step, hits=found.hits)
        return replace(self, step=step, found=found)
