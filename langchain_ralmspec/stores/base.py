"""What a store must offer: many queries in one call, and vectors with the hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from langchain_ralmspec.speculation.cache import Metric, SparseVector, Vector

if TYPE_CHECKING:
    from langchain_core.documents import Document

__all__ = ["Extent", "Hit", "Metric", "Query", "SparseVector", "Store", "Vector"]


@dataclass(frozen=True, slots=True)
class Query:
    """One query as a store wants it.

    Attributes:
        text: the query text.
        vector: its embedding, shape ``(dimension,)``, float32; its tokens and
            their counts under the metric ``"sparse"``; None for stores that
            search by text.
        batched: whether the embedding was computed together with others. Such a
            vector may differ in its last bits from one computed alone.
    """

    text: str
    vector: Vector | None = field(default=None, compare=False)
    batched: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found by a search.

    Attributes:
        id: the document's id in its store; unique and stable while it is stored.
        document: the document itself.
        score: how near it is. Higher is better, whatever the store's metric.
        vector: its stored vector, when asked for: shape ``(dimension,)``, float32,
            or sparse, as the query's.
    """

    id: str
    document: Document
    score: float
    vector: Vector | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """How far the vectors of an exact store reach: one object until they change.

    Attributes:
        longest: an upper bound of all lengths, rounding included: 1.0001 times that
            of the longest. Under the metric ``"cosine"``, where vectors are scaled to
            one length, 1.0001.
    """

    longest: float


class Store(Protocol):
    """A document store that answers many queries in one call.

    The first three are properties here so that an implementation may offer either
    a plain attribute or a property. A store may also have

    * a method ``prepare()``: it is called when calls of many queries are about to come,
      and may do once what makes them faster;
    * a method ``extent()``, which returns an :class:`Extent` where searches are exact:
      documents are ranked by what the vectors that hits carry give in float64, and none
      is missed. Else it returns None. Queries whose answer follows from others' by the
      triangle inequality are then not asked.
    """

    @property
    def metric(self) -> Metric:
        """How a query vector and a stored vector are compared."""
        ...

    @property
    def dimension(self) -> int | None:
        """Length of the stored vectors; None for stores without vectors."""
        ...

    @property
    def is_nested(self) -> bool:
        """Whether the hits for ``k`` are always the first ``k`` hits for more.

        So it is for exact search. An HNSW graph may be searched more widely for a
        larger ``k``, and of many equal vectors it finds others.
        """
        ...

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries, in one batch."""
        ...

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the ``k`` best documents for every query, best first, in one call.

        Equal scores are ordered by the smaller id. The answer to a query does
        not depend on which other queries are in the call.
        """
        ...

    def count(self) -> int:
        """Number of stored documents."""
        ...
