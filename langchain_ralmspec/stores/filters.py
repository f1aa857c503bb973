"""Which metadata filter a store can use, and what it lets through."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from langchain_ralmspec.errors import SetupError, StoreError
from langchain_ralmspec.stores.documents import failed_on, known_as, verdict
from langchain_ralmspec.stores.faiss_rows import condition
from langchain_ralmspec.stores.searches import is_plain

if TYPE_CHECKING:
    from langchain_core.documents import Document

_SCALARS = (str, int, float, bool)
# Of which it is known, too, what is the same: by themselves, or as text.
_VALUES = (*_SCALARS, bytes, date, Decimal, Enum, UUID, np.generic)
# What Databricks has behind a name, or between two: "price <", "city OR state".
_WORDED = re.compile(r"\s(?:[<>]=?|NOT|LIKE|OR)(?:\s|$)")
_ORDERS = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def require_usable(
    filter: Any,  # noqa: A002  (LangChain's name)
    vectorstore: object,
) -> None:
    """Refuse what a store of LangChain's own cannot use, before it is asked.

    Raises:
        SetupError: the filter is of another kind than the store takes.
    """
    in_memory = "_similarity_search_with_score_by_vector"
    if is_plain(vectorstore, "InMemoryVectorStore", (in_memory,)):
        if not callable(filter):
            example = "lambda document: document.metadata.get('key') == 'value'"
            raise SetupError(
                f"a filter of {type(vectorstore).__name__} is a function of the "
                f"document such as {example}, got {filter!r}"
            )
    elif is_plain(vectorstore, "FAISS", ("_create_filter_func",)):
        condition(vectorstore, filter)
    elif is_plain(vectorstore, "Chroma", ()):
        require_where(filter)
    elif is_plain(vectorstore, "QdrantVectorStore", ()):
        require_qdrant_filter(filter)


def require_where(filter: Any) -> None:  # noqa: A002
    """Refuse what is no condition of Chroma's.

    Raises:
        SetupError: it is no dict.
    """
    if not isinstance(filter, dict):
        raise SetupError(
            f"a filter of Chroma's is a dict such as {{'key': 'value'}}, got {filter!r}"
        )


def require_qdrant_filter(filter: Any) -> None:  # noqa: A002
    """Refuse what is no condition of Qdrant's.

    Raises:
        SetupError: it is not of the class that its client has for that.
    """
    kind = type(filter)
    package = kind.__module__.partition(".")[0]
    if (package, kind.__name__) != ("qdrant_client", "Filter"):
        raise SetupError(
            f"a filter of Qdrant's is a qdrant_client.models.Filter, got {filter!r}"
        )


def require_passing(
    filter: Any,  # noqa: A002  (LangChain's name)
    documents: Iterable[Document],
    store: str,
) -> None:
    """Refuse documents that a filter was to keep back, as far as it can be tested.

    Tested are functions, and of a dict what says that a key has a value, or one of
    several, by ``$eq``, ``$in``, ``$and`` and ``$or`` too, that it has not, by ``$ne``
    and ``$nin``, or how numbers compare, which all mean the same to every store that
    knows them. The rest is in the store's own language.

    Raises:
        StoreError: a document does not pass, or a function fails on it.
    """
    for document in documents:
        if not _passes(filter, document):
            raise StoreError(
                f"{store} gave the document {known_as(document)!r} with the metadata "
                f"{document.metadata!r}, which the filter {filter!r} keeps back: the "
                "store does not apply it so; give a filter in the store's own language"
            )


def _passes(filter: Any, document: Document) -> bool:  # noqa: A002
    if callable(filter):
        return _accepts(filter, document)
    return not isinstance(filter, dict) or _may_hold(filter, document.metadata)


def _may_hold(condition: Mapping[Any, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether metadata may be what a dict asks for; what is not known may always be."""
    return all(
        _may_have(metadata.get(key), value)
        if key in metadata or _is_plain_key(key)
        else _may_be_joined(key, value, metadata)
        for key, value in condition.items()
    )


def _may_be_joined(operator: Any, parts: Any, metadata: Mapping[str, Any]) -> bool:
    joined = {"$and": all, "$or": any}.get(operator)
    if joined is None or not isinstance(parts, list | tuple) or not parts:
        return True
    return joined(
        not isinstance(each, dict) or _may_hold(each, metadata) for each in parts
    )


def _may_have(found: Any, value: Any) -> bool:
    if isinstance(value, dict):
        return all(_may_compare(found, *each) for each in value.items())
    if isinstance(value, list | tuple | set | frozenset):  # one of these
        known = all(isinstance(each, _VALUES) for each in value)
        return not value or not known or any(_is(found, each) for each in value)
    if value is None:  # to some stores that is no condition, where it is not there
        return found is None
    return not isinstance(value, _VALUES) or _is(found, value)


def _may_compare(found: Any, name: Any, value: Any) -> bool:
    if name in {"$eq", "$in"}:
        return _may_have(found, value)
    if name == "$ne":
        return not _is_the_same(found, value)
    if name == "$nin" and isinstance(value, list | tuple | set | frozenset):
        return not any(_is_the_same(found, each) for each in value)
    if name not in _ORDERS or not (_is_number(found) and _is_number(value)):
        return True
    # Stores keep numbers in 32 bits, too, and sort what is none as they like.
    is_rounded = found != value and math.isclose(found, value, rel_tol=1e-6)
    return is_rounded or math.isnan(found) or bool(_ORDERS[name](found, value))


def _is_the_same(found: Any, value: Any) -> bool:
    """Whether no store tells them apart, as some do with 1, "1" and True.

    Nor do all find nothing where a document lacks the key.
    """
    if not isinstance(found, _SCALARS) or not isinstance(value, _SCALARS):
        return False
    both_numbers = _is_number(found) and _is_number(value)
    is_same_kind = both_numbers or (type(found) is type(value) and value is not None)
    return is_same_kind and bool(found == value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_plain_key(key: Any) -> bool:
    """No operator (``$and``, ``price <``), and no path (``metadata.tenant``)."""
    if not isinstance(key, str) or key.startswith("$") or "." in key:
        return False
    return _WORDED.search(key) is None


def _is(found: Any, value: Any) -> bool:
    """Whether metadata says so: itself, as text, or as one of several values."""
    if isinstance(found, np.ndarray | np.generic):
        found = found.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum) and found != value:
        value = value.value
    if isinstance(found, list | tuple | set | frozenset):
        return any(_is(each, value) for each in found)
    if isinstance(value, bool):  # which some stores write in lower case
        return str(found).lower() in {str(value).lower(), str(int(value))}
    if found is None:
        return False
    try:
        is_equal = bool(found == value)
    except Exception:  # noqa: BLE001  pandas.NA is not to be asked, for example
        is_equal = False
    return is_equal or str(found) == str(value)


def telling(filter: Any) -> Any:  # noqa: A002
    """The filter; of a function, one that names the document on which it fails."""
    if not callable(filter):
        return filter

    def told(argument: Any) -> Any:
        try:
            return verdict(filter(argument))
        except Exception as error:
            raise failed_on(argument, error) from error

    return told


def _accepts(function: Any, document: Document) -> bool:
    """Ask a function of the document, or of its metadata, as the store has it."""
    failure: Exception | None = None
    verdicts = []
    for argument in (document, document.metadata):
        try:
            verdicts.append(verdict(function(argument)))
        except Exception as error:  # noqa: BLE001  it takes the other kind
            failure = error
    if not verdicts:
        raise failed_on(document, failure) from failure
    return any(verdicts)
