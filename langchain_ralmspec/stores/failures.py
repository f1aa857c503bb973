"""One way to report that a backend, or the encoder in front of it, failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_ralmspec.errors import RaLMSpecError, StoreError


@contextmanager
def reported_as_store_error(store: str, action: str) -> Iterator[None]:
    """Turn what the block raises into a StoreError with the cause chained.

    Errors of this package pass through as they are: they already say what to do.

    Args:
        store: name of the store, as the user would recognise it.
        action: what was being done, e.g. ``"search"``.
    """
    try:
        yield
    except RaLMSpecError:
        raise
    except Exception as cause:
        raise StoreError(
            f"{store} failed to {action}: {type(cause).__name__}: {cause}"
        ) from cause
