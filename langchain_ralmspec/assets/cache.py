"""Where derived files are kept, and how they come to be there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is in all."""


def cache_dir() -> Path:
    """Return the cache folder; it need not exist yet.

    ``$RALMSPEC_CACHE`` wins; else it is ``langchain-ralmspec`` in the XDG cache
    folder, which is ``~/.cache`` unless ``$XDG_CACHE_HOME`` says otherwise.
    """
    chosen = os.environ.get("RALMSPEC_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification tells programs to ignore a relative path here.
    if base and Path(base).is_absolute():
        return Path(base) / "langchain-ralmspec"
    return Path.home() / ".cache" / "langchain-ralmspec"


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path that becomes ``target`` if the block succeeds.

    The name is new on every call, so two processes that make the same file work
    side by side and the last one to finish wins with a whole file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
