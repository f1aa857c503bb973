"""The entries from which neighbours are guessed (RaLMSpec section 5.4, kNN-LM).

Text that resembles a passage goes on resembling it: behind every entry that a search
has found, the entries that follow it in the corpus are likely to be found next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from langchain_ralmspec.knnlm.mixture import Neighbours

Read: TypeAlias = Callable[
    [NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.int32]]
]
"""Gives the keys and tokens of rows."""

SPAN = 10
"""Entries behind a found one that are cached with it, the paper's *n*."""

WITH_SPAN = 64
"""Of the neighbours of a query so many, the nearest, are cached with their spans."""


class NeighbourCache:
    """Keys and tokens of some entries of a datastore, oldest replaced first."""

    def __init__(
        self,
        read: Read,
        n_entries: int,
        dimension: int,
        capacity: int = 8192,
    ) -> None:
        """Make an empty cache.

        Args:
            read: gives the keys and tokens of rows.
            n_entries: of the datastore.
            dimension: of a key.
            capacity: entries that are kept.
        """
        self._read = read
        self._is_cached = np.zeros(n_entries, np.bool_)
        self._keys = np.empty((capacity, dimension), np.float32)
        self._squares = np.empty(capacity, np.float32)
        self._tokens = np.empty(capacity, np.int32)
        self._rows = np.full(capacity, -1, np.int64)
        self._size = self._next = 0

    def __len__(self) -> int:
        """Number of cached entries."""
        return self._size

    def add(self, found: list[Neighbours], span: int = SPAN) -> None:
        """Cache what searches have found, and ``span`` entries behind the nearest."""
        for each in found:
            near = each.rows[:WITH_SPAN]
            behind = near + np.arange(1, span + 1)[:, np.newaxis]
            self._insert(np.concatenate([each.rows, behind.reshape(-1)]))

    def _insert(self, rows: NDArray[np.int64]) -> None:
        """Put new rows, the most wanted first, in the place of the oldest."""
        rows = rows[rows < len(self._is_cached)]
        rows = rows[~self._is_cached[rows]]
        _, firsts = np.unique(rows, return_index=True)
        new = rows[np.sort(firsts)][: len(self._rows)]
        if not len(new):
            return
        places = (self._next + np.arange(len(new))) % len(self._rows)
        replaced = self._rows[places]
        self._is_cached[replaced[replaced >= 0]] = False
        self._is_cached[new] = True
        keys, tokens = self._read(new)
        self._rows[places], self._tokens[places] = new, tokens
        self._keys[places] = keys
        self._squares[places] = np.einsum("nd,nd->n", keys, keys)
        self._next = int(places[-1] + 1) % len(self._rows)
        self._size = min(self._size + len(new), len(self._rows))

    def nearest(self, query: NDArray[np.float32], k: int) -> Neighbours:
        """The ``k`` nearest of the cached entries; fewer if there are fewer."""
        size = self._size
        distances = self._squares[:size] - 2 * (self._keys[:size] @ query)
        k = min(k, size)
        best = np.argpartition(distances, k - 1)[:k]
        best = best[np.argsort(distances[best], kind="stable")]
        found = distances[best] + query @ query
        return Neighbours(self._rows[best], found, self._tokens[best])
