"""Lists of documents that were found, and what makes two of them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.stores.base import Hit

Hits = tuple["Hit", ...]
Keys = tuple[tuple[str, str | None], ...]


def ids_of(hits: Sequence[Hit]) -> tuple[str, ...]:
    """Ids of hits, in order."""
    return tuple(hit.id for hit in hits)


def keys_of(hits: Sequence[Hit]) -> Keys:
    """What two lists of documents have in common if the model may not tell them apart.

    Ids alone would not do: a document may be replaced under its id.
    """
    return tuple(hit.key for hit in hits)
