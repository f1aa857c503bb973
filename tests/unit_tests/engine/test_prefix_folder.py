from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_ralmspec.engine import prefix_folder
from langchain_ralmspec.engine.kv import Snapshot
from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from langchain_ralmspec.engine.prefixes import PrefixCache
from langchain_ralmspec.errors import InvalidValueError
from tests.unit_tests.engine.snapshots import (
    ABSENT,
    FINGERPRINT,
    SIZE,
    TOKENS,
    a_folder,
    a_snapshot,
    get,
    heads,
    keep,
    names,
    same,
    the_file,
)

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def folder(tmp_path: Path) -> PrefixFolder:
    return a_folder(tmp_path)


# --- the folder: what it finds


@pytest.mark.parametrize("size", [0, 1, SIZE])
@pytest.mark.parametrize("step", [1, 2], ids=["dense", "with gaps in memory"])
@pytest.mark.parametrize("parts", [[()], [(0,)], [TOKENS], [(2**31 - 1,), (0,)]])
def test_the_folder_returns_what_was_put(
    tmp_path: Path, size: int, step: int, parts: list[tuple[int, ...]]
) -> None:
    state = np.random.default_rng(0).integers(0, 256, step * size, np.uint8)[::step]
    kept = Snapshot(sum(map(len, parts)), state)
    keep(a_folder(tmp_path), *parts, snapshot=kept)
    assert same(get(a_folder(tmp_path), *parts), kept)


def test_an_entry_is_a_line_that_can_be_read_and_the_bytes(tmp_path: Path) -> None:
    kept = keep(a_folder(tmp_path), TOKENS)
    data = the_file(tmp_path)
    assert names(tmp_path) == {data.name}
    line, state = data.read_bytes().split(b"\n", 1)
    assert state == kept.state.tobytes()
    said = json.loads(line)
    assert said["fingerprint"] == FINGERPRINT
    assert (said["n_tokens"], said["bytes"]) == (3, SIZE)
    assert said["heads"] == [data.stem]


@pytest.mark.parametrize(
    ("fingerprint", "tokens", "is_there"),
    [
        *[(FINGERPRINT, other, False) for other in ((1, 2), (1, 2, 4), (3, 2, 1))],
        (FINGERPRINT, (1, 2, 3, 0), False),
        ({"model": "ab12", "n_ctx": 2049}, TOKENS, False),
        ({"model": "ab12", "n_ctx": "2048"}, TOKENS, False),
        ({"model": "ab12"}, TOKENS, False),
        (FINGERPRINT | {"version": 1}, TOKENS, False),
        (dict(reversed(FINGERPRINT.items())), TOKENS, True),  # the order is nothing
    ],
)
def test_other_tokens_and_other_fingerprints_are_absent(
    folder: PrefixFolder,
    fingerprint: dict[str, str | int],
    tokens: tuple[int, ...],
    is_there: bool,
) -> None:
    keep(folder, TOKENS)
    found = get(a_folder(folder.path, fingerprint=fingerprint), tokens)
    assert (found is not None) == is_there


# --- the folder: what it refuses


def edited(**changes: object) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps(json.loads(line) | changes).encode()


def without(name: str) -> Callable[[bytes], bytes]:
    def change(line: bytes) -> bytes:
        said = json.loads(line)
        del said[name]
        return json.dumps(said).encode()

    return change


