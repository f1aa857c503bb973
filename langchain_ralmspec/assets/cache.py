"""Where derived files are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is in all."""


def cache_dir() -> Path:
    """Return the cache folder; it need not exist yet.

    ``$RALMSPEC_CACHE`` wins; else it is ``langchain-ralmspec`` in the XDG cache
    folder, which is ``~/.cache`` unless ``$XDG_CACHE_HOME`` says otherwise.
    """
    chosen = os.environ.get("RALMSPEC_CACHE")
    if chosen:
        return absolute(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification tells programs to ignore a relative path here.
    if base and Path(base).is_absolute():
        return Path(base) / "langchain-ralmspec"
    try:
        return Path.home() / ".cache" / "langchain-ralmspec"
    except RuntimeError as error:
        msg = f"there is no place for derived files: {error}; set RALMSPEC_CACHE to one"
        raise InvalidValueError(msg) from error
