"""Entries that make a datastore as large as wanted, and cost no reading of texts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore
from langchain_ralmspec.knnlm.entries import EntryWriter, Manifest

_SEED = 20240125
_ROWS = 1 << 15  # written at a time
_SAMPLE = 1 << 14  # keys that tell mean and deviation
# With the keys' own deviation noise is nearer to most queries than the 256th of 6,000
# entries is; with twice that, still to some than the 1,024th.
_SPREAD = 3.0


def check_entries(store: KNNDatastore, n_entries: int | None) -> None:
    """Refuse a size that a datastore exceeds, or the disk has no room for.

    None is the datastore's own.
    """
    if n_entries is None or n_entries == len(store):
        return
    if n_entries < len(store):
        raise InvalidValueError(
            f"the datastore {str(store.path)!r} has {len(store)} entries already, "
            f"got --entries {n_entries}"
        )
    manifest = Manifest.read(store.path)
    a_row = manifest.dimension * np.dtype(manifest.key_type).itemsize + 4
    free = shutil.disk_usage(store.path).free
    if n_entries * a_row > free:
        raise InvalidValueError(
            f"{n_entries} entries take {n_entries * a_row / 1e9:.1f} GB beside "
            f"{str(store.path)!r}, where {free / 1e9:.1f} GB are free"
        )


@contextmanager
def distracted(store: KNNDatastore, n_entries: int | None) -> Iterator[Path]:
    """Give a folder with a datastore's entries, and noise behind them, ``n_entries``.

    Noise keys have the mean and three times the deviations of the real ones, number
    by number, so that none is ever a neighbour; their tokens are real ones, drawn at
    random. The folder lies beside that of the datastore and is removed in the end;
    without noise (``n_entries`` is None) it is the datastore's own.
    """
    if n_entries is None or n_entries == len(store):
        yield store.path
        return
    with tempfile.TemporaryDirectory(
        prefix=f".{store.path.name}.", dir=store.path.parent
    ) as name:
        folder = Path(name)
        manifest = replace(Manifest.read(store.path), n_entries=0)
        writer = EntryWriter(folder, manifest)
        try:
            with bar("adding distractors") as advance:
                for keys, tokens in _entries(store, n_entries):
                    writer.add(keys, tokens)
                    advance(writer.n_entries, n_entries)
        finally:
            writer.close()
        replace(manifest, n_entries=n_entries).write(folder)
        yield folder


def _entries(
    store: KNNDatastore, n_entries: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """The real entries, and noise behind them."""
    n_real = len(store)
    for first in range(0, n_real, _ROWS):
        yield store.read(np.arange(first, min(first + _ROWS, n_real)))
    sample, _ = store.read(np.arange(0, n_real, max(1, n_real // _SAMPLE)))
    mean, deviation = sample.mean(axis=0), _SPREAD * sample.std(axis=0)
    random = np.random.default_rng(_SEED)
    for first in range(n_real, n_entries, _ROWS):
        n_rows = min(_ROWS, n_entries - first)
        size = n_rows, store.dimension
        keys = random.standard_normal(size, dtype=np.float32) * deviation + mean
        _, tokens = store.read(random.integers(n_real, size=n_rows))
        yield keys, tokens
