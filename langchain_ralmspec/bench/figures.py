"""Figures in JSON files: refused before the work if they cannot be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import replacing_file


def check_file(path: Path | None) -> None:
    """Check that a file can be written; None is no file.

    Raises:
        InvalidValueError: it cannot.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InvalidValueError(
            f"{str(path)!r} cannot be written; name a file in a folder that exists "
            "and may be written to"
        )


def check_folder(path: Path | None) -> None:
    """Make a folder if need be, and check that it can be written to.

    Raises:
        InvalidValueError: it cannot.
    """
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidValueError(f"{str(path)!r} cannot be made: {error}") from error
    if not os.access(path, os.W_OK):
        raise InvalidValueError(f"{str(path)!r} cannot be written to")


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    """Write figures, whole or not at all."""
    with replacing_file(path) as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read whatever a file holds.

    Raises:
        InvalidValueError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"{str(path)!r} cannot be read: {error}") from error


def read_figures(path: Path) -> dict[str, Any]:
    """Read what ``bench ralm`` wrote.

    Raises:
        InvalidValueError: it cannot be read, or is something else.
    """
    figures = read_json(path)
    if not isinstance(figures, dict) or not {"rows", "workload"} <= figures.keys():
        raise InvalidValueError(
            f"{str(path)!r} is not what `ralmspec bench ralm --json` writes"
        )
    return figures
