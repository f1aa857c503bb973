"""The files of a datastore: NumPy's own, and a broken one is told by its name."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.errors import DatastoreError, InvalidValueError
from langchain_ralmspec.knnlm.entries import Entries, EntryWriter, Manifest, writing
from tests.unit_tests.knnlm.fakes import write_entries

KEYS = np.arange(15).reshape(5, 3).astype(np.float16) / 4
TOKENS = [9, 8, 7, 6, 5]


def write(folder: Path) -> Path:
    return write_entries(folder, KEYS, TOKENS)


@pytest.mark.parametrize("key_type", ["float16", "float32"])
def test_numpy_reads_them(key_type: str, tmp_path: Path) -> None:
    write_entries(tmp_path, KEYS.astype(key_type), TOKENS)
    keys = np.load(tmp_path / "keys.npy")
    tokens = np.load(tmp_path / "tokens.npy")
    assert (keys == KEYS).all()
    assert keys.dtype == key_type
    assert tokens.tolist() == TOKENS
    assert tokens.dtype == np.int32


def test_rows_are_read_as_copies_in_float32(tmp_path: Path) -> None:
    entries = Entries(write(tmp_path))
    rows = np.array([4, 0, 4])
    keys, tokens = entries.read(rows)
    assert keys.dtype == np.float32
    assert (keys == KEYS[rows]).all()
    assert tokens.tolist() == [5, 9, 5]
    keys[:] = 0  # callers compute in place
    assert (Entries(tmp_path).read(rows)[0] == KEYS[rows]).all()
    assert len(entries) == 5


additions = st.lists(st.integers(0, 9), max_size=6)


def test_torch_or_not_every_float16_has_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    entries = Entries(write_entries(tmp_path, every[np.isfinite(every)][:, np.newaxis]))
    rows = np.arange(len(entries))
    importlib.import_module("torch")
    by_torch, _ = entries.read(rows)
    monkeypatch.delitem(sys.modules, "torch")
    by_numpy, _ = entries.read(rows)
    assert by_torch.dtype == by_numpy.dtype == np.float32
    assert by_torch.tobytes() == by_numpy.tobytes()
    assert by_torch.flags.writeable


@given(additions, additions)
def test_a_file_grows_in_any_steps(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], second: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    keys = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    manifest = Manifest("0", "tiny", 3, "float32")
    n = 0
    for steps in (first, second):
        writer = EntryWriter(folder, Manifest("0", "tiny", 3, "float32", n))
        for step in steps:
            writer.add(keys[n : n + step], np.arange(n, n + step, dtype=np.int32))
            n += step
        writer.close()
        assert writer.n_entries == n
    assert manifest.n_entries == 0
    assert (np.load(folder / "keys.npy") == keys[:n]).all()
    assert np.load(folder / "tokens.npy").tolist() == list(range(n))


def test_rows_behind_the_manifest_s_are_not_seen_and_overwritten(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    manifest = Manifest.read(tmp_path)
    writer = EntryWriter(tmp_path, manifest)
    writer.add(np.full((7, 3), 77, np.float32), np.full(7, 77, np.int32))
    writer.close()  # and then the process dies
    assert len(np.load(tmp_path / "keys.npy")) == 12
    entries = Entries(tmp_path)
    assert (entries.keys == KEYS).all()
    assert entries.tokens.tolist() == TOKENS

    writer = EntryWriter(tmp_path, manifest)
    writer.add(np.ones((1, 3), np.float32), np.ones(1, np.int32))
    writer.close()

    assert np.load(tmp_path / "keys.npy").tolist() == [*KEYS.tolist(), [1, 1, 1]]
    assert np.load(tmp_path / "tokens.npy").tolist() == [*TOKENS, 1]


def test_what_a_killed_writer_left_behind_is_not_seen_and_overwritten(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    for name in ("keys.npy", "tokens.npy"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"half a ro")
    entries = Entries(tmp_path)
    assert (entries.keys == KEYS).all()
    assert entries.tokens.tolist() == TOKENS
    EntryWriter(tmp_path, entries.manifest).close()
    assert (tmp_path / "tokens.npy").stat().st_size == 128 + 5 * 4
    assert (tmp_path / "keys.npy").stat().st_size == 128 + 15 * 2


@pytest.mark.parametrize("n_rows", [0, 3, 7])
def test_what_a_header_says_of_rows_does_not_matter(
    n_rows: int, tmp_path: Path
) -> None:
    write(tmp_path)
    for name in ("keys.npy", "tokens.npy"):
        file = tmp_path / name
        data = file.read_bytes()
        header = data[:128].replace(b"(5,", b"(%d," % n_rows)
        file.write_bytes(header + data[128:])
    entries = Entries(tmp_path)
    assert (entries.keys == KEYS).all()
    assert entries.tokens.tolist() == TOKENS


NUMBERS = {70_000.0: r"70000\.0.*float16.*key_type='float32'", np.nan: "nan.*float16"}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_that_float16_cannot_hold_is_refused(
    number: float, tmp_path: Path
) -> None:
    keys = KEYS.astype(np.float32)
    keys[2, 1] = number
    writer = EntryWriter(tmp_path, Manifest("0", "tiny", 3, "float16"))
    with pytest.raises(InvalidValueError, match=NUMBERS[number]):
        writer.add(keys, np.array(TOKENS, np.int32))
    writer.add(KEYS.astype(np.float32), np.array(TOKENS, np.int32))
    writer.close()
    assert (np.load(tmp_path / "keys.npy") == KEYS).all()
    assert np.load(tmp_path / "tokens.npy").tolist() == TOKENS


def test_float32_holds_what_float16_cannot(tmp_path: Path) -> None:
    keys = KEYS.astype(np.float32) * 1e6
    assert (Entries(write_entries(tmp_path, keys, TOKENS)).keys == keys).all()


def test_both_files_are_closed_when_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EntryWriter(tmp_path, Manifest("0", "tiny", 3, "float16"))
    files = [writer._keys._file, writer._tokens._file]
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.close()
    assert [file.closed for file in files] == [True, True]


def test_one_writes_at_a_time(tmp_path: Path) -> None:
    write(tmp_path)
    before = sorted(tmp_path.iterdir())
    for _ in range(2):
        with writing(tmp_path):
            with (
                pytest.raises(DatastoreError, match=rf"else writes.*{tmp_path}.*wait"),
                writing(tmp_path),
            ):
                pytest.fail("two write")
            assert (Entries(tmp_path).keys == KEYS).all(), "readers are not kept out"
    with pytest.raises(KeyboardInterrupt), writing(tmp_path):
        raise KeyboardInterrupt
    with writing(tmp_path):
        pass
    assert sorted(tmp_path.iterdir()) == before


def test_a_manifest_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    before = Manifest.read(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="full"):
        Manifest("1" * 64, "other", 3, "float16", 2).write(tmp_path)
    assert Manifest.read(tmp_path) == before
    assert len([*tmp_path.iterdir()]) == 3, "nothing is left behind"


Damage = Callable[[Path], object]


def cut(n_bytes: int) -> Damage:
    return lambda file: os.truncate(file, file.stat().st_size - n_bytes)


def filled(data: bytes) -> Damage:
    return lambda file: file.write_bytes(data)


def saved(array: Any) -> Damage:
    return lambda file: np.save(file, array, allow_pickle=True)


def zipped(file: Path) -> None:
    with file.open("wb") as stream:
        np.savez(stream, keys=KEYS)


def field(**changed: Any) -> Damage:
    """Change fields of the manifest; None takes one out."""

    def damage(file: Path) -> None:
        manifest = file.with_name("datastore.json")
        fields = json.loads(manifest.read_text()) | changed
        kept = {name: value for name, value in fields.items() if value is not None}
        manifest.write_text(json.dumps(kept))

    return damage


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was opened",)


DAMAGES: dict[str, tuple[str, Damage]] = {
    "keys cut": ("keys.npy", cut(1)),
    "keys cut by a row": ("keys.npy", cut(6)),
    "keys cut in the header": ("keys.npy", cut(30 + 20)),
    "tokens cut": ("tokens.npy", cut(1)),
    "no keys": ("keys.npy", Path.unlink),
    "no tokens": ("tokens.npy", Path.unlink),
    "empty keys": ("keys.npy", filled(b"")),
    "empty tokens": ("tokens.npy", filled(b"")),
    "other bytes": ("keys.npy", filled(b"\x7fELF" * 99)),
    "a pickle": ("keys.npy", filled(pickle.dumps(Bomb()))),
    "pickled rows": ("keys.npy", saved(np.array([[Bomb()] * 3] * 5))),
    "an archive": ("keys.npy", zipped),
    "wider keys": ("keys.npy", saved(KEYS.astype(np.float32))),
    "longer keys": ("keys.npy", saved(np.zeros((5, 4), np.float16))),
    "flat keys": ("keys.npy", saved(KEYS.reshape(-1))),
    "fewer keys": ("keys.npy", saved(KEYS[:4])),
    "wider tokens": ("tokens.npy", saved(np.array(TOKENS))),
    "fewer tokens": ("tokens.npy", saved(np.array(TOKENS[:4], np.int32))),
    "manifest cut": ("datastore.json", cut(1)),
    "empty manifest": ("datastore.json", filled(b"")),
    "binary manifest": ("datastore.json", filled(b"\xff\xfe")),
    "a list": ("datastore.json", filled(b"[]")),
    "a number": ("datastore.json", filled(b"7")),
    "no fields": ("datastore.json", filled(b"{}")),
    "another format": ("datastore.json", field(format="kNN datastore 2")),
    "an unknown field": ("datastore.json", field(colour="red")),
    "a field less": ("datastore.json", field(dimension=None)),
    "entries in words": ("datastore.json", field(n_entries="five")),
    "entries in part": ("datastore.json", field(n_entries=2.5)),
    "fewer than no entries": ("datastore.json", field(n_entries=-1)),
    "no dimension": ("datastore.json", field(dimension="three")),
    "no such numbers": ("datastore.json", field(key_type="float17")),
    "no numbers at all": ("datastore.json", field(key_type=["float16"])),
    "distance in words": ("datastore.json", field(typical_distance="far")),
    "distance of nothing": ("datastore.json", field(typical_distance=0.0)),
    "distance without end": ("datastore.json", field(typical_distance=float("inf"))),
    "no id": ("datastore.json", field(id=None)),
    "an id that is a path": ("datastore.json", field(id="../../etc")),
    "more entries": ("keys.npy", field(n_entries=6)),
    "an endless header": ("keys.npy", filled(b"(9," * 99)),
    "checksum of a number": ("datastore.json", field(model_sha256=7)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_file_is_told_by_its_name(damage: str, tmp_path: Path) -> None:
    name, break_it = DAMAGES[damage]
    Entries(write(tmp_path))
    break_it(tmp_path / name)
    with pytest.raises(DatastoreError) as caught:
        Entries(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "datastore.json"])
def test_a_folder_without_a_datastore(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatastoreError, match=rf"{name}.*KNNDatastore\.build|anew"):
        Entries(tmp_path / name)  # an empty folder, and a file
