"""Files and folders that are there whole or not at all, and files of JSON lines."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_ralmspec.errors import InvalidValueError


def absolute(path: str | os.PathLike[str]) -> Path:
    """The absolute path that a user means, ``~`` expanded and links followed.

    Raises:
        InvalidValueError: it is no path, or there is no such home folder.
    """
    try:
        return Path(path).expanduser().resolve()
    # A loop of links or no home is a RuntimeError, a null byte a ValueError.
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        msg = f"{path!r:.200} is no path: {error}"
        raise InvalidValueError(msg) from error


@contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Give a free path that becomes ``target`` if the block succeeds.

    The name is new on every call, so two processes that make the same file work side by
    side and the last one to finish wins with a whole file. The folder must exist.
    """
    new = _new_name(target)
    try:
        yield new
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``target`` if the block succeeds.

    Parents are made if need be. Until then an older ``target`` stays as it is. Should
    the process be killed while the two change places, the older one lies beside it,
    whole, under a name that ends in ``.old``.
    """
    target = target.resolve()  # a link stays one, and its folder is replaced
    new = _new_name(target)
    old = new.with_suffix(".old")
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


def _new_name(target: Path) -> Path:
    """A hidden name beside ``target`` that nobody else uses."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a file of JSON objects, one a line, that may be gzipped (``.gz``).

    Yields:
        The number of every line that is not blank, and its object.

    Raises:
        InvalidValueError: the file cannot be read, or a line is no JSON object.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_object(line.rstrip(), f"{path}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        msg = f"{path} cannot be read: {error}"
        raise InvalidValueError(msg) from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        msg = f"{where}: not JSON, {error.msg} at column {error.colno}"
        raise InvalidValueError(msg) from error
    if not isinstance(record, dict):
        msg = f"{where}: {record!r} is not a JSON object"
        raise InvalidValueError(msg)
    return record
