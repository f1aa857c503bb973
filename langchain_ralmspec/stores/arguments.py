"""Checks that every store makes on the arguments of ``search``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.errors import DimensionMismatchError, InvalidValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.stores.base import Query


def check_k(k: int) -> None:
    """Refuse a number of hits that no search can serve.

    Raises:
        InvalidValueError: ``k`` is no whole number of at least 1.
    """
    if not isinstance(k, int | np.integer) or k < 1:
        raise InvalidValueError(f"k must be at least 1, a whole number, got {k!r}")


def check_number(
    name: str,
    given: float,
    least: float,
    most: float = math.inf,
    *,
    is_whole: bool = False,
) -> None:
    """Refuse what is no finite number, or no whole one, or out of bounds.

    Raises:
        InvalidValueError: it is so; names the argument.
    """
    kind = Integral if is_whole else Real
    is_number = isinstance(given, kind) and not isinstance(given, bool)
    if not (is_number and least <= given <= most and math.isfinite(given)):
        a = "a whole number" if is_whole else "a number"
        bounds = (
            f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        )
        raise InvalidValueError(f"{name} must be {a} {bounds}, got {given!r}")


def query_matrix(
    queries: Sequence[Query], dimension: int | None, store: str
) -> NDArray[np.float32]:
    """Stack the vectors of queries: shape ``(len(queries), dimension)``, C-contiguous.

    Args:
        queries: at least one; all must carry a vector.
        dimension: length of the stored vectors; None when nothing is stored yet.
        store: name of the store, for the error message.

    Raises:
        InvalidValueError: a query has no vector.
        DimensionMismatchError: a vector is not as long as the stored ones, or others.
    """
    vectors: list[NDArray[np.float32]] = []
    for query in queries:
        if not isinstance(query.vector, np.ndarray):
            raise InvalidValueError(
                f"query {query.text!r} has no vector that {store} can compare; "
                "make it with its encode()"
            )
        if vectors and query.vector.shape != vectors[0].shape:
            raise DimensionMismatchError(
                f"query vectors of {store} have shapes {vectors[0].shape} and "
                f"{query.vector.shape}; make them all with the same embeddings"
            )
        if dimension is not None and query.vector.shape != (dimension,):
            raise DimensionMismatchError(
                f"the query vector has shape {query.vector.shape}, but {store} holds "
                f"vectors of dimension {dimension}; query it with the embeddings "
                "it was built with"
            )
        vectors.append(query.vector)
    return np.ascontiguousarray(np.stack(vectors), dtype=np.float32)