def flip_a_bit(data: bytes) -> bytes:
    return data[: SIZE // 2] + bytes([data[SIZE // 2] ^ 1]) + data[SIZE // 2 + 1 :]


LINE, STATE = 0, 1


@pytest.mark.parametrize(
    ("damaged", "change", "reason"),
    [
        (STATE, lambda data: data[:-1], "has 999 bytes instead of 1000"),
        (STATE, lambda data: data + b"x", "has 1001 bytes instead of 1000"),
        (STATE, lambda _: b"", "has 0 bytes instead of 1000"),
        (STATE, flip_a_bit, "damaged"),
        (LINE, lambda _: b"", "not JSON"),
        (LINE, lambda _: b'{"format": 1', "not JSON"),
        (LINE, lambda _: b"\xff\xfe\x00", "not JSON"),
        (LINE, lambda _: b"[" * 100_000, "not JSON"),
        (LINE, lambda _: b"[1]", "no JSON object"),
        (LINE, lambda _: b"{}", "heads None"),
        (LINE, edited(format=1), "format 1, not 2"),
        (LINE, edited(fingerprint=7), "fingerprint 7"),
        (LINE, edited(n_tokens=4), "n_tokens 4, not 3"),
        (LINE, edited(n_tokens="3"), "n_tokens '3'"),
        (LINE, edited(heads=[]), r"heads \[\], not"),
        (LINE, edited(heads=[7]), r"heads \[7\]"),
        (LINE, edited(heads=["x"]), r"heads \['x'\]"),
        (LINE, edited(heads=[ABSENT]), "heads"),
        (LINE, edited(bytes=7), "bytes instead of 7"),
        (LINE, edited(sha256=ABSENT), "damaged"),
        (LINE, without("bytes"), "instead of None"),
        (LINE, without("sha256"), "damaged"),
    ],
)
def test_a_damaged_entry_is_reported_ignored_and_repaired(
    tmp_path: Path, damaged: int, change: Callable[[bytes], bytes], reason: str
) -> None:
    keep(a_folder(tmp_path), TOKENS)
    file = the_file(tmp_path)
    parts = file.read_bytes().split(b"\n", 1)
    parts[damaged] = change(parts[damaged])
    file.write_bytes(b"\n".join(parts))
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))

    with pytest.warns(RuntimeWarning, match=f"ignoring a prefix.*{reason}") as caught:
        assert get(cache, TOKENS) is None

    assert len(caught) == 1
    assert str(file) in str(caught[0].message)

    keep(cache, TOKENS)
    assert same(get(a_folder(tmp_path), TOKENS), a_snapshot(TOKENS))


@pytest.mark.parametrize(
    ("fingerprint", "tokens", "snapshot", "reason"),
    [
        ({"model": "cd"}, TOKENS, TOKENS, "fingerprint {'model': 'cd'}, not"),
        (FINGERPRINT, (7, 8, 9), (7, 8, 9), "is for heads"),
        (FINGERPRINT, TOKENS, (1, 2), "n_tokens 2, not 3"),
    ],
    ids=["another model", "other tokens", "another length"],
)
def test_files_copied_from_another_entry_are_found_out(
    folder: PrefixFolder,
    fingerprint: dict[str, str | int],
    tokens: tuple[int, ...],
    snapshot: tuple[int, ...],
    reason: str,
) -> None:
    path = folder.path
    other = a_folder(path, fingerprint=fingerprint)
    keep(other, tokens, snapshot=a_snapshot(snapshot))
    (head,) = heads(folder, TOKENS)
    the_file(path).rename(path / f"{head.key.hex()}.kv")
    with pytest.warns(RuntimeWarning, match=reason):
        assert get(folder, TOKENS) is None


