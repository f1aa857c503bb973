"""Which runnables another one may ask, as far as its fields and functions show."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore

# Nearest first: what is farther from the runnable than so many functions is not its.
_MOST_FUNCTIONS = 500
# Their functions name no retriever of the user's, only what they are given.
_LIBRARIES = sys.stdlib_module_names | {
    "langchain",
    "langchain_classic",
    "langchain_community",
    "langchain_core",
    "langchain_ralmspec",
    "langgraph",
    "numpy",
    "pydantic",
}
_CLOSED = (Embeddings, ModuleType, VectorStore, str, type)  # not looked into as objects


def runnables_within(value: Any) -> Iterator[Runnable[Any, Any]]:
    """A runnable, and those that it may ask.

    They are looked for in fields and methods, in what functions name, hold or were
    given, and in their lists and dicts. What a function makes itself is not seen.
    """
    seen: dict[int, Any] = {}
    waiting, n_functions = deque([value]), 0
    while waiting:
        each = waiting.popleft()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, Runnable):
            yield each
        n_functions += isinstance(each, FunctionType)
        if n_functions <= _MOST_FUNCTIONS or not isinstance(each, FunctionType):
            waiting.extend(_held(each))


def _held(value: Any) -> Iterable[Any]:
    """What is one step from a value; of an object that is near, its attributes too."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, FunctionType):
        near = [*_named(value)]
    elif isinstance(value, MethodType):
        near = [value.__func__, value.__self__]
    elif isinstance(value, partial):
        near = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, staticmethod | classmethod):
        near = [value.__func__]
    else:
        near = [*_attributes(value)] if isinstance(value, Runnable) else []
    inner = (_attributes(each) for each in near if not isinstance(each, Runnable))
    return [*near, *(each for attributes in inner for each in attributes)]


def _attributes(value: Any) -> Iterator[Any]:
    """What an object holds, and the methods of its classes."""
    if isinstance(value, (*_CLOSED, FunctionType, Mapping)):
        return
    with suppress(AttributeError):
        yield from list(object.__getattribute__(value, "__dict__").values())
    for kind in type(value).__mro__:
        if _is_of_library(kind.__module__) and "__slots__" not in vars(kind):
            continue
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            yield None if name == "__dict__" else getattr(value, name, None)
        if not _is_of_library(kind.__module__):
            functions = (FunctionType, staticmethod, classmethod)
            yield from [each for each in vars(kind).values() if type(each) in functions]


def _named(function: FunctionType) -> Iterator[Any]:
    """What a function holds, was given, or names in its module."""
    found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing is in it yet
            found.append(cell.cell_contents)
    names = _names(function.__code__)
    if not _is_of_library(function.__module__):
        found += _of(function.__globals__, names)
    for each in found:
        yield each
        if isinstance(each, ModuleType | type) and not _is_of_library(
            getattr(each, "__module__", None) or getattr(each, "__name__", None)
        ):
            yield from _of(vars(each), names)


def _of(space: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    return [space[name] for name in names if name in space]


def _names(code: CodeType) -> set[str]:
    """Names of globals and attributes in code, and in the functions inside it."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_of_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES
