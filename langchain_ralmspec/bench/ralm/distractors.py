"""Vectors that make an index as large as wanted, and cost no documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from langchain_core.documents import Document
from numpy.typing import NDArray

from langchain_ralmspec.stores.faiss_rows import FixedRows

_PREFIX = "distractor-"
_SEED = 20240125
_CHUNK_ROWS = 1 << 16


def distractor_vectors(n_rows: int, dimension: int) -> Iterator[NDArray[np.float32]]:
    """Yield ``n_rows`` random vectors of length 1, always the same, in some arrays."""
    random = np.random.default_rng(_SEED)
    for first in range(0, n_rows, _CHUNK_ROWS):
        size = min(_CHUNK_ROWS, n_rows - first), dimension
        rows = random.standard_normal(size, dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield rows


class DistractedRows:
    """Documents in the order of their rows, and distractors in all rows after them.

    A distractor has an id and a document like any other, should one ever be found,
    but they are made when they are asked for: millions cost no memory. The documents'
    own ids must be unique, else it is an ``InvalidValueError``.
    """

    def __init__(self, documents: Sequence[Document], n_distractors: int) -> None:
        self._real = FixedRows(documents)
        self._ids = _Ids(self._real.ids(), n_distractors)

    def ids(self) -> Mapping[int, str]:
        """Document id of every row."""
        return self._ids

    def document(self, id_: str) -> Document:
        """The document with that id."""
        if id_.startswith(_PREFIX):
            return Document(id=id_, page_content="distractor")
        return self._real.document(id_)


class _Ids(Mapping[int, str]):
    """Ids of real rows, and after them those of distractors."""

    def __init__(self, real: Mapping[int, str], n_distractors: int) -> None:
        self._real = real
        self._n_rows = len(real) + n_distractors

    def __getitem__(self, row: int) -> str:
        if len(self._real) <= row < self._n_rows:
            return f"{_PREFIX}{row - len(self._real)}"
        return self._real[row]

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._n_rows))

    def __len__(self) -> int:
        return self._n_rows
