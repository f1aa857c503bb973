"""What the faces that guess retrievals share: whether to guess, and how far ahead."""

from __future__ import annotations

import warnings
from typing import Literal

from pydantic import PrivateAttr, field_validator

from langchain_ralmspec.base.local import LocalGeneration
from langchain_ralmspec.engine import Model, selftest
from langchain_ralmspec.speculation import Estimates, Scheduler


class SpeculativeGeneration(LocalGeneration):
    """Arguments of generation whose retrievals are guessed and then verified."""

    speculation: bool = True
    """False is the sequential loop: the same answer, one search a step."""
    speculation_stride: int | Literal["auto"] = "auto"
    """Guesses verified in one search; ``"auto"`` chooses by what is measured, and
    speculates only where that is sooner."""

    # What requests cost, for the plans of the next ones.
    _estimates: Estimates = PrivateAttr(default_factory=Estimates)

    @field_validator("speculation_stride")
    @classmethod
    def _usable_stride(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            msg = "must be at least 1, or 'auto'"
            raise ValueError(msg)
        return value

    def _may_speculate(self, model: Model, instead: str = "sequentially") -> bool:
        """Whether guesses leave the answer as it is; warns where they would not."""
        is_repeatable = not self.speculation or selftest.is_repeatable(model)
        if not is_repeatable:
            warnings.warn(
                "decoding is not repeatable bit for bit with these settings, so the "
                f"answer could change under speculation: running {instead} "
                "(n_gpu_layers=0 usually helps)",
                RuntimeWarning,
                stacklevel=2,
            )
        return self.speculation and is_repeatable

    def _scheduler(self, policies: tuple[str, ...], *, asynchronous: bool) -> Scheduler:
        """Plan the guesses of one answer by what earlier ones took."""
        stride = self.speculation_stride
        return Scheduler(
            self._estimates,
            policies=policies,
            stride=None if stride == "auto" else stride,
            asynchronous=asynchronous,
        )
