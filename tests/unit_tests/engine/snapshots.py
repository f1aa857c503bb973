"""Small snapshots, and the stores that they are put into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from langchain_ralmspec.engine.heads import Head, heads_of
from langchain_ralmspec.engine.kv import Snapshot
from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from langchain_ralmspec.engine.prefixes import PrefixCache

SIZE = 1000
ENTRY = SIZE + 300  # bytes of a file with so many in it, or a few less
TOKENS = (1, 2, 3)
ABSENT = "0" * 64
FINGERPRINT: dict[str, str | int] = {"model": "ab12", "n_ctx": 2048}


def a_snapshot(tokens: tuple[int, ...], size: int = SIZE) -> Snapshot:
    random = np.random.default_rng(tokens)
    return Snapshot(len(tokens), random.integers(0, 256, size, np.uint8))


def a_folder(
    path: Path,
    max_bytes: int = 10 * ENTRY,
    fingerprint: dict[str, str | int] | None = None,
) -> PrefixFolder:
    return PrefixFolder(path, fingerprint or FINGERPRINT, max_bytes)


def heads(store: PrefixCache | PrefixFolder, *parts: Sequence[int]) -> list[Head]:
    """The names of a prefix of these parts, of one part mostly."""
    if isinstance(store, PrefixCache):
        return store.heads(parts)
    return heads_of(parts, store.start)


def get(store: PrefixCache | PrefixFolder, *parts: Sequence[int]) -> Snapshot | None:
    """The snapshot of all the parts, and of no more."""
    wanted = heads(store, *parts)
    if isinstance(store, PrefixCache):
        n, snapshot = store.longest(wanted)
    else:
        found = store.longest(wanted)
        n, snapshot = (found.n_heads, found.snapshot) if found else (0, None)
    return snapshot if n == len(wanted) else None


def keep(
    store: PrefixCache | PrefixFolder,
    *parts: Sequence[int],
    snapshot: Snapshot | None = None,
) -> Snapshot:
    """Put a prefix, and have it written."""
    if snapshot is None:
        snapshot = a_snapshot(tuple(token for part in parts for token in part))
    store.put(heads(store, *parts), snapshot)
    store.flush()
    return snapshot


def same(one: Snapshot | None, other: Snapshot) -> bool:
    return (
        one is not None
        and one.length == other.length
        and one.state.dtype == np.uint8
        and np.array_equal(one.state, other.state)
    )


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def put(store: PrefixCache | PrefixFolder, *tokens: int) -> None:
    """Put a prefix of one token for each of these."""
    for token in tokens:
        keep(store, (token,))


def held(store: PrefixCache | PrefixFolder) -> list[int]:
    return [token for token in range(1, 5) if get(store, (token,))]


def the_file(path: Path) -> Path:
    (file,) = path.glob("*.kv")
    return file