def test_an_entry_that_is_replaced_while_it_is_read_stays_what_it_was(
    folder: PrefixFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(folder, TOKENS)
    read, other = folder._read, a_snapshot((7, 8, 9))

    def read_late(*args: Any) -> Any:
        keep(a_folder(folder.path), TOKENS, snapshot=other)  # another process
        return read(*args)

    with monkeypatch.context() as late:
        late.setattr(folder, "_read", read_late)
        assert same(get(folder, TOKENS), a_snapshot(TOKENS))
    assert same(get(folder, TOKENS), other)


def test_an_entry_that_cannot_be_read_is_reported(folder: PrefixFolder) -> None:
    (head,) = heads(folder, TOKENS)
    (folder.path / f"{head.key.hex()}.kv").mkdir()
    with pytest.warns(RuntimeWarning, match="directory"):
        assert get(folder, TOKENS) is None


def test_a_folder_that_may_only_be_read_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(a_folder(tmp_path), TOKENS)
    read_only = PermissionError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(os, "utime", refusing(read_only))
    assert get(a_folder(tmp_path), TOKENS)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_mount_that_is_gone_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    gone = OSError(number, os.strerror(number))
    monkeypatch.setattr(Path, "mkdir", refusing(gone))
    with pytest.warns(RuntimeWarning, match=os.strerror(number)):
        cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    keep(cache, TOKENS)
    assert get(cache, TOKENS)


# --- the folder: writing


class FullFile(io.FileIO):
    """A file on a disk that has room for some bytes."""

    def write(self, data: object) -> int:
        super().write(b"some")
        raise NO_SPACE


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = io.open

    def opened(file: str, mode: str = "r", *args: object, **kwargs: object) -> object:
        if "w" in mode or "x" in mode:
            return FullFile(file, mode.replace("b", ""))
        return real(file, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(io, "open", opened)


def refusing(error: OSError) -> Callable[..., None]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    return refuse


def no_replacing(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(os, "replace", refusing(denied))


@pytest.mark.parametrize("trouble", [full_disk, no_replacing])
def test_what_cannot_be_written_is_reported_and_does_without(
    tmp_path: Path, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    with pytest.MonkeyPatch.context() as monkeypatch:
        trouble(monkeypatch)
        with pytest.warns(RuntimeWarning, match="No space|Permission") as caught:
            keep(cache, TOKENS)

    assert str(tmp_path) in str(caught[0].message)
    assert get(cache, TOKENS)
    assert not names(tmp_path)
    cache.clear()
    keep(cache, TOKENS)
    assert same(get(a_folder(tmp_path), TOKENS), a_snapshot(TOKENS))


@pytest.mark.parametrize("trouble", [full_disk, no_replacing])
def test_what_cannot_be_written_leaves_the_older_entry(
    folder: PrefixFolder, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    keep(folder, TOKENS)
    with pytest.MonkeyPatch.context() as monkeypatch:
        trouble(monkeypatch)
        with pytest.warns(RuntimeWarning, match="No space|Permission"):
            keep(folder, TOKENS, snapshot=a_snapshot((7, 8, 9)))
    assert same(get(folder, TOKENS), a_snapshot(TOKENS))


def test_no_answer_waits_for_the_disk(
    folder: PrefixFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is found, is written once, and is written in the end."""
    written, disk = [], threading.Event()
    write = folder._write

    def slow(entry: Any) -> None:
        assert disk.wait(60)
        written.append(entry.snapshot.length)
        write(entry)

    monkeypatch.setattr(folder, "_write", slow)
    monkeypatch.setattr(prefix_folder, "WAITING_BYTES", 3 * SIZE)
    for tokens, size in (
        (TOKENS, 9 * SIZE),
        ((4,), SIZE),
        (TOKENS, 9 * SIZE),
        ((5, 6), 1),
    ):
        folder.put(heads(folder, tokens), a_snapshot(tokens, size))
    assert same(get(folder, TOKENS), a_snapshot(TOKENS, 9 * SIZE)), "however large"
    assert not folder.keeps(heads(folder, (4,))), "there was no room to wait in"
    disk.set()
    folder.flush()
    assert written == [3]
    for tokens in ((4,), (5, 6), (4,)):
        folder.put(heads(folder, tokens), a_snapshot(tokens))
        assert folder.keeps(heads(folder, tokens))
    folder.flush()
    assert sorted(set(written)) == [1, 2, 3]
    assert not folder._waiting


def test_the_writer_ends_with_its_folder(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    folder = a_folder(tmp_path)
    folder.put(heads(folder, TOKENS), a_snapshot(TOKENS))
    writers = set(threading.enumerate()) - before
    del folder
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive()
    assert get(a_folder(tmp_path), TOKENS), "what waited was written"


_EXIT = """
import sys
from tests.unit_tests.engine.snapshots import *
folder = a_folder(Path(sys.argv[1]))
folder.put(heads(folder, TOKENS), a_snapshot(TOKENS))
"""


def test_what_waits_when_the_interpreter_ends_is_written(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", _EXIT, str(tmp_path)]
    subprocess.run(command, check=True, cwd=root, timeout=60)  # noqa: S603  our own
    assert same(get(a_folder(tmp_path), TOKENS), a_snapshot(TOKENS))


def test_a_folder_that_is_gone_is_reported(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "new")
    (tmp_path / "new").rmdir()
    assert get(folder, TOKENS) is None
    with pytest.warns(RuntimeWarning, match="No such file"):
        keep(folder, TOKENS)


# --- the folder: where it is


def test_the_home_folder_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert a_folder(Path("~/kv")).path == tmp_path / "kv"


def test_a_relative_folder_is_made_with_its_parents_and_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = a_folder(Path("a/b"))
    monkeypatch.chdir("/")
    keep(folder, TOKENS)
    assert folder.path == tmp_path / "a" / "b"
    assert len(names(tmp_path / "a" / "b")) == 1


@pytest.mark.parametrize("name", ["file", "file/below", "nu\0ll"])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InvalidValueError, match="name a folder") as caught:
        a_folder(tmp_path / name)
    assert repr(str(tmp_path / name)) in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_folder_without_room_is_refused(tmp_path: Path, max_bytes: int) -> None:
    with pytest.raises(InvalidValueError, match=f"got {max_bytes}"):
        a_folder(tmp_path, max_bytes)
