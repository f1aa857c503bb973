"""How much a folder of prefixes takes, and what leaves it first."""

from __future__ import annotations

import contextlib
import heapq
import json
import re
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_OF_A_LINE = 2**24
"""Bytes of an entry's first line; that of a million tokens has 0.3 MB."""

STALE_SECONDS = 24 * 3600
"""Age from which a temporary file is taken to be left over from a crash."""

ENTRY = re.compile(r"([0-9a-f]{64})\.(?:kv|head)")
"""Names of files that are ours."""

_DATA = re.compile(r"([0-9a-f]{64})\.kv")
# As replacing_file names what it writes to.
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.(?:kv|head)\.[0-9a-f]{16}\.tmp")


class FolderRoom:
    """Keeps the entries of a folder within its bytes: the least recently used go first.

    The folder is listed when others have changed it, and not at every write: what else
    is known comes from its own writes. One thread at a time may use it.

    Which entries are used how often is not counted: that would have to be written at
    each use, where a time stamp is enough for the least recently used.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._sizes: dict[str, int] = {}
        # When each was used, as far as is known, the oldest first.
        self._order: list[tuple[int, str]] = []
        self._changed = -1  # when the folder was, as far as is known

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[None]:
        """Make room once the block has written an entry; that one stays."""
        # What another process writes in the same tick of the clock as this one is seen
        # at the next change.
        is_known = self._path.stat().st_mtime_ns == self._changed
        yield
        if is_known:
            status = self._file(key).stat()
            self._note(key, status.st_size, status.st_mtime_ns)
        else:
            self._list()
        self._shrink(key)
        self._changed = self._path.stat().st_mtime_ns

    def _file(self, key: str) -> Path:
        return self._path / f"{key}.kv"

    def _note(self, key: str, size: int, used: int) -> None:
        self._sizes[key] = size
        heapq.heappush(self._order, (used, key))

    def _list(self) -> None:
        """See which entries there are, and remove what is left over from crashes."""
        self._sizes, self._order = {}, []
        for path in self._path.iterdir():
            data = _DATA.fullmatch(path.name)
            if not data and not _TEMPORARY.fullmatch(path.name):
                continue
            try:
                status = path.lstat()
            except FileNotFoundError:  # another process tidies up, too
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if data:
                self._note(data[1], status.st_size, status.st_mtime_ns)
            elif status.st_mtime < time.time() - STALE_SECONDS:
                path.unlink(missing_ok=True)

    def _shrink(self, newest: str) -> None:
        """Remove entries until the rest fits."""
        total, later = sum(self._sizes.values()), []
        while total > self._max_bytes and self._order:
            used, key = heapq.heappop(self._order)
            if key not in self._sizes:  # written twice, and removed since
                continue
            if key == newest:  # clocks are coarse, and may disagree
                later.append((used, key))
                continue
            try:
                really = self._file(key).stat().st_mtime_ns
            except FileNotFoundError:
                total -= self._sizes.pop(key)
                continue
            if really > used:
                heapq.heappush(self._order, (really, key))
                continue
            self._remove(key)
            total -= self._sizes.pop(key)
        for each in later:
            heapq.heappush(self._order, each)

    def _remove(self, key: str) -> None:
        """Remove an entry, and what names it for its heads."""
        file = self._file(key)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with file.open("rb") as opened:
                heads = json.loads(opened.readline(MOST_OF_A_LINE))["heads"]
            for head in heads[:-1]:
                name = self._path / f"{head}.head"
                if ENTRY.fullmatch(name.name) and name.read_text("ascii") == key:
                    name.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
