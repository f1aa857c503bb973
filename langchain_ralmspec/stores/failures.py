"""One way to report that a backend, or the encoder in front of it, failed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import TracebackType

from langchain_ralmspec.errors import RaLMSpecError, StoreError, stops_a_graph


class reported_as_store_error:  # noqa: N801  read as a statement
    """Turns what a ``with`` block raises into a StoreError with the cause chained.

    Errors of this package pass through as they are: they already say what to do. So
    does what pauses a graph.

    Args:
        store: name of the store, as the user would recognise it.
        action: what was being done, e.g. ``"search"``.
    """

    # No generator: contextlib would let a StopIteration pass by, which ends silently
    # whatever loop it reaches.

    def __init__(self, store: str, action: str) -> None:
        self._failure = f"{store} failed to {action}"

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        _type: type[BaseException] | None,
        cause: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if not isinstance(cause, Exception) or stops_a_graph(cause):
            return
        if not isinstance(cause, RaLMSpecError):
            raise StoreError(
                f"{self._failure}: {type(cause).__name__}: {cause}"
            ) from cause


def require_comparable(store: str, scored: Iterable[tuple[str, float]]) -> None:
    """Refuse a stored vector that is near to nothing, or to everything.

    Args:
        store: its name, as the user would recognise it.
        scored: ids of documents, with their scores.

    Raises:
        StoreError: a score is not finite.
    """
    for id_, score in scored:
        if not math.isfinite(score):
            raise StoreError(
                f"{store} gave the document {id_!r} the score {score}: its stored "
                "vector is not finite, so no query is near or far from it; embed the "
                "document anew, or delete it"
            )
