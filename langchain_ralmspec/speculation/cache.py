"""The session's cache of document vectors (RaLMSpec section 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_COVERED = 32  # verified queries whose surroundings are kept in mind
_DOUBT = 1e-6  # of lengths: what rounding may do to a distance in float64, and more
_ROUNDING = 2.0**-23  # of a float32 sum, at every number added

Metric = Literal["inner_product", "squared_l2", "cosine", "sparse"]


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """The non-zero places of a vector as long as a vocabulary.

    Attributes:
        tokens: token ids, ascending, each once; integers, shape ``(n,)``.
        values: float32, shape ``(n,)``. Of a document its weight for each token,
            from the statistics of the whole corpus; of a query how often it has
            the token.
    """

    tokens: NDArray[np.integer[Any]]
    values: NDArray[np.float32]


Vector: TypeAlias = NDArray[np.float32] | SparseVector
"""Which of the two, a store's metric decides."""


class SessionCache(ABC):
    """Documents seen in one session, searched by the store's own metric.

    If a query's true best document is in here, it ranks first here too, for an
    exact store. The documents used longest ago make room for new ones.
    """

    def __init__(self, capacity: int = 1024) -> None:
        """Make an empty cache for ``capacity`` documents."""
        if capacity < 1:
            msg = f"capacity must be at least 1, got {capacity}"
            raise ValueError(msg)
        self._capacity = capacity
        self._rows: OrderedDict[str, int] = OrderedDict()  # least recent first
        self._ids: list[str] = []  # by row

    def __len__(self) -> int:
        """Number of cached documents."""
        return len(self._rows)

    def __contains__(self, document_id: object) -> bool:
        """Whether a document is cached."""
        return document_id in self._rows

    def add(self, documents: Iterable[tuple[str, Vector]]) -> list[str]:
        """Insert ``(id, vector)`` pairs, or mark them as used again.

        Returns:
            The ids that were evicted to make room.
        """
        evicted = []
        for document_id, vector in documents:
            if document_id in self._rows:
                self._rows.move_to_end(document_id)
                continue
            if len(self._rows) == self._capacity:
                oldest, row = self._rows.popitem(last=False)
                evicted.append(oldest)
                self._evict(row)
                self._ids[row] = document_id
            else:
                row = len(self._rows)
                self._ids.append(document_id)
            self._rows[document_id] = row
            self._store(row, vector)
        return evicted

    def top(self, query: Vector, n: int = 1) -> tuple[str, ...]:
        """Ids of the ``n`` best cached documents, best first.

        Args:
            query: a vector of the kind that the documents have. Its length does
                not matter to the order under ``"cosine"``, so it need not be
                normalised.
            n: how many; fewer come back when fewer are cached.

        Returns:
            The ids; equal scores by the smaller id.
        """
        if not self._rows:
            return ()
        scores = self._scores(query)
        if n == 1:
            best = np.flatnonzero(scores == scores.max())
        else:
            cut = len(scores) - min(n, len(scores))
            best = np.flatnonzero(scores >= np.partition(scores, cut)[cut])
        badness = (-scores[best]).tolist()
        ranked = sorted(zip(badness, (self._ids[row] for row in best), strict=True))
        return tuple(document_id for _, document_id in ranked[:n])

    def cover(self, query: Vector, document_id: str) -> None:
        """Note that a query was verified, and its best documents added.

        All documents nearer to it than the last of these are in the cache then.

        Args:
            query: that one.
            document_id: the last of the documents.
        """
        return

    def margin(self, query: Vector, document_id: str) -> float | None:
        """By how much a cached document is known to be the nearest to a query.

        Let *r* be the distance of a covered query *c* from the last of its documents:
        nothing that is not cached is nearer to *c*, so by the triangle inequality
        nothing that is not cached is nearer to *q* than *r* - |q - c|. The margin is
        the greatest such bound less the document's own distance. Under 0 a look-up may
        be right, and the more so the nearer to 0. (Under the inner product no vector
        that is not cached is taken to be longer than those that are.)

        Returns:
            The margin, in the units of the metric's distance; None where there is no
            distance or nothing was covered.
        """
        return None

    def proves(
        self, query: Vector, document_ids: Sequence[str], longest: float
    ) -> bool:
        """Whether an exact store is bound to answer a query with these documents.

        So it is when the :meth:`margin` of the last is above 0, whatever vectors are
        not cached, and no two scores are so close that rounding may have put them in
        the wrong order.

        Args:
            query: the query.
            document_ids: its :meth:`top`, at least one.
            longest: a length that no vector in the store exceeds.
        """
        return False

    def _evict(self, row: int) -> None:
        """A row is about to go: what reaches as far is covered no more."""
        return

    @abstractmethod
    def _store(self, row: int, vector: Any) -> None:
        """Put a document's vector into a row, over what was there."""

    @abstractmethod
    def _scores(self, query: Any) -> NDArray[np.float32]:
        """Score of every row in use, higher is better, shape ``(len(self),)``."""


