"""Whether a folder keeps what a command reads ahead, or an error that says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_ralmspec.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_ralmspec.engine import Model


def require_folder(model: Model, folder: Path) -> None:
    """Raise a ``StoreError`` where a model does not use the folder it was given."""
    if not model.keeps_in_folder:
        raise not_kept(folder, "anything")


def not_kept(folder: Path, what: str) -> StoreError:
    """The error of a folder that has not kept what it should have."""
    return StoreError(
        f"{str(folder)!r} has not kept {what}; the warning above says why: the folder "
        "must be yours alone, and have room on its disk"
    )
