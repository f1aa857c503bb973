from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from langchain_ralmspec.engine.prefixes import PrefixCache
from langchain_ralmspec.engine.slots import Snapshot
from langchain_ralmspec.errors import InvalidValueError
from tests.unit_tests.engine.snapshots import (
    ABSENT,
    FINGERPRINT,
    SIZE,
    TOKENS,
    a_folder,
    a_snapshot,
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
@pytest.mark.parametrize("tokens", [(), (0,), TOKENS, (2**31 - 1, -1)])
def test_the_folder_returns_what_was_put(
    tmp_path: Path, size: int, step: int, tokens: tuple[int, ...]
) -> None:
    state = np.random.default_rng(0).integers(0, 256, step * size, np.uint8)[::step]
    kept = Snapshot(len(tokens) - tokens.count(-1), state)  # the end of a part
    a_folder(tmp_path).put(tokens, kept)
    assert same(a_folder(tmp_path).get(tokens), kept)


def test_an_entry_is_two_files_of_which_one_can_be_read(tmp_path: Path) -> None:
    kept = a_snapshot(TOKENS)
    a_folder(tmp_path).put(TOKENS, kept)
    data = the_file(tmp_path, ".kv")
    assert names(tmp_path) == {data.name, f"{data.stem}.json"}
    assert data.read_bytes() == kept.state.tobytes()
    said = json.loads((tmp_path / f"{data.stem}.json").read_text("utf-8"))
    assert said["fingerprint"] == FINGERPRINT
    assert (said["n_tokens"], said["bytes"]) == (3, SIZE)


@pytest.mark.parametrize(
    ("fingerprint", "tokens", "is_there"),
    [
        *[(FINGERPRINT, other, False) for other in ((), (1, 2), (1, 2, 4), (3, 2, 1))],
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
    folder.put(TOKENS, a_snapshot(TOKENS))
    found = a_folder(folder.path, fingerprint=fingerprint).get(tokens)
    assert (found is not None) == is_there


# --- the folder: what it refuses


def edited(**changes: object) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps(json.loads(text) | changes).encode()


def without(name: str) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        said = json.loads(text)
        del said[name]
        return json.dumps(said).encode()

    return change


def flip_a_bit(data: bytes) -> bytes:
    return data[: SIZE // 2] + bytes([data[SIZE // 2] ^ 1]) + data[SIZE // 2 + 1 :]


@pytest.mark.parametrize(
    ("damaged", "change", "named", "reason"),
    [
        (".kv", lambda data: data[:-1], ".kv", "has 999 bytes instead of 1000"),
        (".kv", lambda data: data + b"x", ".kv", "has 1001 bytes instead of 1000"),
        (".kv", lambda _: b"", ".kv", "has 0 bytes instead of 1000"),
        (".kv", flip_a_bit, ".kv", "damaged"),
        (".json", lambda _: b"", ".json", "not JSON"),
        (".json", lambda _: b'{"format": 1', ".json", "not JSON"),
        (".json", lambda _: b"\xff\xfe\x00", ".json", "not JSON"),
        (".json", lambda _: b"[" * 100_000, ".json", "not JSON"),
        (".json", lambda _: b"[1]", ".json", "no JSON object"),
        (".json", lambda _: b"{}", ".json", "format None, not 1"),
        (".json", edited(format=2), ".json", "format 2, not 1"),
        (".json", edited(fingerprint=7), ".json", "fingerprint 7"),
        (".json", edited(n_tokens=4), ".json", "n_tokens 4, not 3"),
        (".json", edited(bytes=7), ".kv", "bytes instead of 7"),
        (".json", edited(sha256=ABSENT), ".kv", "damaged"),
        (".json", without("bytes"), ".kv", "instead of None"),
        (".json", without("sha256"), ".kv", "damaged"),
    ],
)
def test_a_damaged_entry_is_reported_ignored_and_repaired(
    tmp_path: Path,
    damaged: str,
    change: Callable[[bytes], bytes],
    named: str,
    reason: str,
) -> None:
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))
    file = the_file(tmp_path, damaged)
    file.write_bytes(change(file.read_bytes()))
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))

    with pytest.warns(RuntimeWarning, match="ignoring a prefix") as caught:
        assert cache.get(TOKENS) is None

    assert len(caught) == 1
    assert str(the_file(tmp_path, named)) in str(caught[0].message)
    assert reason in str(caught[0].message)

    cache.put(TOKENS, a_snapshot(TOKENS))
    assert same(a_folder(tmp_path).get(TOKENS), a_snapshot(TOKENS))


