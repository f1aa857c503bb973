"""The replica of a Chroma collection: a local copy, read page by page."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.scans import installed_faiss
from langchain_ralmspec.stores.base import Hit, Ranked
from langchain_ralmspec.stores.faiss_index import has_room
from langchain_ralmspec.stores.faiss_replica import (
    FEWEST_NUMBERS,
    FaissReplica,
)
from langchain_ralmspec.stores.faiss_store import FaissStore
from langchain_ralmspec.stores.replica import Replica, StoreReplica

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from langchain_ralmspec.stores.base import Query
    from langchain_ralmspec.stores.chroma_store import ChromaStore

_PAGE = 1024  # records of a request, about 10 MB of a server's JSON


class ChromaReplica(Replica):
    """A copy of a Chroma collection in this process, with an index of FAISS.

    One thread reads it, a page after another, when the first session begins. It is a
    copy of that moment, and of what one retriever may see: documents that change later
    cost time until ``invalidate()`` of the retriever has it read again. It takes the
    memory of the vectors and texts, and a quarter of the former once more; where so
    much is not free, a warning says so.

    Args:
        store: what is copied, under its filter.

    Raises:
        MissingExtraError: the extra ``faiss`` is not installed.
    """

    _store: ChromaStore

    def __init__(self, store: ChromaStore) -> None:
        super().__init__(store)
        self._faiss: Any = installed_faiss()  # its stubs know few of its arguments
        self._copy: FaissStore | None = None
        self._index: Replica | None = None  # over the copy
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Have a free lock and no thread, as in a forked process."""
        self._beginning = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it was read, and its index built."""
        index = self._index
        return super().is_ready and index is not None and index.is_ready

    def prepare(self) -> None:
        """Begin to read it, if that was not begun."""
        super().prepare()
        with self._beginning:
            if self._fault or self._index is not None or self._thread is not None:
                return
            self._thread = self._started(self._read, may_hang=True)

    def renew(self) -> None:
        """Have it read again: by the next session."""
        with self._beginning:
            self._copy = self._index = self._thread = None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is read, and then built, for so many seconds each at most."""
        if (thread := self._thread) is not None:
            thread.join(seconds)
        if (index := self._index) is not None:
            index.wait(seconds)
        return self.is_ready

    def _near(self, query: Query, k: int) -> Ranked:
        copy, index = self._copy, self._index
        if copy is None or index is None:
            return Ranked()
        found = index.near(query, k)
        if found.hits or not found.ids:
            return found
        hits = [Hit(id_, copy.document(id_), math.nan) for id_ in found.ids]
        return Ranked(hits, found.ids, vectors=found.vectors)

    def _read(self) -> None:
        """Copy the collection, and have an index over the copy."""
        me = threading.current_thread()
        with self._beginning:
            pass  # until prepare() has noted whose thread this is
        try:
            faiss, is_l2 = self._faiss, self._store.metric == "squared_l2"
            metric = faiss.METRIC_L2 if is_l2 else faiss.METRIC_INNER_PRODUCT
            index: Any = None
            documents: list[Document] = []
            for page, vectors in self._pages():
                index = index or faiss.IndexFlat(vectors.shape[1], metric)
                if self._thread is not me or not threading.main_thread().is_alive():
                    return  # renewed; and a process that ends waits for its threads
                # Twice: what grows is copied where it does not fit any more.
                n_bytes = 2 * 4 * index.d * (index.ntotal + len(vectors))
                if not has_room(n_bytes + sum(len(each.page_content) for each in page)):
                    self._fault = (
                        f"there is no memory for a copy of more than {index.ntotal} "
                        "records of the Chroma collection"
                    )
                    return
                documents += page
                index.add(self._comparable(vectors))
            if documents:
                self._open(index, documents)
        except Exception as failure:  # noqa: BLE001  told by the next prepare()
            with self._beginning:
                if self._thread is me:
                    self._failed(failure)

    def _comparable(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors whose inner products are in the order of the store's scores."""
        if self._store.metric != "cosine":
            return vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        directions: NDArray[np.float32]
        directions = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return directions

    def _open(self, index: Any, documents: list[Document]) -> None:
        """Begin to search the copy: by its index, or by a faster one over that."""
        copy = FaissStore(index, documents, self._store.embeddings)
        is_small = index.ntotal * index.d < FEWEST_NUMBERS
        built = StoreReplica(copy) if is_small else FaissReplica(copy)
        built.prepare()
        with self._beginning:
            if self._thread is threading.current_thread():  # not renewed meanwhile
                self._copy, self._index = copy, built

    def _pages(self) -> Iterator[tuple[list[Document], NDArray[np.float32]]]:
        """Documents of a page, and their vectors."""
        start = 0
        while True:
            n_read, page, vectors = self._store.page(start, _PAGE)
            if not n_read:
                return
            if page:
                yield page, vectors
            start += n_read
