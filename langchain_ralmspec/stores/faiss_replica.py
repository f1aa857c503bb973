"""The replica of a flat FAISS index: an inverted file over the same vectors."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.scans import one_thread
from langchain_ralmspec.stores.base import Ranked
from langchain_ralmspec.stores.faiss_index import has_room
from langchain_ralmspec.stores.faiss_rows import names_of
from langchain_ralmspec.stores.replica import Replica
from langchain_ralmspec.stores.sharing import SharedLock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.stores.base import Query
    from langchain_ralmspec.stores.faiss_rows import Rows
    from langchain_ralmspec.stores.faiss_store import FaissStore

FEWEST_NUMBERS = 4_000_000
"""In an index: an exact search of fewer takes about a millisecond, and no replica."""

# 2·√n lists, of which 128 are searched. 50k passages of 384 numbers (447 lists), one
# thread, 400 queries of a question and words of any passage, which are harder than an
# answer's: with 111 lists the best is found for 98 % in 1 ms (56 lists: 96 % in 0.6 ms;
# an exact search takes 10 ms there), and it is built in 2.5 s. With half of the sample
# it is 95 %. An HNSW graph over vectors of 8 bits is built in 15 s, and no better: 95 %
# in 0.6 ms, 98 % in 1.2.
_LISTS_PER_ROOT, _SEARCHED = 2.0, 128
_SAMPLE, _ROUNDS = 64, 10  # rows a list, and rounds, of k-means
_CHUNK = 1024  # rows that are added at once; no search runs meanwhile
_GROWTH = 2  # times the rows at which the lists are drawn anew

_turn = SharedLock()  # so that at most one core builds, in the whole process
_known: WeakValueDictionary[int, FaissReplica] = WeakValueDictionary()
_opening = SharedLock()


class _Built(NamedTuple):
    """An inverted file, and what its rows stand for."""

    index: Any
    ids: Mapping[int, str]
    n_trained: int


class FaissReplica(Replica):
    """An inverted file over the vectors of a flat index, with 8 bits a number.

    It takes a quarter of the index's memory and 8 bytes a row, and is not built where
    there is no room for that, nor for a small index. One thread builds it; documents
    that are added later are taken in before the next answer. Deletions renumber rows:
    then it is built anew, and the old one is asked meanwhile.

    Args:
        store: with a flat index.
    """

    _store: FaissStore

    def __init__(self, store: FaissStore) -> None:
        super().__init__(store)
        self._built: _Built | None = None
        self._is_growing = False
        self.renew_locks()
        renewed_in_children(self)

    @classmethod
    def of(cls, store: FaissStore, *, anew: bool = False) -> FaissReplica:
        """The one of a store's index, whatever filters there are; or a new one."""
        index, rows, _ = store.parts
        with _opening.changing():
            known = None if anew else _known.get(id(index.raw))
            # Held by the replica, an index that is freed leaves its id to no other.
            if known is None or not known.is_of(rows):
                known = _known[id(index.raw)] = cls(store)
            return known

    def is_of(self, rows: Rows) -> bool:
        """Whether its rows stand for these documents."""
        return self._store.parts[1].ids() is rows.ids()

    def renew_locks(self) -> None:
        """Have free locks and no thread, as in a forked process."""
        if self._is_growing:  # a fork has copied it half changed
            self._built, self._is_growing = None, False
        self._using, self._beginning = SharedLock(), threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it was built."""
        return super().is_ready and self._built is not None

    def prepare(self) -> None:
        """Begin to build it, or to take in what was added."""
        super().prepare()
        with self._beginning:
            is_building = self._thread is not None and self._thread.is_alive()
            if self._fault or is_building or self._is_current:
                return
            self._thread = self._started(self._follow)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is built, for so many seconds at most."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.is_ready

    @property
    def _is_current(self) -> bool:
        """Whether nothing is to be done."""
        index, rows, _ = self._store.parts
        if index.n_rows * index.dimension < FEWEST_NUMBERS:
            return True
        built = self._built
        is_same = built is not None and built.ids is rows.ids()
        return is_same and built is not None and built.index.ntotal >= index.n_rows

    def _near(self, query: Query, k: int) -> Ranked:
        index, built = self._store.parts[0], self._built
        if built is None or query.vector is None:
            return Ranked()
        with self._using.searching(), one_thread(index.faiss):
            _, rows, vectors = built.index.search_and_reconstruct(
                query.vector[np.newaxis], k
            )
        known = [place for place, row in enumerate(rows[0]) if int(row) in built.ids]
        keys = [built.ids[int(rows[0][place])] for place in known]
        ids = names_of(keys)
        return Ranked(ids=ids, vectors=vectors[0][known])

    def _follow(self) -> None:
        """Build it, or take in what was added, on one core."""
        try:
            with _turn.changing(), one_thread(self._store.parts[0].faiss):
                index, rows, _ = self._store.parts
                built, ids = self._built, rows.ids()
                if (
                    built is not None
                    and built.ids is ids
                    and index.n_rows <= _GROWTH * built.n_trained
                ):
                    self._fill(built)
                elif (new := self._trained(ids)) and self._fill(new):
                    self._built = new
        except Exception as failure:  # noqa: BLE001  told by the next prepare()
            self._failed(failure)

    def _trained(self, ids: Mapping[int, str]) -> _Built | None:
        """An inverted file without rows; None where there is no room for them."""
        index = self._store.parts[0]
        faiss, n_rows, dimension = index.faiss, index.n_rows, index.dimension
        n_lists = max(1, round(_LISTS_PER_ROOT * n_rows**0.5))
        n_sampled = min(n_rows, _SAMPLE * n_lists)
        if not has_room(n_rows * (dimension + 8) + 2 * 4 * n_sampled * dimension):
            return None
        metric = index.raw.metric_type
        lists = faiss.IndexFlat(dimension, metric)
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        made = faiss.IndexIVFScalarQuantizer(
            lists, dimension, n_lists, eight_bits, metric
        )
        made.nprobe, made.cp.niter = _SEARCHED, _ROUNDS
        made.cp.min_points_per_centroid = 1  # else it warns on standard output
        sampled = np.random.default_rng(0).choice(n_rows, n_sampled, replace=False)
        sample = self._copied(np.sort(sampled), ids)
        if sample is None:
            return None
        made.train(sample)
        return _Built(made, ids, n_rows)

    def _fill(self, built: _Built) -> bool:
        """Add the rows that are missing; False where they stand for others by now."""
        index = self._store.parts[0]
        while (start := int(built.index.ntotal)) < index.n_rows:
            stop = min(start + _CHUNK, index.n_rows)
            chunk = self._copied(np.arange(start, stop), built.ids)
            # A process that is about to end waits for its threads.
            if chunk is None or not threading.main_thread().is_alive():
                return False
            in_use = built is self._built
            with self._using.changing() if in_use else nullcontext():
                self._is_growing = in_use
                built.index.add(chunk)
                self._is_growing = False
        return self._store.parts[1].ids() is built.ids

    def _copied(
        self, numbers: NDArray[np.int64], ids: Mapping[int, str]
    ) -> NDArray[np.float32] | None:
        """Vectors of some rows; None where rows stand for other documents by now."""
        index, rows, lock = self._store.parts
        with lock.searching():
            return index.vectors(numbers) if rows.ids() is ids else None
