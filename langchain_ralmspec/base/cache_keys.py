"""What LangChain's cache keeps answers under."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from langchain_core.globals import get_llm_cache

from langchain_ralmspec.base.restricted import RESTRICTIONS
from langchain_ralmspec.engine.weights import stamp_of
from langchain_ralmspec.errors import SetupError
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


def is_cached(face: Any) -> bool:
    """Whether LangChain keeps the answers of a model."""
    cache = getattr(face, "cache", None)
    return cache is not False and bool(cache or get_llm_cache() is not None)


def cacheable(overrides: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call as a cache may tell them from others; objects by a name.

    Raises:
        SetupError: a filter is more than plain values, and another may look like it.
    """
    for name in RESTRICTIONS:
        if not _is_plain(given := overrides.get(name)):
            msg = (
                f"a cache cannot tell {name}={given!r:.60} from another one; give "
                "plain values, or cache=False when the model is made"
            )
            raise SetupError(msg)
    return {name: _named(value) for name, value in overrides.items()}


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if type(value) in {list, tuple}:
        return all(map(_is_plain, value))
    return value is None or type(value) in {str, int, float, bool}


def _named(value: Any) -> Any:
    """A value whose ``repr`` no other one has had or will have."""
    if type(value) is dict:
        return {key: _named(each) for key, each in value.items()}
    if type(value) in {list, tuple}:
        return [_named(each) for each in value]
    return value if _is_plain(value) else name_of(value)
