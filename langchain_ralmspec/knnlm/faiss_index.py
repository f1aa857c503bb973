"""Approximate search for the nearest keys, by FAISS: inverted lists or HNSW."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from langchain_ralmspec.errors import DatastoreError
from langchain_ralmspec.files import replacing_file
from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.scans import installed_faiss, one_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["ivf", "hnsw"]

_LISTS_PER_ROOT = 2  # lists are 2·√n; training twice as many takes four times as long
_TRAINED_PER_LIST = 40  # FAISS warns under 39
_PROBES = 16
_GUESSED_AMONG = 6000  # keys, in the lists that are looked through for a guess
_LINKS = 32
_LEAST_WIDTH = 64  # of an HNSW search
_ROWS_ADDED = 1 << 15
_SEAL = b"sha256"  # stands behind an index, and behind it the checksum
_READ_BYTES = 1 << 20
_THREAD_PER_QUERY = 3  # FAISS's parallel_mode; 0 searches given lists by one thread


class FaissKeyIndex:
    """A FAISS index over the keys of a datastore, kept in a file beside them."""

    def __init__(self, kind: Kind, keys: NDArray[Any], file: Path) -> None:
        """Read the index, and add the keys that it does not hold yet.

        Args:
            kind: of index.
            keys: shape ``(n, dimension)``.
            file: where the index is kept, if it can be. One that is there is over
                these keys, or the first of them, or more of which these are the first.

        Raises:
            MissingExtraError: faiss is not installed.
            DatastoreError: the file is not an index over these keys.
        """
        self._faiss: Any = installed_faiss()  # its stubs know few of its arguments
        self._kind, self._n = kind, len(keys)
        self.renew_locks()
        renewed_in_children(self)
        self._index = self._read(file, keys)
        if self._index.ntotal < len(keys):
            self._add(keys)
            self._keep(file)
        if kind == "ivf":
            self._index.parallel_mode = _THREAD_PER_QUERY  # the file does not keep it

    def renew_locks(self) -> None:
        """Have a free lock, of the search width, which the index holds."""
        self._lock = threading.Lock()

    def candidates(
        self, queries: NDArray[np.float32], k: int
    ) -> list[NDArray[np.int64]]:
        """About the ``k`` nearest rows of every query.

        One thread searches a query on its own, whatever comes with it; FAISS's others
        take other queries. So batches find what lone queries find.
        """
        with self._lock:
            if self._kind == "hnsw":
                self._index.hnsw.efSearch = max(_LEAST_WIDTH, k)
                _, rows = self._index.search(queries, k)
            else:
                rows = self._probed(queries, k)
        # -1 says that there are no more. An index that somebody has made of more keys
        # finds rows that are not ours yet.
        return [line[(line >= 0) & (line < self._n)] for line in rows]

    def prepare(self) -> None:
        """Nothing is left to do."""

    def nearest(
        self, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """About the ``k`` nearest rows of one query, and FAISS's squared distances.

        An inverted index looks at so few keys for it that it takes some milliseconds.
        """
        n_lists = self._index.nlist
        n_probes = max(1, round(_GUESSED_AMONG * n_lists / self._n))
        params = self._faiss.SearchParametersIVF(nprobe=min(n_probes, n_lists))
        with self._lock:
            distances, rows = self._index.search(query[np.newaxis], k, params=params)
        found = (rows[0] >= 0) & (rows[0] < self._n)
        return rows[0][found], distances[0][found]

    def _probed(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Search the lists whose centres are nearest."""
        quantizer, n_probes = self._index.quantizer, self._index.nprobe
        # One at a time: FAISS multiplies matrices for many, with other bits.
        with one_thread(self._faiss):
            nearest = [
                quantizer.search(line, n_probes) for line in queries[:, np.newaxis]
            ]
        distances = np.concatenate([found[0] for found in nearest])
        lists = np.concatenate([found[1] for found in nearest])
        rows: NDArray[np.int64]
        _, rows = self._index.search_preassigned(queries, k, lists, distances)
        return rows

    def _made(self, keys: NDArray[Any]) -> Any:
        faiss, dimension = self._faiss, keys.shape[1]
        float16 = faiss.ScalarQuantizer.QT_fp16
        if self._kind == "hnsw":
            return faiss.IndexHNSWSQ(dimension, float16, _LINKS)
        n_lists = max(1, int(_LISTS_PER_ROOT * np.sqrt(len(keys))))
        n_lists = min(n_lists, max(1, len(keys) // _TRAINED_PER_LIST))
        centres = faiss.IndexFlatL2(dimension)
        whole = (faiss.METRIC_L2, False)  # vectors, not their distances to a centre
        index = faiss.IndexIVFScalarQuantizer(
            centres, dimension, n_lists, float16, *whole
        )
        index.nprobe = min(_PROBES, n_lists)
        index.cp.min_points_per_centroid = 1  # no warning on stderr about few keys
        return index

    def _add(self, keys: NDArray[Any]) -> None:
        index = self._index
        if not index.is_trained:
            n_lists = getattr(index, "nlist", 1)
            step = max(1, len(keys) // (2 * _TRAINED_PER_LIST * n_lists))
            index.train(keys[::step].astype(np.float32))
        for start in range(index.ntotal, len(keys), _ROWS_ADDED):
            index.add(keys[start : start + _ROWS_ADDED].astype(np.float32))

    def _keep(self, file: Path) -> None:
        """Write the index for the next time; it serves as well where that fails."""
        try:
            with replacing_file(file) as new:
                self._faiss.write_index(self._index, str(new))
                _seal(new)
        except (OSError, RuntimeError) as error:  # FAISS raises the latter
            warnings.warn(
                f"the index is in memory only and will be made again: {str(file)!r} "
                f"cannot be written: {error}; make it once where it can",
                RuntimeWarning,
                stacklevel=2,
            )

    def _read(self, file: Path, keys: NDArray[Any]) -> Any:
        """The index that a file holds; a new one where there is no file."""
        try:
            _require_sealed(file)
            index = self._faiss.read_index(str(file))
            is_ours = type(index) is type(self._made(keys))
        except FileNotFoundError:
            return self._made(keys)
        except (OSError, RuntimeError, MemoryError) as error:
            msg = f"cannot read {str(file)!r}: {error}; delete it, and it is made anew"
            raise DatastoreError(msg) from error
        if not is_ours or index.d != keys.shape[1]:
            msg = (
                f"{str(file)!r} holds {index.ntotal} keys of {index.d} numbers in an "
                f"{type(index).__name__}, the datastore {len(keys)} of "
                f"{keys.shape[1]}; delete the file"
            )
            raise DatastoreError(msg)
        return index


def _seal(file: Path) -> None:
    """Put its checksum behind an index: FAISS may crash on a damaged one."""
    with file.open("r+b") as opened:
        digest = hashlib.file_digest(opened, "sha256").digest()
        opened.seek(0, os.SEEK_END)
        opened.write(_SEAL + digest)


def _require_sealed(file: Path) -> None:
    """Raise an ``OSError`` where an index is not as it was written."""
    n_behind = len(_SEAL) + hashlib.sha256().digest_size
    with file.open("rb") as opened:
        left = max(0, opened.seek(0, os.SEEK_END) - n_behind)
        opened.seek(left)
        behind = opened.read()
        opened.seek(0)
        digest = hashlib.sha256()
        while left and (data := opened.read(min(left, _READ_BYTES))):
            digest.update(data)
            left -= len(data)
    if behind != _SEAL + digest.digest():
        raise OSError("it is damaged, or of an earlier version")
