"""The session's cache of document vectors (RaLMSpec section 3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Verified queries whose surroundings are kept in mind: those of two answers of 64
# tokens. Older ones lie further from the query.
_MAX_BALLS = 32
_ROUNDING = float(np.finfo(np.float32).eps)  # of a sum, at every number added

Metric = Literal["inner_product", "squared_l2", "cosine"]

Vector: TypeAlias = NDArray[np.float32]
"""Shape ``(dimension,)``."""


class SessionCache:
    """Documents seen in one session, searched by the store's own metric.

    If a query's true best document is in here, it ranks first here too, for an
    exact store. The documents used longest ago make room for new ones. A look-up is
    one matrix-vector product over a matrix that is allocated once.
    """

    def __init__(self, metric: Metric | None, capacity: int) -> None:
        """Make an empty cache, which stays empty where the store has no metric."""
        self._metric = metric
        self._capacity = capacity
        self._rows: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._ids = [""] * capacity  # by row
        self._matrix = np.zeros((0, 0), np.float32)
        self._squares = np.zeros(capacity, np.float32)
        self._largest = 0.0  # of all squares there ever were
        # Balls whose inside is cached, the latest in place of the oldest: their
        # centres, and the squares of their radii, as `_squares_from` has them.
        self._n_balls = 0
        self._centres = np.zeros((0, 0))
        self._radii = np.zeros(_MAX_BALLS)

    def __len__(self) -> int:
        """Number of cached documents."""
        return len(self._rows)

    def __contains__(self, document_id: object) -> bool:
        """Whether a document is cached."""
        return document_id in self._rows

    def add(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> list[str]:
        """Insert what a search found, best first, or mark it as used again.

        The best document counts as the one used last. Where there are more than the
        cache holds, the best of them enter.

        Args:
            ids: of the documents.
            vectors: shape ``(len(ids), dimension)``.

        Returns:
            The ids that were evicted to make room.
        """
        used = range(min(len(ids), self._capacity))[::-1]
        places = {ids[place]: place for place in used}  # the best last
        new = [id_ for id_ in places if id_ not in self._rows]
        size = len(self._rows)
        n_evicted = max(0, size + len(new) - self._capacity)
        others = (id_ for id_ in self._rows if id_ not in places)
        evicted = list(islice(others, n_evicted))
        freed = [self._rows.pop(id_) for id_ in evicted]
        rows = [*range(size, size + len(new) - n_evicted), *freed]
        if freed:
            self._shrink_balls(freed)
        for document_id, row in zip(new, rows, strict=True):
            self._rows[document_id] = row
            self._ids[row] = document_id
        for document_id in places:
            self._rows.move_to_end(document_id)
        if new:
            self._write(rows, vectors[[places[id_] for id_ in new]])
        return evicted

    def top(
        self, query: Vector, n: int = 1, others: Mapping[str, Vector] | None = None
    ) -> tuple[str, ...]:
        """Ids of the ``n`` best cached documents, best first, or of all.

        Equal scores are ordered by the smaller id. Under ``"cosine"`` the query need
        not be normalised, since its length does not matter to the order. ``others`` are
        documents that are compared too, by their ids, unless they are cached.
        """
        ranked = self._best(query, n) if self._rows else []
        new = {id_: v for id_, v in (others or {}).items() if id_ not in self._rows}
        if new:
            vectors = self._unit(np.stack(list(new.values())))
            scores = self._compared(query, vectors, _squared_lengths(vectors)).tolist()
            pairs = zip(scores, new, strict=True)
            ranked += [(-score, id_) for score, id_ in pairs if np.isfinite(score)]
        return tuple(document_id for _, document_id in sorted(ranked)[:n])

    def _best(self, query: Vector, n: int) -> list[tuple[float, str]]:
        """The negated scores and ids of the ``n`` best rows, and of those as good."""
        scores = self._scores(query)
        if n == 1:
            best = np.flatnonzero(scores == scores.max())
        else:
            cut = len(scores) - min(n, len(scores))
            best = np.flatnonzero(scores >= np.partition(scores, cut)[cut])
        badness = (-scores[best]).tolist()
        return list(zip(badness, (self._ids[row] for row in best), strict=True))

    def add_ball(self, centre: Vector, edge_id: str) -> None:
        """Note that every stored vector nearer to a query than a document is cached.

        The query was verified, and what it found was added, the document last.
        """
        exact = self._exact(centre)
        (radius,) = self._squares_from(exact, self._vectors([self._rows[edge_id]]))
        if not np.isfinite(radius):
            return
        number = self._n_balls % _MAX_BALLS
        self._centres[number], self._radii[number] = exact, radius
        self._n_balls += 1

    def margin(self, query: Vector, document_id: str) -> float | None:
        """By how much a cached document is known to be the nearest to a query.

        Let *r* be the radius of a ball around *c* whose inside is cached: nothing that
        is not cached is nearer to *c*, so by the triangle inequality nothing that is
        not cached is nearer to *q* than *r* - |q - c|. The margin is the greatest such
        bound less the document's own distance. Under 0 a look-up may be right, and the
        more so the nearer to 0. (Under the inner product no vector that is not cached
        is taken to be longer than those that are.) It is in the units of the metric's
        distance, and None where there is no ball.
        """
        return self._margin(query, document_id, self._largest)

    def proves(
        self, query: Vector, document_ids: Sequence[str], longest: float
    ) -> bool:
        """Whether an exact store is bound to answer a query with these documents.

        So it is when the :meth:`margin` of the last is above 0, whatever vectors are
        not cached, and no two scores are so close that rounding may have put them in
        the wrong order.

        Args:
            query: shape ``(dimension,)``.
            document_ids: the query's :meth:`top`, at least one.
            longest: a length that no vector in the store exceeds.
        """
        margin = self._margin(query, document_ids[-1], longest**2)
        scaled = self._scaled(query)
        size = float(np.linalg.norm(scaled)) + longest
        best = np.sort(self._scores(scaled))[::-1][: len(document_ids) + 1]
        noise = _ROUNDING * (len(query) + 2) * size
        is_nearest = margin is not None and margin > noise
        return is_nearest and bool((best[:-1] - best[1:] > noise * size).all())

    def _margin(self, query: Vector, document_id: str, largest: float) -> float | None:
        """The margin where no document's squared length is more than ``largest``."""
        n = min(self._n_balls, _MAX_BALLS)
        if not n:
            return None
        exact = self._exact(query)
        away = np.linalg.norm(self._centres[:n] - exact, axis=1)
        bound = (self._root(self._radii[:n], largest) - away).max()
        (own,) = self._squares_from(exact, self._vectors([self._rows[document_id]]))
        return float(bound - self._root(own, largest))

    def _shrink_balls(self, rows: list[int]) -> None:
        """Let no ball reach beyond rows that are about to go."""
        vectors = self._vectors(rows)
        for number in range(min(self._n_balls, _MAX_BALLS)):
            nearest = self._squares_from(self._centres[number], vectors).min()
            self._radii[number] = np.minimum(self._radii[number], nearest)

    def _scaled(self, vector: NDArray[Any]) -> Any:
        if self._metric != "cosine":
            return vector
        return vector / (np.linalg.norm(vector) or 1.0)

    def _exact(self, query: Vector) -> NDArray[np.float64]:
        """In more places: a root makes much of an error in a small square."""
        exact: NDArray[np.float64] = self._scaled(query.astype(np.float64))
        return exact

    def _vectors(self, rows: list[int]) -> NDArray[np.float64]:
        return self._matrix[rows].astype(np.float64)

    def _squares_from(
        self, query: NDArray[np.float64], vectors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Squared distances; of the inner product, less the largest square.

        The inner product is made a distance by one more number in every document,
        which gives all of them the same length.
        """
        if self._metric == "inner_product":
            squares: NDArray[np.float64] = (query * query).sum() - 2 * (vectors @ query)
        else:
            squares = ((vectors - query) ** 2).sum(axis=1)
        return squares

    def _root(self, square: Any, largest: float) -> Any:
        if self._metric == "inner_product":
            square = square + largest
        return np.sqrt(np.maximum(square, 0.0))

    def _write(self, rows: list[int], vectors: NDArray[np.float32]) -> None:
        if not len(self._matrix):  # now the dimension is known
            self._matrix = np.zeros((self._capacity, vectors.shape[1]), np.float32)
            self._centres = np.zeros((_MAX_BALLS, vectors.shape[1]))
        vectors = self._unit(vectors)
        self._matrix[rows] = vectors
        self._squares[rows] = squares = _squared_lengths(vectors)
        self._largest = float(np.fmax.reduce(squares, initial=self._largest))

    def _unit(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors as they are compared: under ``"cosine"`` of length 1."""
        if self._metric != "cosine":
            return vectors
        lengths: NDArray[np.float32] = np.sqrt(_squared_lengths(vectors))
        lengths[lengths == 0] = 1
        units: NDArray[np.float32] = vectors / lengths[:, np.newaxis]
        return units

    def _scores(self, query: Vector) -> NDArray[np.float32]:
        """Score of every row in use, higher is better, shape ``(len(self),)``."""
        size = len(self)
        return self._compared(query, self._matrix[:size], self._squares[:size])

    def _compared(
        self, query: Vector, vectors: NDArray[np.float32], squares: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = vectors @ query
        if self._metric == "squared_l2":  # |q - v|² = |q|² - 2 q·v + |v|²
            scores = 2 * scores - squares
        return scores


def _squared_lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every vector's product with itself, to the bit as if it were alone."""
    products: NDArray[np.float32] = np.matmul(
        vectors[:, np.newaxis, :], vectors[:, :, np.newaxis]
    )
    return products[:, 0, 0]
