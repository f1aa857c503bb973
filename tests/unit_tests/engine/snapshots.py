"""Small snapshots, and the stores that they are put into."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from langchain_ralmspec.engine.prefixes import PrefixCache
from langchain_ralmspec.engine.slots import Snapshot

SIZE = 1000
TOKENS = (1, 2, 3)
ABSENT = "0" * 64
FINGERPRINT: dict[str, str | int] = {"model": "ab12", "n_ctx": 2048}


def a_snapshot(tokens: tuple[int, ...], size: int = SIZE) -> Snapshot:
    random = np.random.default_rng(tokens)
    return Snapshot(len(tokens), random.integers(0, 256, size, np.uint8))


def a_folder(
    path: Path,
    max_bytes: int = 10 * SIZE,
    fingerprint: dict[str, str | int] | None = None,
    step: int = 0,
) -> PrefixFolder:
    return PrefixFolder(path, fingerprint or FINGERPRINT, max_bytes, step)


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
        store.put((token,), a_snapshot((token,)))


def held(store: PrefixCache | PrefixFolder) -> list[int]:
    return [token for token in range(1, 5) if store.get((token,))]


def the_file(path: Path, suffix: str) -> Path:
    (file,) = path.glob(f"*{suffix}")
    return file
