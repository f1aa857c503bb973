"""What a runnable holds, and what its functions name: retrievers within retrievers."""

from __future__ import annotations

from collections import UserDict, UserList, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from inspect import getclosurevars
from sys import stdlib_module_names
from types import (
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from langchain_core.runnables import Runnable
from pydantic import BaseModel

_MOST_SEEN = 10_000
"""What is looked at for a retriever: more is data, and not a chain."""

PACKAGES = frozenset(
    {
        "langchain_chroma",
        "langchain_classic",
        "langchain_community",
        "langchain_core",
        "langchain_milvus",
        "langchain_postgres",
        "langchain_qdrant",
    }
)
"""LangChain's, by their whole names: "langchain_app" is somebody's own."""
# Whose classes hold no retriever of somebody's.
_LIBRARIES = {*PACKAGES, *stdlib_module_names, "langchain_ralmspec", "pydantic"} - {
    "__main__"
}
_CONTAINERS = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    deque,
    UserDict,
    UserList,
    MappingProxyType,
)


def runnables_within(value: Any) -> Iterator[Runnable[Any, Any]]:
    """A runnable, and those that it holds or that its functions name, and theirs."""
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting and len(seen) < _MOST_SEEN:
        each = waiting.pop()
        if id(each) not in seen:
            seen[id(each)] = each
            # Methods last: they may lead through all of somebody's program.
            found = filter(_leads_on, _held_by(each))
            waiting += sorted(found, key=lambda held: not _is(held, FunctionType))
            if _is(each, Runnable):
                yield each


def _leads_on(value: Any) -> bool:
    """Whether a value can lead to a runnable: neither vectors nor texts do."""
    if _is(value, *_CONTAINERS):
        return True
    return _is(value, Runnable) or (callable(value) and not _is(value, type))


def _is(value: Any, *kinds: type[Any]) -> bool:
    """Whether a value is of one of some classes; a proxy is not asked for its own."""
    return issubclass(type(value), kinds)


def _held_by(value: Any) -> Iterable[Any]:
    """What is one step from a runnable, a function or a container."""
    if _is(value, *_CONTAINERS):
        return _items_of(value)
    if _is(value, partial):
        return value.func, *value.args, *value.keywords.values()
    if _is(value, MethodType):
        owner = value.__self__
        methods = _shared_by(owner if _is(owner, type) else type(owner))
        return value.__func__, owner, *_parts_of(owner), *methods
    if _is(value, FunctionType):
        named = _named_in(value)
        return *named, *(part for each in named for part in _parts_of(each))
    held = _attributes_of(value)
    return *held, *(part for each in held for part in _parts_of(each))


def _items_of(value: Any) -> Sequence[Any]:
    """What a container holds; a subclass's own methods may do anything."""
    if _is(value, UserDict, UserList):
        return [vars(value).get("data")]
    if _is(value, MappingProxyType):  # over whatever it is
        with suppress(Exception):
            return [*value.values()]
        return []
    if _is(value, dict):
        return [*dict.values(value)]
    kind = next(kind for kind in _CONTAINERS if _is(value, kind))
    return [*kind.__iter__(value)]


def _named_in(function: FunctionType) -> Sequence[Any]:
    """What a function was given, holds, or names in its module."""
    given = function.__defaults__ or ()
    try:
        named = getclosurevars(function)
    except ValueError:  # what it names is not there yet
        return given
    # Functions of libraries lead anywhere.
    own = [each for each in named.globals.values() if _is_own(each, function)]
    return *given, *named.nonlocals.values(), *own


def _is_own(named: Any, function: FunctionType) -> bool:
    if _is(named, ModuleType):
        return False
    return not _is(named, FunctionType, type) or _root(named) == _root(function)


def _root(defined: Any) -> str:
    """The package that something is defined in."""
    return (defined.__module__ or "").partition(".")[0]


def _parts_of(value: Any) -> Iterable[Any]:
    """Of an object that is no runnable, what it holds itself, and no container's."""
    if _is(value, Runnable, FunctionType, ModuleType):
        return ()
    held = _shared_by(value) if _is(value, type) else _attributes_of(value)
    return [each for each in held if not _is(each, Collection)]


def _attributes_of(value: Any) -> Sequence[Any]:
    """What an object holds, in slots too, and what its classes do."""
    own = getattr(value, "__dict__", {})
    is_model = _is(value, BaseModel)
    private = (getattr(value, "__pydantic_private__", None) or {}) if is_model else {}
    shared = _shared_by(type(value), with_methods=_is(value, Runnable))
    return [*own.values(), *private.values(), *_slots_of(value), *shared]


def _slots_of(value: Any) -> Iterator[Any]:
    for kind in type(value).__mro__:
        for each in vars(kind).values():
            if _is(each, MemberDescriptorType):
                with suppress(AttributeError):  # it is not set
                    yield each.__get__(value)


def _shared_by(kind: type[Any], *, with_methods: bool = True) -> Sequence[Any]:
    """What a class defines, and those that it is made of; it may be called in any case.

    Methods may lead anywhere.
    """
    kinds = [each for each in kind.__mro__ if _root(each) not in _LIBRARIES]
    pairs = [pair for each in kinds for pair in vars(each).items()]
    called = [value for name, value in pairs if name == "__call__"]
    # Pydantic keeps large schemas under such names.
    shared = [value for name, value in pairs if not name.startswith("__")]
    if not with_methods:
        shared = [each for each in shared if _is(each, Runnable, *_CONTAINERS)]
    return [*called, *shared]
