"""Metadata of answers as plain JSON, which caches and checkpoints can keep."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from datetime import date, time
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Iterable

_DEPTH = 32  # of values within values; a writer of JSON may give up at some 1,000
_INTEGERS = range(-(2**63), 2**64)  # that msgpack can write
_BITS = 2000  # of a number that is written out; Python may refuse 640 digits


def documents_of(answer: BaseMessage | Generation) -> list[Document]:
    """The documents that an answer was written under, from its metadata.

    There they are plain dicts, so that an answer can be cached and stored as JSON.
    What JSON has no type for, such as a date in a document's metadata, is text here.

    Args:
        answer: a message of ``ChatRaLMSpec`` or ``ChatRapid``, or a generation, as
            ``RaLMSpecLLM.generate`` returns them.

    Raises:
        InvalidValueError: it is something else, or tells of no documents.
    """
    if isinstance(answer, ChatGeneration):
        answer = answer.message
    told: Mapping[str, Any] = {}
    if isinstance(answer, BaseMessage):
        told = answer.response_metadata
    elif isinstance(answer, Generation):
        told = answer.generation_info or {}
    if "documents" not in told:
        msg = (
            f"{type(answer).__name__} tells of no documents; give a message of a chat "
            "model of this package, or a generation of RaLMSpecLLM"
        )
        raise InvalidValueError(msg)
    try:
        return [Document(**fields) for fields in told["documents"]]
    except (TypeError, ValueError) as error:
        msg = (
            f"'documents' of this {type(answer).__name__} is "
            f"{told['documents']!r:.80}, which no model of this package has written"
        )
        raise InvalidValueError(msg) from error


def plain_documents(documents: Iterable[Document]) -> list[dict[str, Any]]:
    """Documents as dicts of plain JSON values; ``documents_of()`` reads them."""
    names = ("id", "page_content", "metadata")
    return [
        {name: plain(getattr(document, name)) for name in names}
        for document in documents
    ]


def plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """The nearest thing to a value that any writer of JSON or msgpack can write.

    ``within`` is internal: the values that this one is in, by ``id()``.
    """
    if len(within) == _DEPTH or id(value) in within:
        return well_formed(reprlib.repr(value))
    inner = (*within, id(value))
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, Mapping):
        made: dict[str, Any] = {}
        for key, each in value.items():
            name = str(plain(key, inner))
            while not isinstance(key, str) and (name in value or name in made):
                name += f" ({type(key).__name__})"  # 1 is not the "1" beside it
            made[name] = plain(each, inner)
        return made
    if isinstance(value, list | tuple):
        return [plain(each, inner) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(each, inner) for each in value), key=_order)
    if isinstance(value, np.ndarray | np.generic):
        # Nanoseconds would become numbers; long doubles become nothing else.
        bare = (value.astype(str) if value.dtype.kind in "mM" else value).tolist()
        return _text(value) if isinstance(bare, np.generic) else plain(bare, inner)
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int(value)  # a subclass would be looked for one by one
        return number if number in _INTEGERS else _digits(number)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    return _text(value)


def _digits(number: int) -> str:
    return str(number) if number.bit_length() < _BITS else hex(number)


def _order(value: Any) -> tuple[float, str]:
    return value if isinstance(value, int | float) else math.inf, repr(value)


def _text(value: Any) -> str:
    try:
        return well_formed(f"{value!s}")
    except Exception:  # noqa: BLE001  a stranger's class may do anything
        return object.__repr__(value)
