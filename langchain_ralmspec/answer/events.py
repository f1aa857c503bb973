"""What a loop tells about the answer that it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from langchain_ralmspec.stores.base import Hit

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens that are final."""

    tokens: tuple[int, ...]  # none for a draft that another answer replaces
    text: bytes
    hits: tuple[Hit, ...] = ()  # RaLMSpec: the verified documents they stand under
    # kNN-LM and RAPID: who had proposed each token, a drafter's name or "target".
    sources: tuple[str, ...] = ()
    # RaLMSpec: from when to when they were written, by ``time.perf_counter()``.
    written: tuple[float, float] | None = field(default=None, compare=False)
