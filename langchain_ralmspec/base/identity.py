"""What a cached answer is kept under: names of objects, and why some have none."""

from __future__ import annotations

import uuid
from pathlib import Path

from langchain_ralmspec.engine.weights import stamp_of
from langchain_ralmspec.registry import Registry

_names = Registry(lambda: uuid.uuid4().hex)


def name_of(thing: object) -> str:
    """A name that no other object has had or will have, as long as the object lives.

    What takes no weak references has another name each time: it is never found.
    """
    return _names.of(thing)


def stamp_at(path: str) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None where there is none."""
    try:
        return stamp_of(Path(path).stat())
    except (OSError, ValueError):  # the latter for what is no path
        return None
