"""What stores share that a service ranks by vectors, many queries in one call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    StoreError,
)
from langchain_ralmspec.stores.arguments import check_k, query_matrix
from langchain_ralmspec.stores.embedding import make_queries
from langchain_ralmspec.stores.encoding import Encoding
from langchain_ralmspec.stores.failures import (
    reported_as_store_error,
    require_comparable,
)
from langchain_ralmspec.stores.widths import speaks_of_width

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from langchain_ralmspec.stores.base import Hit, Metric, Query
    from langchain_ralmspec.stores.encoding import Encoder

# Hits fetched beyond k where the service leaves open which of equal scores comes first,
# so that those at the cut fall to the smaller id.
MARGIN = 4


class OneCallStore(ABC):
    """A vector store that a service searches, asked many queries in one call.

    A backend says how the service is asked, in :meth:`_ask`, and how long its vectors
    are, in :meth:`_read_dimension`. Opening one asks the service for nothing.

    Args:
        name: of the store, as its user would recognise it.
        embeddings: what embeds the queries.
        encoding: how they are embedded; None takes what is known of the class.

    Raises:
        InvalidValueError: there are no embeddings.

    Attributes:
        metric: what the scores of hits are, which are higher for nearer documents.
        is_remote: True: vectors of hits cost time.
    """

    metric: Metric
    is_remote = True

    def __init__(
        self, name: str, embeddings: Encoder | None, encoding: Encoding | None
    ) -> None:
        if embeddings is None:
            msg = f"{name} has no embeddings, which queries are to be made with"
            raise InvalidValueError(f"{msg}; construct it with some")
        self._name, self._embeddings = name, embeddings
        self._encoding = encoding or Encoding()
        self._margin = MARGIN
        self._seen: int | None = None  # how long vectors were in a search that found

    @property
    def dimension(self) -> int | None:
        """Length of the stored vectors, which the service is asked for; None without.

        Raises:
            StoreError: it does not answer.
        """
        with reported_as_store_error(self._name, "give its dimension"):
            return self._read_dimension()

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries, in one batch.

        Raises:
            StoreError: the encoder fails, or gives what is no direction.
            DimensionMismatchError: a vector is not as long as those that were found.
        """
        queries = make_queries(
            self._embeddings, texts, store=self._name, encoding=self._encoding
        )
        if queries and self._seen is not None:
            self._matrix(queries)
        return queries

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the ``k`` best documents for every query, as :meth:`Store.search` does.

        In one call, unless the service does not take so many results at once. It sends
        vectors too, so ask for them only when they are needed.

        Raises:
            InvalidValueError: ``k`` is below 1, or a query has no vector.
            DimensionMismatchError: a query vector does not fit the stored ones.
            StoreError: the search failed, e.g. because the server is gone, or found a
                document whose stored vector cannot be compared.
        """
        check_k(k)
        if not queries:
            return []
        vectors = self._matrix(queries)
        try:
            with reported_as_store_error(self._name, "search"):
                found = self._asked(vectors, k, with_vectors=with_vectors)
        except StoreError:
            with suppress(StoreError):  # a server that is gone: the first error says it
                query_matrix(queries, self.dimension, self._name)
            raise
        for hits in found:
            require_comparable(self._name, ((hit.id, hit.score) for hit in hits))
        if any(found):
            self._seen = vectors.shape[1]
        return found

    def count(self) -> int:
        """Number of stored documents, those that a filter hides included.

        Raises:
            StoreError: the service does not answer.
        """
        with reported_as_store_error(self._name, "count"):
            return self._count()

    def _asked(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        """What is found; a limit of the service may be just what was asked for."""
        try:
            return self._ask(vectors, k, with_vectors=with_vectors)
        except Exception as error:
            if not (self._margin and speaks_of_width(error, k + self._margin)):
                raise
            self._margin = 0
            return self._ask(vectors, k, with_vectors=with_vectors)

    @abstractmethod
    def _ask(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        """The ``k`` best hits for every row, best first, in one call."""

    @abstractmethod
    def _read_dimension(self) -> int | None:
        """Length of the stored vectors, as the service has them now."""

    @abstractmethod
    def _count(self) -> int:
        """Number of documents that the service holds now."""

    def _matrix(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        try:
            return query_matrix(queries, self._seen, self._name)
        except DimensionMismatchError:  # unless the collection was made anew since
            self._seen = None
            return query_matrix(queries, self.dimension, self._name)


def in_order(hits: list[Hit], name: str, metric: object) -> list[Hit]:
    """Hits as a store has ranked them.

    Raises:
        StoreError: by their scores they are in another order, so the metric is another.
    """
    if any(nearer.score < other.score for nearer, other in pairwise(hits)):
        raise StoreError(
            f"{name} does not rank by {metric}, as its LangChain store says; make that "
            "with the metric of the collection"
        )
    return hits


def ranked(hits: Iterable[Hit]) -> list[Hit]:
    """Hits best first, equal scores by the smaller id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))
