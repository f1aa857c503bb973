"""One way to report that a backend, or the encoder in front of it, failed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_ralmspec.errors import RaLMSpecError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def reported_as_store_error(store: str, action: str) -> Iterator[None]:
    """Turn whatever the block raises into a StoreError with the cause chained.

    Errors of this package pass through as they are: they already say what to do.

    Args:
        store: name of the store, as the user would recognise it.
        action: what was being done, e.g. ``"search"``.

    Raises:
        StoreError: the block raised something else than a RaLMSpecError.
    """
    try:
        yield
    except RaLMSpecError:
        raise
    except Exception as cause:
        reason = f"{type(cause).__name__}: {cause}"
        msg = f"{store} failed to {action}: {reason}"
        raise StoreError(msg) from cause
