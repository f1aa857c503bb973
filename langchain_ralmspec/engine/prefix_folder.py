"""The KV of token prefixes as files, which other processes may read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.engine.folder_room import ENTRY, MOST_OF_A_LINE, FolderRoom
from langchain_ralmspec.engine.kv import Snapshot
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute, is_file, replacing_file

if TYPE_CHECKING:
    from io import BufferedReader

    from langchain_ralmspec.engine.heads import Head

FORMAT = 2
"""Version of what the files of a folder hold; others are not read."""

FOLDER_BYTES = 8 * 2**30
"""Disk space for the KV of prefixes, per folder."""

WAITING_BYTES = 256 * 2**20
"""Memory for what waits to be written: what a model of 135 M parameters reads in a
minute, at 23 KB a token. A disk that is slower than that gets less."""

_KEY = re.compile(r"[0-9a-f]{64}")
_PRIVATE = 0o600
_WRITERS = stat.S_IWGRP | stat.S_IWOTH
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# What is wrong with a path; all else is with what it lies on, and may pass.
_MISNAMED = {errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR}
_HAS_OWNERS = os.name == "posix"  # elsewhere modes say nothing


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """An entry of a folder that begins as some prefix does.

    Attributes:
        n_heads: parts that both begin with.
        heads: keys of what the entry begins with; the last one is its own.
        snapshot: its KV.
    """

    n_heads: int
    heads: list[bytes]
    snapshot: Snapshot


class PrefixFolder:
    """Snapshots of prefixes as files, which threads and processes may share.

    An entry is a file, ``<key>.kv``: a line of JSON that says what it is, and the
    bytes. For what it begins with, ``<key of a head>.head`` names it; so a look-up
    opens a file or two for each part of a prefix, however many entries there are. What
    is put is written by a thread of the folder's own, and found from then on.

    llama.cpp crashes on a damaged state, so nothing is returned that does not have its
    checksum. That guards against accidents. Against somebody who forges files guard
    the modes: a text can be guessed from its KV, so files are their owner's alone, and
    where others may write, the folder is not used.

    Nothing here makes an answer fail. What cannot be read or written, and a folder that
    others may enter, is warned about (``RuntimeWarning``); what is not read is computed
    as if there were no folder.

    Attributes:
        path: the folder.
        is_used: whether anything is read or written there.
        start: where the keys of heads begin; see :func:`heads_of`.
        max_bytes: as below.

    Args:
        path: the folder; it is made if need be.
        fingerprint: all that the bytes depend on besides the tokens.
        max_bytes: what entries may take together. After a write the least recently used
            go until they do; for a moment there is one more.

    Raises:
        InvalidValueError: there can be no such folder, or ``max_bytes`` is under 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Mapping[str, str | int],
        max_bytes: int = FOLDER_BYTES,
    ) -> None:
        if max_bytes < 1:
            raise InvalidValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.max_bytes = max_bytes
        wanted = "name a folder, or a place where one may be made"
        try:
            self.path = absolute(path)
            # What was read is nobody else's business.
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.is_used = self._is_guarded()
        except (OSError, InvalidValueError) as error:
            msg = f"cannot keep prefixes in {os.fspath(path)!r}: {error}; {wanted}"
            if getattr(error, "errno", errno.ENOENT) in _MISNAMED:
                raise InvalidValueError(msg) from error
            self.is_used = False
            self._warn(msg)
        self._fingerprint = dict(fingerprint)
        canonical = json.dumps(self._fingerprint, sort_keys=True, separators=(",", ":"))
        self.start = hashlib.sha256(canonical.encode()).digest()
        self._room = FolderRoom(self.path, max_bytes)
        self._waiting: dict[bytes, FoundEntry] = {}  # to be written, in order
        self._lock = threading.Lock()
        # It ends with the folder, and the interpreter with what it has to write.
        self._writer = ThreadPoolExecutor(1, "write-prefixes")

    def _is_guarded(self) -> bool:
        """Whether nobody else may write to the folder; warns if others may enter it."""
        status = self.path.stat()
        mode = f"{self.path} has the mode {stat.S_IMODE(status.st_mode):03o}"
        if _HAS_OWNERS and (status.st_mode & _WRITERS or not _is_own(status)):
            self._warn(
                f"no prefix is kept in {self.path}: others can put files there; run "
                f"chmod 700 on it if it is yours ({mode}), or name a folder in it, "
                "which will be made for you alone"
            )
            return False
        if _HAS_OWNERS and status.st_mode & _OTHERS:
            self._warn(
                f"{mode}, so others can see which prefixes are kept there; run chmod "
                "700 on it"
            )
            self._close_files()
        return True

    def _close_files(self) -> None:
        """Take what was written for all to read, as it once was, from others."""
        with contextlib.suppress(OSError):  # another's, or of a disk that is only read
            for path in self.path.iterdir():
                if ENTRY.fullmatch(path.name) and not path.is_symlink():
                    path.chmod(_PRIVATE)

    def longest(
        self, heads: Sequence[Head], *, more_than: int = 0, whole: bool = False
    ) -> FoundEntry | None:
        """The sound entry that begins with most of some heads; None if there is none.

        It begins with more of them than ``more_than``, and with ``whole`` ends there.
        """
        if not self.is_used:
            return None
        tried: set[str | None] = set()
        for n in range(len(heads), more_than, -1):
            if (waiting := self._waiting.get(heads[n - 1].key)) is not None:
                return waiting
            own = heads[n - 1].key.hex()
            for key in (own, None if whole else self._named_by(own)):
                if key is None or key in tried:
                    continue
                tried.add(key)
                if (found := self._entry(key, heads[:n])) is not None:
                    return found
        return None

    def keeps(self, heads: Sequence[Head]) -> bool:
        """Whether there is an entry of all heads; then it counts as used just now."""
        if not self.is_used:
            return False
        key = heads[-1].key
        try:
            os.utime(self._file(key.hex()))
        except FileNotFoundError:
            return key in self._waiting
        except OSError:  # a folder that may only be read
            return is_file(self._file(key.hex()))
        return True

    def _file(self, key: str) -> Path:
        return self.path / f"{key}.kv"

    def _named_by(self, head: str) -> str | None:
        """The key of an entry that begins with a head and goes on."""
        try:
            name = (self.path / f"{head}.head").read_text("ascii")
        except (OSError, ValueError):
            return None
        return name if _KEY.fullmatch(name) else None

    def _entry(self, key: str, heads: Sequence[Head]) -> FoundEntry | None:
        file = self._file(key)
        try:
            # Another process may put another file there: this one stays as it is.
            with file.open("rb") as opened:
                found = self._read(opened, key, heads)
        except FileNotFoundError:
            return None
        except (OSError, _UnusableError) as error:
            self._warn(
                f"ignoring a prefix: {file}: {error}; it will be replaced once it is "
                "computed again"
            )
            return None
        with contextlib.suppress(OSError):  # a folder that may only be read serves, too
            os.utime(file)
        return found

    def _read(
        self, file: BufferedReader, key: str, heads: Sequence[Head]
    ) -> FoundEntry:
        """An entry, or an ``_UnusableError`` that says what is wrong."""
        status = os.fstat(file.fileno())
        if not _is_own(status):  # put there while the folder was open
            raise _UnusableError("it belongs to another user")
        said = _described(file.readline(MOST_OF_A_LINE))
        own, names = said["heads"], [head.key.hex() for head in heads]
        is_longer = key != names[-1]
        wanted = {
            "format": FORMAT,
            "fingerprint": self._fingerprint,
            # The last one is its name, so that files under another's are found out.
            "heads": [*names, *own[len(names) : -1], key] if is_longer else names,
            "n_tokens": said["n_tokens"] if is_longer else heads[-1].length,
        }
        for name, value in wanted.items():
            if said.get(name) != value:
                raise _UnusableError(
                    f"it is for {name} {said.get(name)!r}, not {value!r}"
                )
        if is_longer and not said["n_tokens"] > heads[-1].length:
            raise _UnusableError("it is shorter than what it begins with")
        size = status.st_size - file.tell()
        if size != said.get("bytes"):
            raise _UnusableError(f"has {size} bytes instead of {said.get('bytes')!r}")
        state = np.empty(size, np.uint8)
        file.readinto(state.data)
        # 0.14 s for 250 MB where the processor has SHA instructions, as good as all
        # have; crc32 took 0.11 s there.
        if hashlib.sha256(state.data).hexdigest() != said.get("sha256"):
            raise _UnusableError("it is damaged: its checksum is another")
        keys = [bytes.fromhex(name) for name in own]
        return FoundEntry(len(heads), keys, Snapshot(said["n_tokens"], state))

    def put(self, heads: Sequence[Head], snapshot: Snapshot) -> None:
        """Have a snapshot written, over what there may be."""
        if not self.is_used:
            return
        if snapshot.state.nbytes > self.max_bytes:
            self._warn(
                f"a prefix of {snapshot.length} tokens is not kept in {self.path}: it "
                f"needs {snapshot.state.nbytes} bytes, max_bytes is {self.max_bytes}"
            )
            return
        key = heads[-1].key
        entry = FoundEntry(len(heads), [head.key for head in heads], snapshot)
        with self._lock:
            waiting = [each.snapshot.state.nbytes for each in self._waiting.values()]
            # One that is larger than all the room is written where none waits.
            is_late = sum([snapshot.state.nbytes, *waiting]) > WAITING_BYTES
            if key in self._waiting or (waiting and is_late):
                return
            self._waiting[key] = entry
        try:
            self._writer.submit(self._write_next, key)
        except RuntimeError:  # the interpreter is going down
            with self._lock:
                del self._waiting[key]

    def flush(self) -> None:
        """Wait until all that was put is written."""
        with contextlib.suppress(RuntimeError):  # as above
            self._writer.submit(int).result()

    def _write_next(self, key: bytes) -> None:
        entry = self._waiting[key]
        try:
            with self._room.writing(key.hex()):
                self._write(entry)
        except Exception as error:  # noqa: BLE001  nobody looks at the writer's future
            why = error if isinstance(error, OSError) else repr(error)
            self._warn(f"cannot keep a prefix in {self.path}: {why}")
        finally:
            with self._lock:
                del self._waiting[key]

    def _write(self, entry: FoundEntry) -> None:
        state = np.ascontiguousarray(entry.snapshot.state)
        *heads, key = (head.hex() for head in entry.heads)
        description = {
            "format": FORMAT,
            "fingerprint": self._fingerprint,
            "n_tokens": entry.snapshot.length,
            "bytes": state.nbytes,
            "sha256": hashlib.sha256(state.data).hexdigest(),
            "heads": [*heads, key],
        }
        with replacing_file(self._file(key)) as new:
            new.touch(_PRIVATE, exist_ok=False)
            with new.open("wb") as file:
                file.write(json.dumps(description).encode() + b"\n")
                file.write(state.data)
        for head in heads:
            with replacing_file(self.path / f"{head}.head") as new:
                new.touch(_PRIVATE, exist_ok=False)
                new.write_text(key, "ascii")

    @staticmethod
    def _warn(message: str) -> None:
        # The level of who called longest() or put().
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _described(line: bytes) -> dict[str, Any]:
    """The description of an entry, with heads and a number of tokens in it."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _UnusableError(f"its first line is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise _UnusableError("its first line holds no JSON object")
    heads, n_tokens = said.get("heads"), said.get("n_tokens")
    if not isinstance(heads, list) or not all(
        isinstance(head, str) and _KEY.fullmatch(head) for head in heads
    ):
        raise _UnusableError(f"it is for heads {heads!r:.80}, which are none")
    if len({*heads}) < len(heads):
        raise _UnusableError(f"it is for heads {heads!r:.80}, one of them twice")
    if not isinstance(n_tokens, int):
        raise _UnusableError(f"it is for n_tokens {n_tokens!r}")
    return said


def _is_own(status: os.stat_result) -> bool:
    """Whether a file is this user's, or root's, who may do everything anyhow."""
    return not _HAS_OWNERS or status.st_uid in {os.geteuid(), 0}


class _UnusableError(Exception):
    """An entry that is there but must not be used."""
