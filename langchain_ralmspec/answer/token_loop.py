"""The loop that kNN-LM and RAPID share: propose, verify in one call, keep, settle.

A round proposes tokens, verifies all of them by one call (a search of the datastore, a
pass of the target), and keeps those that are the method's own choice. In the place of
the first that is not, it keeps the one that is, so every round writes a token at least;
without a proposal the loop is plain decoding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from langchain_ralmspec.answer.events import Committed

if TYPE_CHECKING:
    from langchain_ralmspec.answer.transcript import Transcript

TARGET = "target"
"""The source of tokens that nobody had proposed."""


class Proposal(Protocol):
    """What may come next."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Ids, in order; none for plain decoding."""

    @property
    def source(self) -> str:
        """Who proposes them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a proposal."""

    committed: Committed  # the tokens that are part of the answer now
    num_chosen_tokens: int  # these, and one that ends the answer and stays out of it
    num_accepted_tokens: int  # the chosen tokens that had been proposed


P = TypeVar("P", bound=Proposal)
Truth = TypeVar("Truth")


class TokenLoop(ABC, Generic[P, Truth]):
    """An answer being written; a method says how it proposes, verifies and settles."""

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript

    def run(self) -> Generator[Committed, None, None]:
        """Write until the answer ends."""
        while self.transcript.finish_reason is None:
            proposal = self.propose()
            truths = self.verify(proposal)
            verdict = self.keep(proposal, truths)
            self.settle(proposal, verdict)
            yield verdict.committed

    @abstractmethod
    def propose(self) -> P:
        """Propose tokens; the transcript is left as it was."""

    @abstractmethod
    def verify(self, proposal: P) -> Sequence[Truth]:
        """Find out by one call what decides on each token, and perhaps on one more."""

    @abstractmethod
    def choose(self, truth: Truth, proposal: P, number: int) -> int:
        """Choose the token behind the transcript, as ``truth`` decides.

        It takes the place of the proposal's token ``number``; there is none if the
        truth is the last one.
        """

    @abstractmethod
    def settle(self, proposal: P, verdict: Verdict) -> None:
        """Roll the KV back to what was kept, and learn from the round."""

    def keep(self, proposal: P, truths: Sequence[Truth]) -> Verdict:
        """Add tokens to the transcript, up to the first that was not proposed."""
        transcript, proposed = self.transcript, proposal.tokens
        start, num_chosen, num_accepted = len(transcript), 0, 0
        for number, truth in enumerate(truths):
            token = self.choose(truth, proposal, number)
            is_accepted = number < len(proposed) and token == proposed[number]
            num_chosen += 1
            num_accepted += is_accepted
            if transcript.append(token) or not is_accepted:
                break
        end = len(transcript)
        num_from_proposal = min(num_accepted, end - start)
        committed = Committed(
            tuple(transcript.tokens[start:]),
            transcript.text_bytes(start, end),
            sources=(proposal.source,) * num_from_proposal
            + (TARGET,) * (end - start - num_from_proposal),
        )
        return Verdict(committed, num_chosen, num_accepted)
