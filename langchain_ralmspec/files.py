"""Folders that are there whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``target`` if the block succeeds.

    Until then an older ``target`` stays as it is. Should the process be killed
    while the two change places, the older one lies beside it, whole, under a name
    that ends in ``.old``.

    Args:
        target: where the folder shall be; its parents are made if need be.
    """
    target = target.resolve()  # a link stays one, and its folder is replaced
    stem = f".{target.name}.{secrets.token_hex(8)}"
    new, old = target.with_name(f"{stem}.tmp"), target.with_name(f"{stem}.old")
    new.mkdir(parents=True)
    try:
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
