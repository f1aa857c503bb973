"""The datastore of a kNN-LM: what a model has seen before which token."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from langchain_ralmspec.errors import DatastoreError, InvalidValueError
from langchain_ralmspec.files import absolute
from langchain_ralmspec.knnlm.entries import (
    KEY_TYPES,
    Entries,
    Manifest,
    replacing,
    reported,
    writing,
)
from langchain_ralmspec.knnlm.faiss_index import FaissKeyIndex
from langchain_ralmspec.knnlm.keys import load_reader, read_texts
from langchain_ralmspec.knnlm.mixture import Neighbours
from langchain_ralmspec.registry import renewed_in_children
from langchain_ralmspec.scans import Scan, installed_torch

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.knnlm.entries import KeyType
    from langchain_ralmspec.knnlm.faiss_index import Kind
    from langchain_ralmspec.knnlm.keys import Progress

IndexKind = Literal["flat", "ivf", "hnsw"]
INDEX_KINDS: tuple[IndexKind, ...] = ("flat", "ivf", "hnsw")

PROBED_FROM = 20_000
"""Entries from which guesses come from probing a part of them."""

_BLOCK = 1 << 14  # keys whose distances are computed at once


class KNNDatastore:
    """Keys, the tokens that followed them, and an index over the keys.

    A key is the model's final hidden state at a token of the corpus, its value the
    token behind (arXiv 1911.00172, section 2). Entries are in corpus order. They
    take about ``tokens · dimension · 2`` bytes on disk; an exact index takes twice that
    in memory, and as much again for the scan of batches.

    Example:
        ```python
        store = KNNDatastore.build(texts, model_path="model.gguf", path="folder")
        store = KNNDatastore.load("folder")
        ```
    """

    def __init__(self, path: str | os.PathLike[str], index: IndexKind = "flat") -> None:
        _require_kind(index)
        if not isinstance(path, str | os.PathLike):
            msg = f"a datastore is opened by the path of its folder, got {path!r:.80}"
            raise InvalidValueError(msg)
        self.path = absolute(path)
        self.index_kind: IndexKind = index
        self._entries = Entries(self.path)
        self._index: Scan | FaissKeyIndex | None = None
        self._lists: FaissKeyIndex | None = None  # that are probed for guesses
        self.renew_locks()
        renewed_in_children(self)

    def renew_locks(self) -> None:
        """Have a free lock; an index that was being made is made anew."""
        self._indexing = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # As its folder, which whoever reads the pickle must have as well.
        return type(self), (self.path, self.index_kind)

    @classmethod
    def build(
        cls,
        texts: Iterable[str | Document],
        *,
        model_path: str | os.PathLike[str],
        path: str | os.PathLike[str],
        index: IndexKind = "flat",
        key_type: KeyType = "float16",
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        progress: Progress | None = None,
    ) -> Self:
        """Read texts with a model and keep what it saw.

        Args:
            texts: strings or documents; none is the context of another.
            model_path: the GGUF that will generate with this datastore.
            path: a folder; a datastore that is there is replaced once this is done.
            index: ``"flat"`` is exact, ``"ivf"`` and ``"hnsw"`` approximate.
            key_type: of the numbers on disk.
            n_threads: of a decode; None takes all cores.
            n_gpu_layers: layers on a GPU; -1 for all.
            progress: is told the number of tokens just read.

        Raises:
            InvalidValueError: the texts have no two tokens, or the folder holds
                something else, or the keys are too large for ``key_type``. A text at
                fault is named; in a list it is found before any is read.
            DatastoreError: somebody else writes to the datastore that is there, or the
                disk is full or may not be written to.
            ModelFileError: ``model_path`` is not a GGUF.
        """
        folder = absolute(path)
        with reported(folder):
            is_new = not folder.exists() or _is_empty(folder)
        if not is_new and not _is_datastore(folder):
            msg = f"{str(path)!r} holds something else; name a new folder"
            raise InvalidValueError(msg)
        if key_type not in KEY_TYPES:
            msg = f"key_type must be 'float16' or 'float32', got {key_type!r}"
            raise InvalidValueError(msg)
        _require_kind(index)
        model = load_reader(model_path, n_threads=n_threads, n_gpu_layers=n_gpu_layers)
        manifest = Manifest(
            model_sha256=model.weights.sha256,
            model_name=model.path.stem,
            dimension=model.weights.n_embd,
            key_type=key_type,
        )
        claim = nullcontext() if is_new else writing(folder)
        with claim, replacing(folder) as new:
            read_texts(new, manifest, model, texts, progress, target=folder)
        store = cls(folder, index)
        store.prepare()
        return store

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, index: IndexKind = "flat") -> Self:
        """Open a datastore; keys and tokens are mapped into memory.

        Args:
            path: the folder.
            index: ``"ivf"`` and ``"hnsw"`` are made at the first search and kept, or
                made anew every time, with a warning, where the folder is only read.

        Raises:
            DatastoreError: there is none, or a file is truncated or another one.
        """
        return cls(path, index)

    def append(
        self,
        texts: Iterable[str | Document],
        *,
        model_path: str | os.PathLike[str],
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Read more texts with the same model; arguments as for ``build()``.

        Objects that have the folder open already do not see them, but this one. They
        come behind what others have appended meanwhile. ``typical_distance`` stays as
        it was built, so that the same settings go on meaning the same.

        Raises:
            DatastoreError: another model made this datastore, or it was built anew
                since this object opened it, or somebody else writes to it, or the
                disk is full or may not be written to.
            InvalidValueError: the texts have no two tokens, or too large keys.
        """
        model = load_reader(model_path, n_threads=n_threads, n_gpu_layers=n_gpu_layers)
        self.require_model(model)
        with writing(self.path):
            manifest = Entries(self.path).manifest
            if manifest.id != self.id:
                msg = (
                    f"the datastore {str(self.path)!r} was built anew since it was "
                    "loaded; load it again"
                )
                raise DatastoreError(msg)
            read_texts(self.path, manifest, model, texts, progress, target=self.path)
            entries = Entries(self.path)
        with self._indexing:
            self._entries = entries
            self._index = self._lists = None

    def require_model(self, model: Model) -> None:
        """Raise a ``DatastoreError`` unless this model made the keys."""
        manifest = self._entries.manifest
        if model.weights.sha256 != manifest.model_sha256:
            msg = (
                f"the datastore {str(self.path)!r} was made by {manifest.model_name} "
                f"(sha256 {manifest.model_sha256[:12]}…), not by {model.path.stem} "
                f"({model.weights.sha256[:12]}…): their keys cannot be compared. Use "
                "that model, or build a datastore with this one"
            )
            raise DatastoreError(msg)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        made_by = self._entries.manifest.model_name
        return f"<KNNDatastore {str(self.path)!r}: {len(self)} entries of {made_by}>"

    @property
    def id(self) -> str:
        """Name of the build; with the number of entries, of the content."""
        return self._entries.manifest.id

    @property
    def dimension(self) -> int:
        """Length of a key."""
        return self._entries.manifest.dimension

    @property
    def typical_distance(self) -> float:
        """Median squared distance of a key to the nearest of another place."""
        return self._entries.manifest.typical_distance

    def read(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Keys and tokens of some rows, shapes ``(n, dimension)`` and ``(n,)``."""
        return self._entries.read(rows)

    def search(self, queries: NDArray[np.float32], k: int) -> list[Neighbours]:
        """Find the ``k`` nearest entries of every query, in one scan.

        Their distances and order do not depend on what is searched together.

        Args:
            queries: at least one, shape ``(n_queries, dimension)``.
            k: from 1 to the number of entries; an approximate index may find fewer.

        Raises:
            InvalidValueError: ``k`` is out of range.
            DatastoreError: a query has numbers that are not finite.
        """
        self.require(k)
        candidates = self._searched.candidates(queries, k)
        if candidates is None:
            if not np.isfinite(queries).all():
                msg = (
                    f"the datastore {str(self.path)!r} cannot be searched: the query, "
                    "the model's hidden state, has numbers that are not finite"
                )
                raise DatastoreError(msg)
            candidates = [np.arange(len(self))] * len(queries)
        return [
            self._nearest(query, rows, k)
            for query, rows in zip(queries, candidates, strict=True)
        ]

    @property
    def is_worth_probing(self) -> bool:
        """Whether a part of the keys is looked through much sooner than a search."""
        # Approximate indexes do little else in a search, and all of a few keys are
        # looked through as soon.
        return self.index_kind == "flat" and len(self) >= PROBED_FROM

    @property
    def can_probe(self) -> bool:
        """Whether it is worth probing, and ``faiss`` is installed for it."""
        return self.is_worth_probing and importlib.util.find_spec("faiss") is not None

    def probe(self, query: NDArray[np.float32], k: int) -> Neighbours:
        """About the ``k`` nearest entries of a query, much sooner than by a search.

        The query's shape is ``(dimension,)``; fewer entries may be found.
        """
        rows, distances = self._probed.nearest(query, k)
        return Neighbours(rows, distances, np.asarray(self._entries.tokens[rows]))

    def require(self, k: int) -> None:
        """Raise an ``InvalidValueError`` unless there are ``k`` entries."""
        if not isinstance(k, int | np.integer) or not 1 <= k <= len(self):
            msg = (
                f"k must be from 1 to the {len(self)} entries of the datastore "
                f"{str(self.path)!r}, got {k!r}"
            )
            raise InvalidValueError(msg)

    def prepare(self) -> None:
        """Make the indexes now, if they are not made, instead of at a search."""
        self._searched.prepare()
        if self.can_probe:
            self._probed.prepare()

    @property
    def _searched(self) -> Scan | FaissKeyIndex:
        with self._indexing:
            if self._index is None:
                if self.index_kind == "flat":
                    keys, torch = self._entries.keys, installed_torch()
                    self._index = Scan(keys, "squared_l2", torch, centred=True)
                else:
                    self._index = self._approximate(self.index_kind)
            return self._index

    @property
    def _probed(self) -> FaissKeyIndex:
        with self._indexing:
            if self._lists is None:
                self._lists = self._approximate("ivf")
            return self._lists

    def _approximate(self, kind: Kind) -> FaissKeyIndex:
        # Named for the build: an index of one that was here before is not taken.
        name = f"index-{kind}-{self.id[:8]}.faiss"
        return FaissKeyIndex(kind, self._entries.keys, self.path / name)

    def _nearest(
        self, query: NDArray[np.float32], rows: NDArray[np.int64], k: int
    ) -> Neighbours:
        """The ``k`` nearest of some rows, by distances of the keys themselves."""
        rows = np.sort(rows)
        distances = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            keys, _ = self._entries.read(rows[block])
            keys -= query
            np.square(keys, out=keys)
            # Each on its own and in one order: neither the batch nor other rows show.
            distances[block] = keys.sum(axis=1)
        order = np.argsort(distances, kind="stable")[:k]  # equals by the lower row
        nearest = rows[order]
        tokens = np.asarray(self._entries.tokens[nearest])
        return Neighbours(nearest, distances[order], tokens)


def _require_kind(index: str) -> None:
    if index not in INDEX_KINDS:
        msg = f"index must be one of {', '.join(INDEX_KINDS)}, got {index!r}"
        raise InvalidValueError(msg)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _is_datastore(folder: Path) -> bool:
    try:
        Manifest.read(folder)
    except DatastoreError:
        return False
    return True
