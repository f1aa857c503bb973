"""LangChain FAISS stores and ours over the rows of a table, of each kind of index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores.faiss import FAISS
from numpy.typing import NDArray

from langchain_ralmspec.stores import FaissStore
from tests.unit_tests.stores.toys import (
    DIMENSION,
    BatchTableEmbeddings,
    TableEmbeddings,
    documents,
    table,
)

N_ROWS = 200
N_QUERIES = 7
IDS = [f"id{row:03d}" for row in range(N_ROWS)]
FLAT: dict[str, Any] = {
    "inner_product": faiss.IndexFlatIP,
    "squared_l2": faiss.IndexFlatL2,
}


def make_flat_ip() -> Any:
    return faiss.IndexFlatIP(DIMENSION)


def make_flat_l2() -> Any:
    return faiss.IndexFlatL2(DIMENSION)


def make_hnsw() -> Any:
    index = faiss.IndexHNSWFlat(DIMENSION, 32)
    index.hnsw.efSearch = N_ROWS  # wide enough to be exact here
    return index


def make_ivf() -> Any:
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIMENSION), DIMENSION, 4)
    index.cp.min_points_per_centroid = 1
    index.train(table(N_ROWS))
    index.nprobe = 4  # every list: exact
    return index


KINDS: dict[str, tuple[Callable[[], Any], bool, str]] = {
    "flat_ip": (make_flat_ip, False, "inner_product"),
    "flat_l2": (make_flat_l2, False, "squared_l2"),
    "normalized_l2": (make_flat_l2, True, "cosine"),
    "hnsw": (make_hnsw, False, "squared_l2"),
    "ivf": (make_ivf, False, "squared_l2"),
}


def langchain_faiss(kind: str = "flat_l2", n_rows: int = N_ROWS) -> FAISS:
    make_index, normalize, _ = KINDS[kind]
    vectors = table(n_rows)
    store = FAISS(
        BatchTableEmbeddings(np.vstack([vectors, table(N_QUERIES, seed=1)])),
        make_index(),
        InMemoryDocstore(),
        {},
        normalize_L2=normalize,
    )
    if n_rows:
        store.add_documents(documents(n_rows), ids=[d.id for d in documents(n_rows)])
    return store


def store_over(
    index: Any, vectors: NDArray[np.float32], ids: Sequence[str] | None = None
) -> FaissStore:
    """A store whose index takes these vectors, with documents of the same texts."""
    index.add(vectors)
    return FaissStore(index, documents(len(vectors)), TableEmbeddings(vectors), ids=ids)
