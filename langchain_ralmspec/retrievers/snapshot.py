"""Settings as they are at one moment, to be told from what they become in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.arguments import is_data

if TYPE_CHECKING:
    from collections.abc import Iterable

_SCALARS = (str, bytes, int, float, complex, bool, type(None), PurePath)


# What a retriever overrides that searches by itself.
_SEARCHES = (
    "invoke",
    "ainvoke",
    "batch",
    "abatch",
    "_get_relevant_documents",
    "_aget_relevant_documents",
    "store",
    "_retrieve",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The retriever that another was made of.

    Attributes:
        retriever: itself; its user may change it.
        settings: what it was like then.
    """

    retriever: Any
    settings: dict[str, Any]


def is_same(one: Any, other: Any) -> bool:
    """Whether a snapshot still tells what is; objects are compared by identity.

    Their own ``==`` may say anything, as that of an array does. Of data, which
    :func:`owned` copies, the fields are compared.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            is_same(each, other[key]) for key, each in one.items()
        )
    if is_data(one):
        return is_same(vars(one), vars(other)) and is_same(
            one.model_extra, other.model_extra
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, (set, *_SCALARS)) and bool(one == other)


def searches_itself(
    value: Any, kind: type[Any], names: Iterable[str] = _SEARCHES
) -> bool:
    """Whether an object of a kind of retrievers searches otherwise than these do.

    The names are those of the methods that it is to have as they have them.
    """
    return any(
        name in vars(value) or getattr(type(value), name) is not getattr(kind, name)
        for name in names
        if hasattr(kind, name)
    )
