"""What every face of a local model takes: how tokens are chosen."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.arguments import StrictArguments
from langchain_ralmspec.errors import InvalidValueError, UnknownArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.engine import Model


class Sampling(BaseModel):
    """Settings that a single call may override."""

    max_tokens: int = Field(default=256, ge=1)
    """Length limit of the answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Keep the fewest most probable tokens that reach this probability."""
    top_k: int = Field(default=40, ge=0)
    """Keep this many most probable tokens; 0 keeps all."""
    repeat_penalty: float = Field(default=1.0, gt=0)
    """Penalty on the answer's last 64 tokens; 1 is off."""
    seed: int | None = None
    """Of the random numbers; None draws a fresh one for every call."""

    def sampler(self) -> Sampler:
        """The sampler for these settings."""
        return Sampler(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repeat_penalty=self.repeat_penalty,
            seed=self.seed,
        )


class LocalGeneration(StrictArguments, Sampling):
    """What every face of a local model has."""

    model_path: str
    """A GGUF file."""

    @property
    @abstractmethod
    def engine(self) -> Model:
        """The model, loaded on first use and shared by the whole process."""

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of the model's tokens in a text."""
        return self.engine.weights.tokenize(text)

    def get_num_tokens(self, text: str) -> int:
        """Number of the model's tokens in a text."""
        return len(self.get_token_ids(text))

    def _sampling(self, overrides: dict[str, Any]) -> Sampling:
        known = Sampling.model_fields
        for name in overrides:
            if name in known:
                continue
            owner = type(self).__name__
            if name in type(self).model_fields:
                msg = (
                    f"{name!r} cannot be given per call; give it when {owner} is "
                    f"made. Per call: {', '.join(sorted(known))}"
                )
                raise UnknownArgumentError(msg)
            raise UnknownArgumentError.of(owner, name, known)
        return Sampling(**{name: getattr(self, name) for name in known} | overrides)

    def _tracing_params(self) -> dict[str, Any]:
        # The file's name as given: params are asked for before anything is loaded.
        return {
            "ls_provider": "ralmspec",
            "ls_model_name": Path(self.model_path).stem,
        }


def stops_of(given: str | Sequence[str] | None) -> list[str]:
    """Stop strings as a list; a single string is one of them, not its letters."""
    stops = [given] if isinstance(given, str) else list(given or [])
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            msg = f"a stop string must be a string that is not empty, got {stop!r}"
            raise InvalidValueError(msg)
    return stops
