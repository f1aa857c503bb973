"""The KV of token prefixes, kept in memory and, on request, in a folder.

A prefix is a passage or a long document, and its KV takes a second to minutes to
compute and up to hundreds of MB.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.engine.heads import heads_of, start_within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_ralmspec.engine.heads import Head
    from langchain_ralmspec.engine.kv import Snapshot
    from langchain_ralmspec.engine.prefix_folder import PrefixFolder


@dataclass(slots=True)
class _Kept:
    """A snapshot in memory.

    Attributes:
        snapshot: the KV itself.
        heads: the keys of what it begins with; the last one is its own.
        n_uses: how often it was of use, the first time included.
        rank: the lowest leaves first.
    """

    snapshot: Snapshot
    heads: tuple[bytes, ...]
    n_uses: int
    rank: int


class PrefixCache:
    """Snapshots of prefixes by their tokens, safe to use from many threads.

    Memory holds at most ``max_bytes``. Out goes first what was used least often, where
    uses of long ago count for little (GreedyDual-Size-Frequency: of one model, what a
    snapshot takes to compute is as its size, so neither of them matters). What does not
    fit there, or has left it, is found in the folder, if there is one. It counts only
    if ``is_sound`` says that it can be restored.
    """

    def __init__(
        self,
        max_bytes: int,
        folder: PrefixFolder | None = None,
        is_sound: Callable[[Snapshot], bool] = lambda _: True,
    ) -> None:
        self._max_bytes = max_bytes
        self._folder = folder if folder is not None and folder.is_used else None
        self._is_sound = is_sound
        self._bytes = self._age = 0
        # By their keys, the least recently used first.
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        # The keys of all that begins with a head.
        self._by_head: dict[bytes, dict[bytes, None]] = {}
        self._lock = threading.Lock()

    def heads(
        self, parts: Sequence[Sequence[int]], namespace: str | None = None
    ) -> list[Head]:
        """The names under which a prefix, and what it begins with, is found.

        Those of one namespace are never those of another.
        """
        start = self._folder.start if self._folder else b""
        return heads_of(parts, start_within(namespace, start))

    def longest(
        self, heads: Sequence[Head], *, whole: bool = False
    ) -> tuple[int, Snapshot | None]:
        """The snapshot that begins with most of the first parts of a prefix.

        It may be longer than they are, unless it has to serve as a ``whole``.

        Returns:
            How many parts that is, and the snapshot; 0 and None where there is none.
        """
        n, snapshot = self._in_memory(heads, whole=whole)
        if n == len(heads) or self._folder is None:
            return n, snapshot
        # Without the lock: who finds theirs in memory need not wait for a disk.
        found = self._folder.longest(heads, more_than=n, whole=whole)
        if found is None or not self._can_be_restored(found.snapshot):
            return n, snapshot
        self._remember(found.heads, found.snapshot)
        return found.n_heads, found.snapshot

    def _in_memory(
        self, heads: Sequence[Head], *, whole: bool
    ) -> tuple[int, Snapshot | None]:
        with self._lock:
            for n in range(len(heads), 0, -1):
                own = heads[n - 1].key
                longer = self._by_head.get(own)
                if own in self._kept:  # nothing is copied in vain
                    key = own
                elif longer and not whole:
                    key = next(reversed(longer))
                else:
                    continue
                kept = self._kept[key]
                self._kept.move_to_end(key)
                kept.n_uses += 1
                kept.rank = self._age + kept.n_uses
                return n, kept.snapshot
        return 0, None

    def _can_be_restored(self, snapshot: Snapshot) -> bool:
        """Whether llama.cpp takes what the folder has; warns where it does not."""
        if self._is_sound(snapshot):
            return True
        folder = self._folder.path if self._folder else None
        warnings.warn(
            f"ignoring a prefix: what {folder} has for {snapshot.length} tokens is not "
            "their KV; it will be replaced once it is computed again",
            RuntimeWarning,
            stacklevel=3,
        )
        return False

    def put(self, heads: Sequence[Head], snapshot: Snapshot) -> None:
        """Keep the snapshot of a prefix; the folder has it as soon as it is written.

        One that finds no place is warned about, unless none was wanted: it will be
        computed every time.
        """
        self._remember([head.key for head in heads], snapshot)
        if self._folder is not None:
            self._folder.put(heads, snapshot)
        elif 0 < self._max_bytes < snapshot.state.nbytes:
            warnings.warn(
                f"the KV of {snapshot.length} tokens takes {snapshot.state.nbytes} "
                f"bytes, more than kv_cache_bytes={self._max_bytes}, so it is not kept "
                "and will be computed again; raise kv_cache_bytes or set kv_cache_dir",
                RuntimeWarning,
                stacklevel=2,
            )

    def keeps(self, heads: Sequence[Head]) -> bool:
        """Whether the KV of all the parts is there: in the folder, if there is one."""
        if self._folder is not None:
            return self._folder.keeps(heads)
        with self._lock:
            return heads[-1].key in self._by_head

    @property
    def has_folder(self) -> bool:
        """Whether there is a folder, and it is one that may be used."""
        return self._folder is not None

    @property
    def room(self) -> int:
        """Bytes that are kept at most, in the folder if there is one."""
        return self._folder.max_bytes if self._folder else self._max_bytes

    def flush(self) -> None:
        """Wait until the folder has all that was put."""
        if self._folder is not None:
            self._folder.flush()

    def clear(self) -> None:
        """Empty the memory; the folder keeps what it has."""
        with self._lock:
            self._kept.clear()
            self._by_head.clear()
            self._bytes = 0

    def _remember(self, heads: Sequence[bytes], snapshot: Snapshot) -> None:
        """Keep a snapshot in memory if it fits."""
        key, size = heads[-1], snapshot.state.nbytes
        with self._lock:
            if key in self._kept or size > self._max_bytes:
                return
            while self._bytes + size > self._max_bytes:
                self._drop_least()
            self._kept[key] = _Kept(snapshot, tuple(heads), 1, self._age + 1)
            self._bytes += size
            for head in heads:
                self._by_head.setdefault(head, {})[key] = None

    def _drop_least(self) -> None:
        # Of equals the least recently used, which comes first.
        key = min(self._kept, key=lambda key: self._kept[key].rank)
        kept = self._kept.pop(key)
        self._age = kept.rank
        self._bytes -= kept.snapshot.state.nbytes
        for head in kept.heads:
            del self._by_head[head][key]
            if not self._by_head[head]:
                del self._by_head[head]
