"""Counts and seconds of one answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from langchain_ralmspec.answer.statistics import AnswerStats


@dataclass(slots=True)
class DraftStats(AnswerStats):
    """What drafting did in one call.

    Attributes:
        tokens: number of tokens in the answer.
        passes: calls of the target behind the prompt.
        drafted: number of tokens sent to be verified, by drafter.
        accepted: number of these that were kept, by drafter.
        lengths: number of drafts verified, by length; 0 is plain decoding.
        rounds: for every pass the drafter (None for plain decoding), the tokens
            drafted and the tokens accepted, in order.
        cached_tokens: number of the prompt's tokens whose KV was kept from before.
        dropped_tokens: number of the document's tokens that did not fit.
        seconds_preparing: tokenising, retrieving for the drafter, loading it.
        seconds_prefilling: the target's prompt, up to the first token.
        seconds_drafting: in drafters, their own prompts included.
        seconds_verifying: in passes of the target.
    """

    tokens: int = 0
    passes: int = 0
    drafted: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    rounds: list[tuple[str | None, int, int]] = field(default_factory=list)
    cached_tokens: int = 0
    dropped_tokens: int = 0
    seconds_preparing: float = 0.0
    seconds_prefilling: float = 0.0
    seconds_drafting: float = 0.0
    seconds_verifying: float = 0.0

    @property
    def acceptance(self) -> float | None:
        """Share of the drafted tokens that were accepted; None without any."""
        drafted = sum(self.drafted.values())
        return sum(self.accepted.values()) / drafted if drafted else None

    @property
    def tokens_per_pass(self) -> float | None:
        """Tokens that a pass of the target gave; None before the first."""
        return (self.tokens - 1) / self.passes if self.passes else None

    @property
    def decode_seconds(self) -> float:
        """Seconds behind the first token."""
        return self.seconds - self.first_token

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Count the time of a block as spent before the model began."""
        before = self.seconds_preparing
        with self.timing("preparing"):
            yield
        self.seconds += self.seconds_preparing - before

    def verified(
        self, name: str | None, num_draft_tokens: int, num_accepted_tokens: int
    ) -> None:
        """Count a pass of the target."""
        self.passes += 1
        self.lengths[num_draft_tokens] = self.lengths.get(num_draft_tokens, 0) + 1
        self.rounds.append((name, num_draft_tokens, num_accepted_tokens))
        if name is not None:
            self.drafted[name] = self.drafted.get(name, 0) + num_draft_tokens
            self.accepted[name] = self.accepted.get(name, 0) + num_accepted_tokens

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and dicts, for metadata and JSON."""
        # `super()` knows nothing of a class that slots have made anew.
        figures = AnswerStats.as_dict(self)
        del figures["rounds"]
        # JSON's keys are text; msgpack refuses others.
        figures["lengths"] = {str(n): count for n, count in self.lengths.items()}
        more = ("acceptance", "tokens_per_pass")
        return figures | {name: getattr(self, name) for name in more}
