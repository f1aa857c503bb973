"""One way to report that a backend, or the encoder in front of it, failed."""

from __future__ import annotations

from types import TracebackType

from langchain_ralmspec.errors import RaLMSpecError, StoreError


class reported_as_store_error:  # noqa: N801  read as a statement
    """Turns what a ``with`` block raises into a StoreError with the cause chained.

    Errors of this package pass through as they are: they already say what to do.

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
        if isinstance(cause, Exception) and not isinstance(cause, RaLMSpecError):
            raise StoreError(
                f"{self._failure}: {type(cause).__name__}: {cause}"
            ) from cause
