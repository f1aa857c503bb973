"""What a store must offer: many queries in one call, and vectors with the hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np

from langchain_ralmspec.speculation.cache import Metric, Vector
from langchain_ralmspec.stores.searches import definitions

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from numpy.typing import NDArray

__all__ = [
    "ArrayStore",
    "Hit",
    "MaxNorm",
    "Metric",
    "Query",
    "Ranked",
    "Store",
    "Vector",
    "as_array_store",
]


@dataclass(frozen=True, slots=True)
class Query:
    """One query as a store wants it.

    Attributes:
        text: the query text.
        vector: its embedding, shape ``(dimension,)``, float32; None when it is not
            embedded, and for stores that search by text.
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
        score: how near it is. Higher is better, whatever the store's metric. Not a
            number where nothing was searched, as in a step under a proven guess.
        vector: its stored vector, when asked for: shape ``(dimension,)``, float32.
        text: what the model reads of the document; a session fills it in, if it can be
            rendered.
    """

    id: str
    document: Document
    score: float
    vector: Vector | None = field(default=None, compare=False)
    text: str | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, str | None]:
        """The same for two hits that the model cannot tell apart."""
        return self.id, self.text


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """What a search found for one query, best first, as arrays.

    Attributes:
        hits: the best of them with their documents: as many as were asked for with
            these, or more.
        ids: ids of all that was found.
        scores: one per id; higher is better.
        vectors: the stored vectors of the first ids, up to one without a vector, shape
            ``(n, dimension)``, float32; None when there are none.
    """

    hits: Sequence[Hit] = ()
    ids: Sequence[str] = ()
    scores: Sequence[float] = ()
    vectors: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, hits: Sequence[Hit]) -> Self:
        """Put the hits of a store that knows no arrays into arrays."""
        vectors = list(takewhile(lambda v: v is not None, (h.vector for h in hits)))
        return cls(
            hits,
            [hit.id for hit in hits],
            [hit.score for hit in hits],
            np.array(vectors, np.float32) if vectors else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class MaxNorm:
    """Bound of the norms of an exact store's vectors: one object until they change.

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
    * a method ``max_norm()``, which returns a ``MaxNorm`` where searches are
      exact: documents are ranked by what the vectors that hits carry give in float64,
      and none is missed. Else it returns None. Queries whose answer follows from
      others' by the triangle inequality are then not asked;
    * a method ``version()``, which returns another number once documents were added,
      deleted or replaced, or None where that is not known: else answers under them
      cannot be cached;
    * a method ``changed()``: it is called when documents were added or deleted by the
      retriever, for what the store has derived from them;
    * an attribute ``one_call_a_query``, true where many queries are as many calls;
    * an attribute ``reads_shared_memory``, true where a search reads memory that a
      change of the store frees: then an answer that ends waits for searches still out;
    * an attribute ``is_remote``, true where hits come from afar: then fewer of them
      enter a session's cache unless more are asked for;
    * an attribute ``stays_in_process``, true where neither ``encode`` nor ``search``
      waits for a service: of this package's own stores alone, since no time-out is kept
      over what is believed never to hang;
    * the methods ``find`` and ``document`` of an ``ArrayStore``, which save making
      a document of every hit.
    """

    @property
    def metric(self) -> Metric | None:
        """How a query vector and a stored vector are compared; None without vectors."""
        ...

    @property
    def dimension(self) -> int | None:
        """Length of the stored vectors; None for stores without vectors."""
        ...

    @property
    def top_k_is_stable(self) -> bool:
        """Whether ``search(q, k)`` equals ``search(q, K)[:k]`` for every ``K > k``.

        So it is for exact search. An HNSW graph may be searched more widely for a
        larger ``k``, and of many equal vectors it finds others. A subclass that
        overrides ``search`` defines this as well, or counts as unstable.
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

        Args:
            queries: made by ``encode()``.
            k: hits per query; fewer come back when the store holds fewer.
            with_vectors: whether the hits carry their stored vectors, if there are any.
        """
        ...

    def count(self) -> int:
        """Number of stored documents."""
        ...


class ArrayStore(Store, Protocol):
    """A store that gives what it finds as arrays, and documents by their ids."""

    def find(
        self, queries: Sequence[Query], k: int, *, depth: int, with_vectors: bool
    ) -> list[Ranked]:
        """Do as ``search()``, but look up the best ``depth`` documents only."""
        ...

    def document(self, id_: str) -> Document:
        """The document with that id, as it is now; raises StoreError without one."""
        ...


def as_array_store(store: Store) -> ArrayStore | None:
    """The store, if what its ``find()`` gives is what its ``search()`` gives.

    A subclass may override ``search`` alone, to reorder hits, say. Then the ``find``
    that it inherits would pass its own search by, and None is returned.
    """
    is_one = hasattr(store, "document") and of_its_search(store, "find") is not None
    return cast("ArrayStore", store) if is_one else None


def of_its_search(store: Store, name: str) -> Any | None:
    """A method that tells of a store's search, or None if it tells of another.

    It does where a subclass has overridden the search, and has inherited the method.
    """
    for names in definitions(store):
        if name in names:
            return getattr(store, name)
        if "search" in names or "find" in names:
            return None
    return None


def keeps_order(store: Store) -> bool:
    """Whether the first hits stay the first ones when more are asked for.

    A subclass that searches otherwise, to reorder hits, say, has to tell by itself.
    """
    mro = [each for each in type(store).__mro__ if not getattr(each, "_is_protocol", 0)]
    searching = [vars(each) for each in mro if "search" in vars(each)]
    is_inherited = len(searching) > 1 and "top_k_is_stable" not in searching[0]
    return store.top_k_is_stable and not is_inherited
