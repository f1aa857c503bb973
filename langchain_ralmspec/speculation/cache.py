"""The session's cache of document vectors (RaLMSpec section 3)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Metric = Literal["inner_product", "squared_l2", "cosine"]


class SessionCache:
    """Documents seen in one session, searched by the store's own metric.

    If a query's true best document is in here, it ranks first here too, for an
    exact store. A look-up is one matrix-vector product over a matrix that is
    allocated once. The documents used longest ago make room for new ones.
    """

    def __init__(self, metric: Metric, capacity: int = 1024) -> None:
        """Make an empty cache for ``capacity`` documents."""
        if capacity < 1:
            msg = f"capacity must be at least 1, got {capacity}"
            raise ValueError(msg)
        self._metric = metric
        self._capacity = capacity
        self._rows: OrderedDict[str, int] = OrderedDict()  # least recent first
        self._ids: list[str] = []  # by row
        self._matrix: NDArray[np.float32] | None = None
        self._squares = np.zeros(capacity, np.float32)

    def __len__(self) -> int:
        """Number of cached documents."""
        return len(self._rows)

    def __contains__(self, document_id: object) -> bool:
        """Whether a document is cached."""
        return document_id in self._rows

    def add(self, documents: Iterable[tuple[str, NDArray[np.float32]]]) -> list[str]:
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
                self._ids[row] = document_id
            else:
                row = len(self._rows)
                self._ids.append(document_id)
            self._rows[document_id] = row
            self._store(row, vector)
        return evicted

    def _store(self, row: int, vector: NDArray[np.float32]) -> None:
        if self._matrix is None:
            self._matrix = np.zeros((self._capacity, len(vector)), np.float32)
        if self._metric == "cosine":
            vector = vector / (np.linalg.norm(vector) or 1.0)
        self._matrix[row] = vector
        self._squares[row] = vector @ vector

    def top(self, query: NDArray[np.float32], n: int = 1) -> tuple[str, ...]:
        """Ids of the ``n`` nearest cached documents, best first.

        Args:
            query: shape ``(dimension,)``. Its length does not matter to the
                order under ``"cosine"``, so it need not be normalised.
            n: how many; fewer come back when fewer are cached.
        """
        if self._matrix is None:
            return ()
        size = len(self._rows)
        scores = self._matrix[:size] @ query
        if self._metric == "squared_l2":  # |q - v|² = |q|² - 2 q·v + |v|²
            scores = 2 * scores - self._squares[:size]
        if n == 1:
            best = np.flatnonzero(scores == scores.max())
        else:
            threshold = np.partition(scores, -min(n, size))[-min(n, size)]
            best = np.flatnonzero(scores >= threshold)
        ranked = sorted((-scores[row], self._ids[row]) for row in best)
        return tuple(document_id for _, document_id in ranked[:n])