class DenseCache(SessionCache):
    """Documents with dense vectors.

    A look-up is one matrix-vector product over a matrix that is allocated once.
    """

    def __init__(self, metric: Metric, capacity: int = 1024) -> None:
        """Make an empty cache for ``capacity`` documents."""
        super().__init__(capacity)
        self._metric = metric
        self._matrix = np.zeros((0, 0), np.float32)
        self._squares = np.zeros(capacity, np.float32)
        self._largest = 0.0  # of all squares there ever were
        # Balls that are covered, the latest in place of the oldest: their centres, and
        # the squares of their radii, as `_squares_from` has them.
        self._n_covered = 0
        self._centres = np.zeros((0, 0))
        self._radii = np.zeros(_COVERED)

    def cover(self, query: Any, document_id: str) -> None:
        """See :meth:`SessionCache.cover`."""
        centre = self._exact(query)
        radius = self._squares_from(centre, self._rows[document_id])
        if not np.isfinite(radius):
            return
        number = self._n_covered % _COVERED
        self._centres[number], self._radii[number] = centre, radius
        self._n_covered += 1

    def _evict(self, row: int) -> None:
        centres, radii = self._covered
        np.minimum(radii, self._squares_from(centres, row), out=radii)

    @property
    def _covered(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        n = min(self._n_covered, _COVERED)
        return self._centres[:n], self._radii[:n]

    def margin(self, query: Any, document_id: str) -> float | None:
        """See :meth:`SessionCache.margin`."""
        return self._margin(query, document_id, self._largest)

    def _margin(self, query: Any, document_id: str, largest: float) -> float | None:
        """The margin where no document's squared length is more than ``largest``."""
        centres, radii = self._covered
        if not len(centres):
            return None
        query = self._exact(query)
        away = np.linalg.norm(centres - query, axis=1)
        bound = (self._root(radii, largest) - away).max()
        own = self._squares_from(query, self._rows[document_id])
        return float(bound - self._root(own, largest))

    def proves(self, query: Any, document_ids: Sequence[str], longest: float) -> bool:
        """See :meth:`SessionCache.proves`."""
        margin = self._margin(query, document_ids[-1], longest**2)
        query = self._scaled(query)
        size = float(np.linalg.norm(query)) + longest
        best = np.sort(self._scores(query))[::-1][: len(document_ids) + 1]
        noise = _ROUNDING * (len(query) + 2) * size**2
        is_nearest = margin is not None and margin > _DOUBT * size
        return is_nearest and bool((best[:-1] - best[1:] > noise).all())

    def _scaled(self, vector: NDArray[Any]) -> NDArray[Any]:
        if self._metric != "cosine":
            return vector
        return vector / (np.linalg.norm(vector) or 1.0)

    def _exact(self, query: NDArray[np.float32]) -> NDArray[np.float64]:
        """In more places: a root makes much of an error in a small square."""
        return self._scaled(query.astype(np.float64))

    def _squares_from(self, queries: NDArray[np.float64], row: int) -> Any:
        """Squared distances from a row; of the inner product, less the largest square.

        The inner product is made a distance by one more number in every document,
        which gives all of them the same length.
        """
        vector = self._matrix[row].astype(np.float64)
        if self._metric == "inner_product":
            return (queries * queries).sum(axis=-1) - 2 * (queries @ vector)
        return ((queries - vector) ** 2).sum(axis=-1)

    def _root(self, square: Any, largest: float) -> Any:
        if self._metric == "inner_product":
            square = square + largest
        return np.sqrt(np.maximum(square, 0.0))

    def _store(self, row: int, vector: NDArray[np.float32]) -> None:
        if not len(self._matrix):  # now the dimension is known
            self._matrix = np.zeros((self._capacity, len(vector)), np.float32)
            self._centres = np.zeros((_COVERED, len(vector)))
        vector = self._scaled(vector)
        self._matrix[row] = vector
        self._squares[row] = vector @ vector
        self._largest = max(self._largest, float(self._squares[row]))

    def _scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        size = len(self)
        scores: NDArray[np.float32] = self._matrix[:size] @ query
        if self._metric == "squared_l2":  # |q - v|² = |q|² - 2 q·v + |v|²
            scores = 2 * scores - self._squares[:size]
        return scores


class SparseCache(SessionCache):
    """Documents with sparse vectors, scored to the last bit as their store does.

    That is: in float32, one token after the other in ascending order, a token that
    the query has twice added twice.
    """

    def __init__(self, capacity: int = 1024) -> None:
        """Make an empty cache for ``capacity`` documents."""
        super().__init__(capacity)
        self._vectors: list[SparseVector] = []  # by row
        self._joined = _NOTHING

    def _store(self, row: int, vector: SparseVector) -> None:
        if row < self._joined.n_rows:  # one was evicted
            self._joined = _NOTHING
        self._vectors[row : row + 1] = [vector]

    def _scores(self, query: SparseVector) -> NDArray[np.float32]:
        missing = self._vectors[self._joined.n_rows :]
        if missing:
            self._joined = self._joined.extended(missing)
        return self._joined.scores(query)


@dataclass(frozen=True, slots=True)
class _Joined:
    """Sparse vectors end to end, so that NumPy can score all of them at once.

    Attributes:
        n_rows: number of vectors.
        rows: which vector each place comes from, shape ``(n_places,)``.
        tokens: token id at each place.
        values: value at each place.
    """

    n_rows: int
    rows: NDArray[np.intp]
    tokens: NDArray[np.integer[Any]]
    values: NDArray[np.float32]

    def extended(self, vectors: list[SparseVector]) -> _Joined:
        """Join more vectors to these."""
        n_rows = self.n_rows + len(vectors)
        lengths = [len(vector.tokens) for vector in vectors]
        rows = np.arange(self.n_rows, n_rows).repeat(lengths)
        return _Joined(
            n_rows,
            np.concatenate([self.rows, rows]),
            np.concatenate([self.tokens, *(vector.tokens for vector in vectors)]),
            np.concatenate([self.values, *(vector.values for vector in vectors)]),
        )

    def scores(self, query: SparseVector) -> NDArray[np.float32]:
        """Score of every vector, shape ``(n_rows,)``."""
        # A table of all tokens is quicker than a search for each place.
        n_tokens = 1 + max(self.tokens.max(initial=0), query.tokens.max(initial=0))
        asked = np.zeros(n_tokens, np.bool_)
        asked[query.tokens] = True
        places = np.flatnonzero(asked[self.tokens])
        counts = query.values[np.searchsorted(query.tokens, self.tokens[places])]
        places = places.repeat(counts.astype(np.intp))
        scores = np.zeros(self.n_rows, np.float32)
        np.add.at(scores, self.rows[places], self.values[places])
        return scores


_NOTHING = _Joined(
    0, np.zeros(0, np.intp), np.zeros(0, np.int32), np.zeros(0, np.float32)
)


def session_cache(metric: Metric, capacity: int = 1024) -> SessionCache:
    """Make an empty cache for a store of that metric.

    Args:
        metric: the store's; it decides what kind of vector the cache takes.
        capacity: documents it holds, at least 1.

    Raises:
        ValueError: the capacity is below 1.
    """
    if metric == "sparse":
        return SparseCache(capacity)
    return DenseCache(metric, capacity)
