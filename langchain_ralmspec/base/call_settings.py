"""Settings of a model that a single call may override."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from langchain_ralmspec.answer.sampling import PENALTY_WINDOW, Sampler
from langchain_ralmspec.arguments import StrictArguments

if TYPE_CHECKING:
    from langchain_ralmspec.answer.sampling import Constraint


class Sampling(StrictArguments):
    """How long an answer may be, and how its tokens are chosen."""

    max_tokens: int = Field(default=256, ge=1, le=2**31 - 1)
    """Tokens of the answer, at most."""
    temperature: float = Field(default=0.0, ge=0)
    """How far tokens are drawn from the most probable one; 0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Keep the fewest most probable tokens that reach this probability."""
    top_k: int = Field(default=40, ge=-1)
    """Keep this many most probable tokens; 0 and -1 keep all."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Keep tokens of this share of the most probable one's probability; 0 keeps all."""
    # What is divided by less overflows.
    repeat_penalty: float = Field(default=1.0, ge=1e-6)
    """Penalty on the answer's last tokens; 1 is off."""
    last_n_tokens_size: int = Field(default=PENALTY_WINDOW, ge=-1)
    """Tokens of the answer that ``repeat_penalty`` looks back at; 0 is none, -1 all."""
    seed: int | None = Field(default=None, ge=-1)
    """Seed of the random numbers; None and -1 draw a fresh one for every call."""
    grammar: str | None = None
    """What an answer may be, in llama.cpp's GBNF; None leaves it free."""

    @field_validator("grammar", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return getattr(value, "_grammar", value)  # of a llama_cpp.LlamaGrammar

    def sampler(self, constraint: Constraint | None) -> Sampler:
        """What chooses tokens by these settings."""
        names = Sampling.model_fields.keys() - {"max_tokens", "grammar"}
        settings = self.model_dump(include=names)
        settings["top_k"] = max(0, self.top_k)
        if self.last_n_tokens_size < 0:
            settings["last_n_tokens_size"] = self.max_tokens
        return Sampler(**settings, constraint=constraint)


class CallSettings(Sampling):
    """Settings that a single call may override."""

    kv_namespace: str | None = Field(default=None, min_length=1)
    """Whose KV is kept apart: what is read within one namespace, a tenant's for
    example, is neither found within another nor sooner for it. None is one that all
    share."""
