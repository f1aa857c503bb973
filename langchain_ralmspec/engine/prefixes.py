"""The KV of token prefixes, kept in memory and, on request, in a folder.

A prefix is a passage or a long document, and its KV takes seconds to minutes to compute
and up to hundreds of MB.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING

from langchain_ralmspec.engine.heads import joined, n_common, n_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_ralmspec.engine.prefix_folder import PrefixFolder
    from langchain_ralmspec.engine.slots import Snapshot


class PrefixCache:
    """Snapshots of prefixes by their tokens, safe to use from many threads.

    Memory holds at most ``max_bytes``, least recently used out first. What does not fit
    there, or has left it, is found in the folder, if there is one. It counts only if
    ``is_sound`` says that it can be restored.
    """

    def __init__(
        self,
        max_bytes: int,
        folder: PrefixFolder | None = None,
        is_sound: Callable[[Snapshot], bool] = lambda _: True,
        step: int = 0,
    ) -> None:
        self._step = step  # tokens of a decode call; 0 finds no heads
        self._max_bytes = max_bytes
        self._folder, self._is_sound = folder, is_sound
        self._bytes = 0
        self._snapshots: OrderedDict[tuple[int, ...], Snapshot] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...]) -> Snapshot | None:
        """Return the snapshot of these tokens; None if it has to be computed."""
        with self._lock:
            snapshot = self._snapshots.get(key)
            if snapshot is not None:
                self._snapshots.move_to_end(key)
                return snapshot
        if self._folder is None:
            return None
        # Without the lock: who finds theirs in memory need not wait for a disk.
        snapshot = self._sound(self._folder.get(key))
        if snapshot is not None:
            self._remember(key, snapshot)
        return snapshot

    def longest(self, parts: Sequence[Sequence[int]]) -> tuple[int, Snapshot | None]:
        """Return how many of the first parts a snapshot begins with, and that snapshot.

        One of all the parts may come from the folder, others come from memory alone.
        """
        snapshot = self.get(joined(parts))
        if snapshot is not None:
            return len(parts), snapshot
        with self._lock:
            best = max(self._snapshots, key=lambda k: n_shared(k, parts), default=())
            n = n_shared(best, parts)
            if n == 0:
                return 0, None
            self._snapshots.move_to_end(best)
            return n, self._snapshots[best]

    def head(self, key: tuple[int, ...]) -> tuple[Snapshot, int] | None:
        """A snapshot that begins as these tokens do, in whole decode calls.

        Returns:
            The one that has most of them in common, and how many; None if none has any.
        """
        if not 0 < self._step <= len(key):
            return None
        with self._lock:
            kept = list(self._snapshots.items())
        common = [
            (n_common(own, key, self._step), at) for at, (own, _) in enumerate(kept)
        ]
        n, at = max(common, default=(0, 0))
        if self._folder is not None and n + self._step <= len(key):
            found = self._folder.head(key, at_least=n + self._step)
            snapshot = self._sound(found[0] if found else None)
            if found is not None and snapshot is not None:
                return snapshot, found[1]
        return (kept[at][1], n) if n else None

    def _sound(self, snapshot: Snapshot | None) -> Snapshot | None:
        """What the folder has, if llama.cpp takes it."""
        if snapshot is None or self._is_sound(snapshot):
            return snapshot
        folder = self._folder.path if self._folder else None
        warnings.warn(
            f"ignoring a prefix: what {folder} has for {snapshot.length} tokens is not "
            "their KV; it will be replaced once it is computed again",
            RuntimeWarning,
            stacklevel=3,
        )
        return None

    def put(self, key: tuple[int, ...], snapshot: Snapshot) -> None:
        """Keep a snapshot; one that is in memory already is not written again.

        One that finds no place is warned about, unless none was wanted: it will be
        computed every time.
        """
        is_new = self._remember(key, snapshot)
        if is_new and self._folder is not None:
            self._folder.put(key, snapshot)
        elif is_new and 0 < self._max_bytes < snapshot.state.nbytes:
            warnings.warn(
                f"the KV of {snapshot.length} tokens takes {snapshot.state.nbytes} "
                f"bytes, more than kv_cache_bytes={self._max_bytes}, so it is not kept "
                "and will be computed again; raise kv_cache_bytes or set kv_cache_dir",
                RuntimeWarning,
                stacklevel=2,
            )

    def clear(self) -> None:
        """Empty the memory; the folder keeps what it has."""
        with self._lock:
            self._snapshots.clear()
            self._bytes = 0

    def _remember(self, key: tuple[int, ...], snapshot: Snapshot) -> bool:
        """Keep a snapshot in memory if it fits; return whether it was not there."""
        with self._lock:
            if key in self._snapshots:
                return False
            if snapshot.state.nbytes <= self._max_bytes:
                self._snapshots[key] = snapshot
                self._bytes += snapshot.state.nbytes
            while self._bytes > self._max_bytes:
                _, oldest = self._snapshots.popitem(last=False)
                self._bytes -= oldest.state.nbytes
            return True
