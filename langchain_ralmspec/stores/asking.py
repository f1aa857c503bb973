"""Asking a store, which may be anybody's, and checking what it gives."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

from langchain_core.documents import Document

from langchain_ralmspec.stores.base import Hit, Query
from langchain_ralmspec.stores.failures import reported_as_store_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.stores.base import Store


def queries_of(store: Store, texts: Sequence[str]) -> list[Query]:
    """The queries that a store makes of texts.

    Raises:
        StoreError: it fails, or makes something else, or too much, or too little.
    """
    with reported_as_store_error(type(store).__name__, "encode"):
        made = store.encode(texts)
        _require_one_each(made, texts)
        for each in made:
            vector = each.vector if isinstance(each, Query) else ()
            if vector is not None and getattr(vector, "ndim", 0) != 1:
                msg = f"no Query with an array of one dimension, or None: {each!r:.120}"
                raise TypeError(msg)
    return made


def hits_of(
    store: Store, queries: Sequence[Query], k: int, *, with_vectors: bool = False
) -> list[list[Hit]]:
    """What a store finds for queries.

    Raises:
        StoreError: it fails, or finds something else, or too much, or too little.
    """
    with reported_as_store_error(type(store).__name__, "search"):
        found = store.search(queries, k, with_vectors=with_vectors)
        _require_one_each(found, queries)
        for hit in (hit for hits in found for hit in hits):
            kinds = (hit.id, str), (hit.document, Document), (hit.score, Real)
            if not all(isinstance(*each) for each in kinds):
                msg = f"no Hit with a string, a Document and a number: {hit!r:.120}"
                raise TypeError(msg)
    return found


def _require_one_each(made: Sequence[object], given: Sequence[object]) -> None:
    if len(made) != len(given) or any(each is None for each in made):
        msg = f"{len(given)} were asked for, it gave {made!r:.80}"
        raise ValueError(msg)
