"""Files and folders that are there whole or not at all, and readers of text files."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.text import is_blank, well_formed_json

# Of byte orders. It stands in front of files, and within what was put together of some.
_MARK = "\ufeff"


def absolute(path: str | os.PathLike[str]) -> Path:
    """The absolute path that a user means, ``~`` expanded and links followed.

    Raises:
        InvalidValueError: it is no path, or there is no such home folder.
    """
    if path == "":
        msg = "'' is no path; the working directory is '.'"
        raise InvalidValueError(msg)
    try:
        return Path(path).expanduser().resolve()
    # A loop of links or no home is a RuntimeError, a null byte a ValueError.
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        msg = f"{path!r:.200} is no path: {error}"
        raise InvalidValueError(msg) from error


def absolute_file(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a file under the name that a user gives it.

    That may be a link, which is not followed: the cache of the Hugging Face hub has
    links with names, and checksums behind them.

    Raises:
        InvalidValueError: as :func:`absolute`.
    """
    target = absolute(path)
    given = Path(path).expanduser()
    return target if given.name in {"", ".."} else absolute(given.parent) / given.name


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file; where one may not look, there is none.

    Path's own raises there, and for names that are too long.
    """
    return os.path.isfile(path)  # noqa: PTH113  see above


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder, as :func:`is_file` tells it of a file."""
    return os.path.isdir(path)  # noqa: PTH112  see above


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


def read_text(file: Path) -> str:
    """Read a text in UTF-8, with line ends of any system; ``.gz`` is unpacked.

    Raises:
        InvalidValueError: the file cannot be read, or there is no text in it.
    """
    with _opened(file) as opened:
        text = opened.read().replace(_MARK, "")
    if is_blank(text):
        msg = f"{str(file)!r} is empty; name a file with a text"
        raise InvalidValueError(msg)
    return text


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a file of JSON objects, one a line, that may be gzipped (``.gz``).

    Yields:
        The number of every line that is not blank, and its object.

    Raises:
        InvalidValueError: the file cannot be read, or a line is no JSON object.
    """
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not is_blank(line):
                text = line.strip(_MARK).rstrip()
                yield number, _json_object(text, f"{path}, line {number}")


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A file of text; whatever keeps it from being read is an InvalidValueError."""
    absolute(path)  # or it is no path
    target = path.expanduser()  # of which links are not followed: it may be a pipe
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        # Some editors put a byte order mark in front, which is no text.
        with opened(target, "rt", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        bad = error.object[error.start : error.start + 1]
        msg = (
            f"{str(path)!r} cannot be read: it is not in UTF-8, as {bad!r} in "
            f"{_bad_line(opened, target)} shows; convert it (iconv -t UTF-8)"
        )
        raise InvalidValueError(msg) from error
    except (OSError, EOFError, zlib.error) as error:
        msg = f"{str(path)!r} cannot be read: {error}"
        raise InvalidValueError(msg) from error


def _bad_line(opened: Any, path: Path) -> str:
    """Which line of a file is not in UTF-8, as far as it can be read again."""
    if not path.is_file():  # what a pipe has given is gone
        return "it"
    with suppress(OSError, EOFError, zlib.error), opened(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number}"
    return "it"


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line, object_pairs_hook=_unique)
        if "\\u" in line:  # it may be half of a character
            record = well_formed_json(record)
    except json.JSONDecodeError as error:
        msg = f"{where}: not JSON, {error.msg} at column {error.colno}"
        raise InvalidValueError(msg) from error
    except ValueError as error:  # a key twice, a number of thousands of digits
        msg = f"{where}: {error}"
        raise InvalidValueError(msg) from error
    except RecursionError as error:
        msg = f"{where}: brackets are nested too deeply to be read"
        raise InvalidValueError(msg) from error
    if not isinstance(record, dict):
        msg = f"{where}: {line[:60]!r} is not a JSON object"
        raise InvalidValueError(msg)
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"the key {twice!r} is there twice; which one counts?"
        raise ValueError(msg)
    return found
