"""The KV of token prefixes as files, which other processes may read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.engine.heads import BOUNDARY, best_entry, digests
from langchain_ralmspec.engine.slots import Snapshot
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute, replacing_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
"""Version of what the files of a folder hold; others are not read."""

FOLDER_BYTES = 8 * 2**30
"""Disk space for the KV of prefixes, per folder."""

STALE_SECONDS = 24 * 3600
"""Age from which a temporary file is taken to be left over from a crash."""

_DATA = re.compile(r"([0-9a-f]{64})\.kv")
_ENTRY = re.compile(r"[0-9a-f]{64}\.(?:kv|json)")
_PRIVATE = 0o600
_WRITERS = stat.S_IWGRP | stat.S_IWOTH
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_HAS_OWNERS = os.name == "posix"  # elsewhere modes say nothing
# As replacing_file names what it writes to.
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.(?:kv|json)\.[0-9a-f]{16}\.tmp")


class PrefixFolder:
    """Snapshots of prefixes as files, which threads and processes may share.

    An entry is two files: ``<key>.kv`` holds the bytes, ``<key>.json`` says what they
    are. The description comes last, so an entry is whole once it is there.

    llama.cpp crashes on a damaged state, so nothing is returned that does not have its
    checksum. That guards against accidents. Against somebody who forges files guard
    the modes: a text can be guessed from its KV, so files are their owner's alone, and
    where others may write, the folder is not used.

    Nothing here makes an answer fail. What cannot be read or written, and a folder that
    others may enter, is warned about (``RuntimeWarning``); what is not read is computed
    as if there were no folder.

    Args:
        path: the folder; it is made if need be.
        fingerprint: all that the bytes depend on besides the tokens.
        max_bytes: what the ``.kv`` files may take together. After a write the least
            recently used go until they do; for a moment there is one more.
        step: tokens of a decode call, whose number entries are found by as well.

    Raises:
        InvalidValueError: there can be no such folder, or ``max_bytes`` is under 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Mapping[str, str | int],
        max_bytes: int = FOLDER_BYTES,
        step: int = 0,
    ) -> None:
        if max_bytes < 1:
            raise InvalidValueError(f"max_bytes must be at least 1, got {max_bytes}")
        try:
            self.path = absolute(path)
            # What was read is nobody else's business.
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, InvalidValueError) as error:
            msg = (
                f"cannot keep prefixes in {os.fspath(path)!r}: {error}; "
                "name a folder, or a place where one may be made"
            )
            raise InvalidValueError(msg) from error
        self._max_bytes, self._step = max_bytes, step
        self._is_used = self._is_guarded()
        self._fingerprint = dict(fingerprint)
        canonical = json.dumps(self._fingerprint, sort_keys=True, separators=(",", ":"))
        # JSON has no null byte, so no fingerprint runs over into the tokens.
        self._hash = hashlib.sha256(canonical.encode() + b"\0")
        self._writing = threading.Lock()

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
                if _ENTRY.fullmatch(path.name) and not path.is_symlink():
                    path.chmod(_PRIVATE)

    def get(self, tokens: tuple[int, ...]) -> Snapshot | None:
        """Return the snapshot of these tokens; None if there is no sound one."""
        n_tokens = len(tokens) - tokens.count(BOUNDARY)
        return self._entry(self._key(tokens), n_tokens)

    def head(
        self, tokens: tuple[int, ...], at_least: int
    ) -> tuple[Snapshot, int] | None:
        """The snapshot with most of the decode calls that these tokens begin with.

        Returns:
            It, and the number of tokens in common, ``at_least`` so many; else None.
        """
        wanted = digests(self._hash, tokens, self._step) if self._step else []
        found = best_entry(self.path.glob("*.json"), wanted) if self._is_used else None
        if found is None or found[2] * self._step < at_least:
            return None
        snapshot = self._entry(found[0], found[1])
        return (snapshot, found[2] * self._step) if snapshot else None

    def _entry(self, key: str, n_tokens: int) -> Snapshot | None:
        if not self._is_used:
            return None
        _, file = self._files(key)
        try:
            description = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"ignoring a prefix: {error}")
            return None
        try:
            state = self._read(key, n_tokens, description)
        except FileNotFoundError:
            # Another process made room. Should it do so while a third one writes the
            # same entry, a description may stay behind alone: half an entry is none.
            return None
        except (OSError, _UnusableError) as error:
            # If it has changed, another process is replacing the entry.
            with contextlib.suppress(OSError):
                if file.read_bytes() == description:
                    self._warn(
                        f"ignoring a prefix: {error}; "
                        "it will be replaced once it is computed again"
                    )
            return None
        with contextlib.suppress(OSError):  # a folder that may only be read serves, too
            os.utime(file)
        return Snapshot(n_tokens, state)

    def put(self, tokens: tuple[int, ...], snapshot: Snapshot) -> None:
        """Write a snapshot over what there may be, then make room."""
        if not self._is_used:
            return
        if snapshot.state.nbytes > self._max_bytes:
            self._warn(
                f"a prefix of {snapshot.length} tokens is not kept in {self.path}: it "
                f"needs {snapshot.state.nbytes} bytes, max_bytes is {self._max_bytes}"
            )
            return
        key = self._key(tokens)
        try:
            # One at a time, as the disk would have it anyhow.
            with self._writing:
                self._write(key, snapshot, tokens)
                self._tidy(newest=key)
        except OSError as error:
            self._warn(f"cannot keep a prefix in {self.path}: {error}")

    def _key(self, tokens: tuple[int, ...]) -> str:
        digest = self._hash.copy()
        digest.update(np.array(tokens, "<i4").tobytes())
        return digest.hexdigest()

    def _files(self, key: str) -> tuple[Path, Path]:
        """Where the data of an entry is, and its description."""
        return self.path / f"{key}.kv", self.path / f"{key}.json"

    def _identity(self, key: str, n_tokens: int) -> dict[str, object]:
        """What a description must say, whatever the data."""
        return {
            "format": FORMAT,
            "fingerprint": self._fingerprint,
            "n_tokens": n_tokens,
            "key": key,  # so that files under another's name are found out
        }

    def _read(self, key: str, n_tokens: int, description: bytes) -> NDArray[np.uint8]:
        """The data of an entry, or an ``_UnusableError`` that says what is wrong."""
        data, file = self._files(key)
        try:
            said = json.loads(description)
        except (ValueError, RecursionError) as error:
            raise _UnusableError(f"{file} is not JSON: {error}") from error
        if not isinstance(said, dict):
            raise _UnusableError(f"{file} holds no JSON object")
        for name, wanted in self._identity(key, n_tokens).items():
            if said.get(name) != wanted:
                raise _UnusableError(
                    f"{file} is for {name} {said.get(name)!r}, not {wanted!r}"
                )
        for path in (file, data):  # put there while the folder was open
            if not _is_own(path.stat()):
                raise _UnusableError(f"{path} belongs to another user")
        size = data.stat().st_size
        if size != said.get("bytes"):
            raise _UnusableError(
                f"{data} has {size} bytes instead of {said.get('bytes')!r}"
            )
        state = np.fromfile(data, np.uint8)
        # 0.14 s for 250 MB where the processor has SHA instructions, as good as all
        # have; crc32 took 0.11 s there.
        if hashlib.sha256(state.data).hexdigest() != said.get("sha256"):
            raise _UnusableError(f"{data} is damaged: its checksum is another")
        return state

    def _write(self, key: str, snapshot: Snapshot, tokens: tuple[int, ...]) -> None:
        state = np.ascontiguousarray(snapshot.state)
        description = self._identity(key, snapshot.length) | {
            "bytes": state.nbytes,
            "sha256": hashlib.sha256(state.data).hexdigest(),
            "heads": digests(self._hash, tokens, self._step) if self._step else [],
        }
        data, file = self._files(key)
        # The inner one takes its place first, so the description comes last.
        with replacing_file(file) as new_file, replacing_file(data) as new_data:
            for new in (new_file, new_data):
                new.touch(_PRIVATE, exist_ok=False)
            new_data.write_bytes(state.data)
            new_file.write_text(json.dumps(description, indent=2), encoding="utf-8")
            # Both are on the disk, so it cannot be full any more. The old description
            # goes first: it shall never stand beside new data.
            file.unlink(missing_ok=True)

    def _tidy(self, newest: str) -> None:
        """Remove what is left over from crashes, and entries until the rest fits."""
        sizes: dict[str, int] = {}
        used: dict[str, int] = {}
        for path in self.path.iterdir():
            data = _DATA.fullmatch(path.name)
            if not data and not _TEMPORARY.fullmatch(path.name):
                continue
            try:
                status = path.lstat()
            except FileNotFoundError:  # another process tidies up, too
                continue
            is_file = stat.S_ISREG(status.st_mode)
            if data and is_file:
                sizes[data[1]] = status.st_size
                try:
                    used[data[1]] = path.with_suffix(".json").stat().st_mtime_ns
                except FileNotFoundError:
                    # Data without description was never used. Its age is not 0: another
                    # process may be about to add the description.
                    used[data[1]] = status.st_mtime_ns
            elif is_file and status.st_mtime < time.time() - STALE_SECONDS:
                path.unlink(missing_ok=True)
        total = sum(sizes.values())
        # Clocks are coarse: what was just written may look as old as another.
        for key in sorted(sizes.keys() - {newest}, key=used.__getitem__):
            if total <= self._max_bytes:
                break
            for path in reversed(self._files(key)):  # the description first
                path.unlink(missing_ok=True)
            total -= sizes[key]

    @staticmethod
    def _warn(message: str) -> None:
        # The level of who called get() or put().
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _is_own(status: os.stat_result) -> bool:
    """Whether a file is this user's, or root's, who may do everything anyhow."""
    return not _HAS_OWNERS or status.st_uid in {os.geteuid(), 0}


class _UnusableError(Exception):
    """An entry that is there but must not be used."""