@pytest.mark.parametrize(
    ("fingerprint", "tokens", "snapshot", "reason"),
    [
        ({"model": "cd"}, TOKENS, TOKENS, "fingerprint {'model': 'cd'}, not"),
        (FINGERPRINT, (7, 8, 9), (7, 8, 9), "is for key"),
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
    a_folder(path, fingerprint=fingerprint).put(tokens, a_snapshot(snapshot))
    for suffix in (".kv", ".json"):
        the_file(path, suffix).rename(path / (folder._key(TOKENS) + suffix))
    with pytest.warns(RuntimeWarning, match=reason):
        assert folder.get(TOKENS) is None


@pytest.mark.parametrize("missing", [".kv", ".json"])
def test_half_an_entry_is_absent_and_overwritten(
    folder: PrefixFolder, missing: str
) -> None:
    folder.put(TOKENS, a_snapshot(TOKENS))
    the_file(folder.path, ".kv").write_bytes(b"half a snap")
    the_file(folder.path, missing).unlink()
    assert folder.get(TOKENS) is None
    folder.put(TOKENS, a_snapshot(TOKENS))
    assert same(folder.get(TOKENS), a_snapshot(TOKENS))


def test_an_entry_that_is_replaced_while_it_is_read_is_absent(
    folder: PrefixFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put(TOKENS, a_snapshot(TOKENS))
    read = folder._read

    def read_late(*args: object) -> object:
        a_folder(folder.path).put(TOKENS, a_snapshot((7, 8, 9)))  # another process
        return read(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as late:
        late.setattr(folder, "_read", read_late)
        assert folder.get(TOKENS) is None  # and a warning would be an error
    assert same(folder.get(TOKENS), a_snapshot((7, 8, 9)))


def test_an_entry_that_cannot_be_read_is_reported(folder: PrefixFolder) -> None:
    (folder.path / f"{folder._key(TOKENS)}.json").mkdir()
    with pytest.warns(RuntimeWarning, match="directory"):
        assert folder.get(TOKENS) is None


def test_a_folder_that_may_only_be_read_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))
    read_only = PermissionError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(os, "utime", refusing(read_only))
    assert a_folder(tmp_path).get(TOKENS)


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


def full_for_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", refusing(NO_SPACE))


def no_replacing(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(os, "replace", refusing(denied))


@pytest.mark.parametrize("trouble", [full_disk, full_for_descriptions, no_replacing])
def test_what_cannot_be_written_is_reported_and_does_without(
    tmp_path: Path, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    with pytest.MonkeyPatch.context() as monkeypatch:
        trouble(monkeypatch)
        with pytest.warns(RuntimeWarning, match="No space|Permission") as caught:
            cache.put(TOKENS, a_snapshot(TOKENS))

    assert str(tmp_path) in str(caught[0].message)
    assert cache.get(TOKENS)
    assert not names(tmp_path)
    cache.clear()
    cache.put(TOKENS, a_snapshot(TOKENS))
    assert same(a_folder(tmp_path).get(TOKENS), a_snapshot(TOKENS))


@pytest.mark.parametrize("trouble", [full_disk, full_for_descriptions])
def test_a_full_disk_leaves_the_older_entry(
    folder: PrefixFolder, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    folder.put(TOKENS, a_snapshot(TOKENS))
    with pytest.MonkeyPatch.context() as monkeypatch:
        trouble(monkeypatch)
        with pytest.warns(RuntimeWarning, match="No space"):
            folder.put(TOKENS, a_snapshot((7, 8, 9)))
    assert same(folder.get(TOKENS), a_snapshot(TOKENS))


def test_a_description_never_stands_beside_other_data(
    folder: PrefixFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put(TOKENS, a_snapshot(TOKENS))
    order = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        before = {file.suffix for file in folder.path.glob("[!.]*")}
        order.append((Path(target).suffix, before))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    folder.put(TOKENS, a_snapshot((7, 8, 9)))
    assert order == [(".kv", {".kv"}), (".json", {".kv"})]


def test_a_folder_that_is_gone_is_reported(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "new")
    (tmp_path / "new").rmdir()
    assert folder.get(TOKENS) is None
    with pytest.warns(RuntimeWarning, match="No such file"):
        folder.put(TOKENS, a_snapshot(TOKENS))


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
    folder.put(TOKENS, a_snapshot(TOKENS))
    assert folder.path == tmp_path / "a" / "b"
    assert len(names(tmp_path / "a" / "b")) == 2


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
