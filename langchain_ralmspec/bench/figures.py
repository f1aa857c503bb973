"""Figures in JSON files: refused before the work if they cannot be written."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_ralmspec.bench.provenance import provenance, running_commit
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute, is_folder, replacing_file


def check_file(path: Path | None) -> None:
    """Raise ``InvalidValueError`` if a file cannot be written; None is no file."""
    if path is None:
        return
    target = absolute(path)
    folder = target.parent
    if is_folder(target) or not is_folder(folder) or not os.access(folder, os.W_OK):
        raise InvalidValueError(
            f"{str(path)!r} cannot be written; name a file in a folder that exists "
            "and may be written to"
        )
    running_commit()  # now: by the end of a long run another may be checked out


def check_folder(path: Path | None) -> None:
    """Make a folder, for its owner alone, if need be.

    Raises:
        InvalidValueError: it cannot be made, or not be written to.
    """
    if path is None:
        return
    path = absolute(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidValueError(f"{str(path)!r} cannot be made: {error}") from error
    if not os.access(path, os.W_OK):
        raise InvalidValueError(f"{str(path)!r} cannot be written to")


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    """Write figures and where they come from, whole or not at all."""
    told = json.dumps(figures | {"provenance": provenance()}, indent=2)
    try:
        with replacing_file(absolute(path)) as temporary:
            temporary.write_text(f"{told}\n", encoding="utf-8")
    except OSError as error:
        say(told)  # what took hours is not lost
        msg = f"{str(path)!r} cannot be written, so the figures are above: {error}"
        raise InvalidValueError(msg) from error
    say(f"figures written to {path}")


@contextmanager
def kept_if_interrupted(is_worth_it: Callable[[], object]) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM end what is measured, and keep what was done by then.

    Where that is not worth keeping, the interruption goes on.
    """
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if not is_worth_it():
            raise
        say("interrupted; the figures are of what was done by then")
    finally:
        signal.signal(signal.SIGTERM, earlier or signal.SIG_DFL)


def say(line: str) -> None:
    """Tell how far a benchmark is, on standard error."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201  no thread, unlike a bar
