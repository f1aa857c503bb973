"""When documents are looked up for an answer: the rows of the benchmark."""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

NONE, ONCE = "none", "once k=1"

POLICIES: dict[str, dict[str, Any]] = {
    NONE: {"retrieval_policy": "once"},
    ONCE: {"retrieval_policy": "once"},
    "once k=4": {"retrieval_policy": "once", "documents_per_step": 4},
    "stride 16": {"retrieval_stride": 16},
    "stride 8": {"retrieval_stride": 8},
    "stride 4": {"retrieval_stride": 4},
    "flare": {"retrieval_policy": "flare"},
    "iter-retgen": {"retrieval_policy": "iter-retgen"},
}
"""What each row sets. All that retrieve more than once have one document at a time, so
that ``ONCE`` is what they would be if they never looked up again."""

SHARED: dict[str, Any] = {
    "documents_per_step": 1,
    # "once" would not cut, and then read more of a document than the others.
    "max_document_tokens": 256,
    "temperature": 0.0,
}
"""What is the same in all rows, where they set nothing else."""


def is_once(settings: dict[str, Any]) -> bool:
    """Whether a row looks up before the answer alone, if at all."""
    return settings.get("retrieval_policy") == "once"


def retriever_of(row: str, store: Any) -> Any:
    """What a row retrieves from: the store, or what never finds anything."""
    return RunnableLambda(_nothing) if row == NONE else store


def _nothing(query: str) -> list[Document]:  # noqa: ARG001  whatever is asked
    return []
