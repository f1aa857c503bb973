"""Hand-made embeddings and data, and a brute-force search to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_ralmspec.stores.base import Query

DIMENSION = 16


class TableEmbeddings(Embeddings):
    """Embeds ``"v<number>"`` as that row of a table, other texts as its first."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = table
        self.calls: list[list[str]] = []

    def _look_up(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(texts)
        rows = [int(text[1:]) if text[1:].isdigit() else 0 for text in texts]
        return [[float(x) for x in self.table[row]] for row in rows]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._look_up(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._look_up([text])[0]


class BatchTableEmbeddings(TableEmbeddings):
    """The same, with our own batch method."""

    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        return self._look_up(texts)


class BrokenEmbeddings(Embeddings):
    """An encoder that is down."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise ConnectionError("encoder is down")

    def embed_query(self, text: str) -> list[float]:
        raise ConnectionError("encoder is down")


def table(
    n_rows: int, dimension: int = DIMENSION, seed: int = 0
) -> NDArray[np.float32]:
    """Random vectors of various lengths."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n_rows, dimension)).astype(np.float32)


def some_queries(n: int) -> list[Query]:
    """Queries that are embedded already."""
    return [Query(f"q{i}", vector) for i, vector in enumerate(table(n, seed=1))]


def documents(n_rows: int) -> list[Document]:
    """Documents whose text is their row, in three groups."""
    return [
        Document(
            id=f"id{row:03d}",
            page_content=f"v{row}",
            metadata={"group": row % 3, "row": row},
        )
        for row in range(n_rows)
    ]


def best_ids(
    query: Sequence[float] | NDArray[np.float32],
    vectors: NDArray[np.float32],
    ids: Sequence[str],
    k: int,
    metric: str,
) -> list[str]:
    """Ids of the best k vectors, found with plain Python floats."""

    def badness(vector: NDArray[np.float32]) -> float:
        pairs = list(zip(map(float, query), map(float, vector), strict=True))
        if metric == "inner_product":
            return -sum(a * b for a, b in pairs)
        if metric == "squared_l2":
            return sum((a - b) ** 2 for a, b in pairs)
        dot = sum(a * b for a, b in pairs)
        squares = sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs)
        return -dot / math.sqrt(squares)

    ranked = sorted(zip(map(badness, vectors), ids, strict=True))
    return [id_ for _, id_ in ranked[:k]]
