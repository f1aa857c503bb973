from __future__ import annotations

import errno
import io
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from langchain_ralmspec.engine.prefixes import PrefixCache, PrefixFolder
from langchain_ralmspec.engine.slots import Snapshot
from langchain_ralmspec.errors import InvalidValueError

SIZE = 1000
TOKENS = (1, 2, 3)
FINGERPRINT: dict[str, str | int] = {"model": "ab12", "n_ctx": 2048}
ABSENT = "0" * 64


def a_snapshot(tokens: tuple[int, ...], size: int = SIZE) -> Snapshot:
    random = np.random.default_rng(tokens)
    return Snapshot(len(tokens), random.integers(0, 256, size, np.uint8))


def a_folder(
    path: Path,
    max_bytes: int = 10 * SIZE,
    fingerprint: dict[str, str | int] | None = None,
) -> PrefixFolder:
    return PrefixFolder(
        path, max_bytes=max_bytes, fingerprint=fingerprint or FINGERPRINT
    )


def same(one: Snapshot | None, other: Snapshot) -> bool:
    return (
        one is not None
        and one.length == other.length
        and one.state.dtype == np.uint8
        and np.array_equal(one.state, other.state)
    )


def the_file(path: Path, suffix: str) -> Path:
    (file,) = path.glob(f"*{suffix}")
    return file


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def used_at(folder: PrefixFolder, tokens: tuple[int, ...], when: float) -> None:
    os.utime(folder._description_file(folder._key(tokens)), (when, when))


# --- memory


def test_memory_returns_what_was_put_and_nothing_after_clear() -> None:
    cache = PrefixCache(10 * SIZE)
    assert cache.get(TOKENS) is None
    kept = a_snapshot(TOKENS)
    cache.put(TOKENS, kept)
    assert cache.get(TOKENS) is kept
    assert cache.get(TOKENS[:2]) is None
    cache.clear()
    assert cache.get(TOKENS) is None


def test_memory_drops_the_least_recently_used() -> None:
    cache = PrefixCache(2 * SIZE)
    for token in (1, 2):
        cache.put((token,), a_snapshot((token,)))
    cache.get((1,))
    cache.put((3,), a_snapshot((3,)))
    assert [token for token in (1, 2, 3) if cache.get((token,))] == [1, 3]


def test_memory_is_free_again_after_clear() -> None:
    cache = PrefixCache(2 * SIZE)
    for _ in range(3):
        cache.clear()
        for token in (1, 2):
            cache.put((token,), a_snapshot((token,)))
    assert all(cache.get((token,)) for token in (1, 2))


def test_a_snapshot_put_twice_counts_once() -> None:
    cache = PrefixCache(2 * SIZE)
    for token in (1, 2, 2, 2):
        cache.put((token,), a_snapshot((token,)))
    assert all(cache.get((token,)) for token in (1, 2))


def test_what_is_larger_than_the_memory_drives_nothing_out() -> None:
    cache = PrefixCache(SIZE)
    cache.put((1,), a_snapshot((1,)))
    with pytest.warns(RuntimeWarning, match=f"takes {SIZE + 1} bytes.*{SIZE}, so"):
        cache.put((2,), a_snapshot((2,), SIZE + 1))
    assert cache.get((1,))
    assert cache.get((2,)) is None


def test_what_finds_no_place_is_warned_about_every_time() -> None:
    cache = PrefixCache(SIZE - 1)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="raise kv_cache_bytes or set kv_c"):
            cache.put(TOKENS, a_snapshot(TOKENS))


# --- memory and folder


def test_a_prefix_outlives_the_process(tmp_path: Path) -> None:
    kept = a_snapshot(TOKENS)
    PrefixCache(10 * SIZE, a_folder(tmp_path)).put(TOKENS, kept)

    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))

    found = cache.get(TOKENS)
    assert same(found, kept)
    assert cache.get(TOKENS) is found  # now from memory
    cache.clear()
    assert same(cache.get(TOKENS), kept)


def test_what_is_larger_than_the_memory_lives_in_the_folder(tmp_path: Path) -> None:
    cache = PrefixCache(SIZE - 1, a_folder(tmp_path))
    cache.put(TOKENS, a_snapshot(TOKENS))
    assert same(cache.get(TOKENS), a_snapshot(TOKENS))
    assert cache.get(TOKENS) is not cache.get(TOKENS)


def test_what_left_memory_comes_back_from_the_folder(tmp_path: Path) -> None:
    cache = PrefixCache(2 * SIZE, a_folder(tmp_path))
    for token in (1, 2, 3):
        cache.put((token,), a_snapshot((token,)))
    assert same(cache.get((1,)), a_snapshot((1,)))


def test_what_is_in_memory_is_not_written_again(tmp_path: Path) -> None:
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    cache.put(TOKENS, a_snapshot(TOKENS))
    the_file(tmp_path, ".kv").unlink()
    cache.put(TOKENS, a_snapshot(TOKENS))
    assert not list(tmp_path.glob("*.kv"))


# --- the folder: what it finds


@pytest.mark.parametrize("size", [0, 1, SIZE])
@pytest.mark.parametrize("tokens", [(), (0,), TOKENS, (2**31 - 1, -1)])
def test_the_folder_returns_what_was_put(
    tmp_path: Path, size: int, tokens: tuple[int, ...]
) -> None:
    kept = Snapshot(len(tokens), np.arange(size, dtype=np.uint8))
    a_folder(tmp_path).put(tokens, kept)
    assert same(a_folder(tmp_path).get(tokens), kept)


def test_data_with_gaps_in_memory_is_kept(tmp_path: Path) -> None:
    state = a_snapshot(TOKENS).state[::2]
    a_folder(tmp_path).put(TOKENS, Snapshot(3, state))
    assert same(a_folder(tmp_path).get(TOKENS), Snapshot(3, state))


def test_an_entry_is_two_files_of_which_one_can_be_read(tmp_path: Path) -> None:
    kept = a_snapshot(TOKENS)
    a_folder(tmp_path).put(TOKENS, kept)
    data = the_file(tmp_path, ".kv")
    assert names(tmp_path) == {data.name, f"{data.stem}.json"}
    assert data.read_bytes() == kept.state.tobytes()
    said = json.loads((tmp_path / f"{data.stem}.json").read_text("utf-8"))
    assert said["fingerprint"] == FINGERPRINT
    assert (said["n_tokens"], said["bytes"]) == (3, SIZE)


@pytest.mark.parametrize("tokens", [(), (1, 2), (1, 2, 4), (1, 2, 3, 0), (3, 2, 1)])
def test_other_tokens_are_absent(tmp_path: Path, tokens: tuple[int, ...]) -> None:
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))
    assert a_folder(tmp_path).get(tokens) is None


@pytest.mark.parametrize(
    "other",
    [
        {"model": "ab12", "n_ctx": 2049},
        {"model": "ab12", "n_ctx": "2048"},
        {"model": "ab12"},
        FINGERPRINT | {"version": 1},
    ],
)
def test_another_fingerprint_is_absent(
    tmp_path: Path, other: dict[str, str | int]
) -> None:
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))
    assert a_folder(tmp_path, fingerprint=other).get(TOKENS) is None


def test_the_order_of_a_fingerprint_does_not_matter(tmp_path: Path) -> None:
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))
    turned = dict(reversed(FINGERPRINT.items()))
    assert a_folder(tmp_path, fingerprint=turned).get(TOKENS)


# --- the folder: what it refuses


def cut_data(path: Path) -> None:
    file = the_file(path, ".kv")
    file.write_bytes(file.read_bytes()[:-1])


def lengthen_data(path: Path) -> None:
    file = the_file(path, ".kv")
    file.write_bytes(file.read_bytes() + b"x")


def empty_data(path: Path) -> None:
    the_file(path, ".kv").write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    file = the_file(path, ".kv")
    data = bytearray(file.read_bytes())
    data[SIZE // 2] ^= 1
    file.write_bytes(data)


def describe(path: Path, text: bytes) -> None:
    the_file(path, ".json").write_bytes(text)


def edit(path: Path, **changes: object) -> None:
    said = json.loads(the_file(path, ".json").read_bytes())
    describe(path, json.dumps(said | changes).encode())


def forget(path: Path, name: str) -> None:
    said = json.loads(the_file(path, ".json").read_bytes())
    del said[name]
    describe(path, json.dumps(said).encode())


@pytest.mark.parametrize(
    ("damage", "suffix", "reason"),
    [
        (cut_data, ".kv", "has 999 bytes instead of 1000"),
        (lengthen_data, ".kv", "has 1001 bytes instead of 1000"),
        (empty_data, ".kv", "has 0 bytes instead of 1000"),
        (flip_a_bit, ".kv", "damaged"),
        (lambda path: describe(path, b""), ".json", "not JSON"),
        (lambda path: describe(path, b'{"format": 1'), ".json", "not JSON"),
        (lambda path: describe(path, b"\xff\xfe\x00"), ".json", "not JSON"),
        (lambda path: describe(path, b"[" * 100_000), ".json", "not JSON"),
        (lambda path: describe(path, b"[1]"), ".json", "no JSON object"),
        (lambda path: describe(path, b"{}"), ".json", "format None, not 1"),
        (lambda path: edit(path, format=2), ".json", "format 2, not 1"),
        (lambda path: edit(path, fingerprint=7), ".json", "fingerprint 7"),
        (lambda path: edit(path, n_tokens=4), ".json", "n_tokens 4, not 3"),
        (lambda path: edit(path, bytes=7), ".kv", "bytes instead of 7"),
        (lambda path: edit(path, sha256=ABSENT), ".kv", "damaged"),
        (lambda path: forget(path, "bytes"), ".kv", "instead of None"),
        (lambda path: forget(path, "sha256"), ".kv", "damaged"),
    ],
)
def test_a_damaged_entry_is_reported_ignored_and_repaired(
    tmp_path: Path, damage: Callable[[Path], None], suffix: str, reason: str
) -> None:
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))
    file = str(the_file(tmp_path, suffix))
    damage(tmp_path)
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))

    with pytest.warns(RuntimeWarning, match="ignoring a prefix") as caught:
        assert cache.get(TOKENS) is None

    assert len(caught) == 1
    assert file in str(caught[0].message)
    assert reason in str(caught[0].message)

    cache.put(TOKENS, a_snapshot(TOKENS))
    assert same(a_folder(tmp_path).get(TOKENS), a_snapshot(TOKENS))


def test_a_description_copied_from_another_model_is_found_out(tmp_path: Path) -> None:
    ours, theirs = a_folder(tmp_path), a_folder(tmp_path, fingerprint={"model": "cd"})
    theirs.put(TOKENS, a_snapshot(TOKENS))
    for suffix in (".kv", ".json"):
        the_file(tmp_path, suffix).rename(tmp_path / (ours._key(TOKENS) + suffix))
    with pytest.warns(RuntimeWarning, match="fingerprint {'model': 'cd'}, not"):
        assert ours.get(TOKENS) is None


def test_files_copied_from_other_tokens_are_found_out(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    folder.put((7, 8, 9), a_snapshot((7, 8, 9)))
    for suffix in (".kv", ".json"):
        the_file(tmp_path, suffix).rename(tmp_path / (folder._key(TOKENS) + suffix))
    with pytest.warns(RuntimeWarning, match="is for key"):
        assert folder.get(TOKENS) is None


def test_a_snapshot_of_another_length_is_not_returned(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    folder.put(TOKENS, a_snapshot((1, 2)))
    with pytest.warns(RuntimeWarning, match="n_tokens 2, not 3"):
        assert folder.get(TOKENS) is None


def test_data_without_description_is_absent_and_overwritten(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (tmp_path / f"{folder._key(TOKENS)}.kv").write_bytes(b"half a snap")
    assert folder.get(TOKENS) is None
    folder.put(TOKENS, a_snapshot(TOKENS))
    assert same(folder.get(TOKENS), a_snapshot(TOKENS))


def test_description_without_data_is_absent_and_overwritten(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    folder.put(TOKENS, a_snapshot(TOKENS))
    the_file(tmp_path, ".kv").unlink()
    assert folder.get(TOKENS) is None
    folder.put(TOKENS, a_snapshot(TOKENS))
    assert same(folder.get(TOKENS), a_snapshot(TOKENS))


def test_an_entry_that_is_replaced_while_it_is_read_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_folder(tmp_path)
    folder.put(TOKENS, a_snapshot(TOKENS))
    read = folder._read

    def read_late(*args: object) -> object:
        a_folder(tmp_path).put(TOKENS, a_snapshot((7, 8, 9)))  # another process
        return read(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as late:
        late.setattr(folder, "_read", read_late)
        assert folder.get(TOKENS) is None  # and a warning would be an error
    assert same(folder.get(TOKENS), a_snapshot((7, 8, 9)))


def test_an_entry_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (tmp_path / f"{folder._key(TOKENS)}.json").mkdir()
    with pytest.warns(RuntimeWarning, match="directory"):
        assert folder.get(TOKENS) is None


def test_a_folder_that_may_only_be_read_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert a_folder(tmp_path).get(TOKENS)


# --- the folder: writing


class FullFile(io.FileIO):
    """A file on a disk that has room for some bytes."""

    def write(self, data: object) -> int:
        super().write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = io.open

    def opened(file: str, mode: str = "r", *args: object, **kwargs: object) -> object:
        if "w" in mode or "x" in mode:
            return FullFile(file, mode.replace("b", ""))
        return real(file, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(io, "open", opened)


def full_for_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)


def no_replacing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)


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
    tmp_path: Path, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    folder = a_folder(tmp_path)
    folder.put(TOKENS, a_snapshot(TOKENS))
    with pytest.MonkeyPatch.context() as monkeypatch:
        trouble(monkeypatch)
        with pytest.warns(RuntimeWarning, match="No space"):
            folder.put(TOKENS, a_snapshot((7, 8, 9)))
    assert same(folder.get(TOKENS), a_snapshot(TOKENS))


def test_a_description_never_stands_beside_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_folder(tmp_path)
    folder.put(TOKENS, a_snapshot(TOKENS))
    order = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        before = {file.suffix for file in tmp_path.glob("[!.]*")}
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


# --- the folder: making room


def test_the_folder_drops_the_least_recently_used(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, 3 * SIZE)
    now = time.time()
    for token in (1, 2, 3):
        folder.put((token,), a_snapshot((token,)))
        used_at(folder, (token,), now - 100 + token)
    folder.get((1,))

    folder.put((4,), a_snapshot((4,)))

    assert [token for token in range(1, 5) if folder.get((token,))] == [1, 3, 4]
    assert len(names(tmp_path)) == 6
    assert sum(file.stat().st_size for file in tmp_path.glob("*.kv")) == 3 * SIZE


def test_as_many_go_as_have_to(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, 3 * SIZE)
    for token in (1, 2, 3):
        folder.put((token,), a_snapshot((token,)))
        used_at(folder, (token,), token)
    folder.put((4,), a_snapshot((4,), 2 * SIZE))
    assert [token for token in range(1, 5) if folder.get((token,))] == [3, 4]


def test_the_newest_stays_even_if_clocks_disagree(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, SIZE)
    folder.put((1,), a_snapshot((1,)))
    used_at(folder, (1,), time.time() + 1000)
    folder.put((2,), a_snapshot((2,)))
    assert [token for token in (1, 2) if folder.get((token,))] == [2]


def test_data_without_description_takes_room_too(tmp_path: Path) -> None:
    (tmp_path / f"{ABSENT}.kv").write_bytes(bytes(SIZE))
    os.utime(tmp_path / f"{ABSENT}.kv", (1, 1))
    folder = a_folder(tmp_path, 2 * SIZE)
    for token in (1, 2):
        folder.put((token,), a_snapshot((token,)))
    assert all(folder.get((token,)) for token in (1, 2))
    assert f"{ABSENT}.kv" not in names(tmp_path)


def test_what_exceeds_all_the_room_is_reported_and_drives_nothing_out(
    tmp_path: Path,
) -> None:
    folder = a_folder(tmp_path, SIZE)
    folder.put((1,), a_snapshot((1,)))
    with pytest.warns(RuntimeWarning, match="needs 1001 bytes, max_bytes is 1000"):
        folder.put((2,), a_snapshot((2,), SIZE + 1))
    assert folder.get((1,))
    assert len(names(tmp_path)) == 2


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    others = {
        "notes.txt",
        "model.kv",
        "settings.json",
        ".hidden.tmp",
        f"{ABSENT[1:]}.kv",
        f"{ABSENT}0.kv",
        f"{ABSENT[1:]}g.kv",
        f"{ABSENT}.kv.bak",
        f"x{ABSENT}.kv",
        f"{ABSENT}.json",
        f".{ABSENT}.kv.tmp",
        f".{ABSENT}.txt.0123456789abcdef.tmp",
        f"{ABSENT}.kv.0123456789abcdef.tmp",
        f"x.{ABSENT}.kv.0123456789abcdef.tmp",
        f".{ABSENT}.kv.0123456789abcdef.tmp.bak",
    }
    for name in others:
        (tmp_path / name).write_bytes(bytes(SIZE))
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / f"{'1' * 64}.kv").mkdir()
    folder = a_folder(tmp_path, SIZE)
    for token in (1, 2):
        folder.put((token,), a_snapshot((token,)))
    key = folder._key((2,))
    assert names(tmp_path) == {
        *others,
        f"{'1' * 64}.kv",
        f"{key}.kv",
        f"{key}.json",
    }


def test_only_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    for suffix in (".kv", ".json"):
        for number, hours in enumerate((0, 23, 25)):
            file = tmp_path / f".{ABSENT}{suffix}.{number:016x}.tmp"
            file.write_bytes(b"half")
            os.utime(file, (time.time() - hours * 3600,) * 2)
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))
    left = sorted(name[-5] for name in names(tmp_path) if name.endswith(".tmp"))
    assert left == ["0", "0", "1", "1"]


# --- the folder: where it is


def test_the_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    a_folder(tmp_path / "a" / "b").put(TOKENS, a_snapshot(TOKENS))
    assert len(names(tmp_path / "a" / "b")) == 2


@pytest.mark.skipif(os.name != "posix", reason="modes mean little there")
def test_a_new_folder_is_its_owner_s_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        a_folder(tmp_path / "new")
    finally:
        os.umask(umask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    a_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_relative_folder_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = a_folder(Path("kv"))
    monkeypatch.chdir("/")
    assert folder.path == tmp_path / "kv"


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


# --- many at once


class YieldingKey(tuple[int, ...]):
    """A key that lets other threads run whenever the cache looks at it."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0)
        return super().__hash__()


def test_memory_stays_in_order_among_threads() -> None:
    keys = [YieldingKey((token,)) for token in range(3)]
    snapshots = [a_snapshot(key, 1) for key in keys]
    cache = PrefixCache(2)

    def work(seed: int) -> None:
        for step in range(300):
            at = (seed + step) % 3
            found = cache.get(keys[at])
            assert found is None or found is snapshots[at]
            cache.put(keys[at], snapshots[at])
            if step % 7 == seed:
                cache.clear()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(cache._snapshots) == cache._bytes <= 2


@pytest.mark.parametrize("n_folders", [1, 2], ids=["threads", "processes"])
def test_many_threads_get_what_was_put_or_nothing(
    tmp_path: Path, n_folders: int
) -> None:
    # Room for a part, in memory and on disk, so that both drop entries all along.
    # Two folders on one path share no lock: so do two processes.
    caches = [
        PrefixCache(3 * SIZE, a_folder(tmp_path, 6 * SIZE)) for _ in range(n_folders)
    ]
    start = threading.Barrier(6)

    def work(seed: int) -> int:
        random = np.random.default_rng(seed)
        cache = caches[seed % n_folders]
        start.wait()
        hits = 0
        for token in map(int, random.integers(0, 12, 80)):
            found = cache.get((token,))
            if found is None:
                cache.put((token,), a_snapshot((token,)))
            else:
                assert same(found, a_snapshot((token,)))
                hits += 1
            if random.random() < 0.1:
                cache.clear()
        return hits

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) > 0
    for cache in caches:
        kept = sum(s.state.nbytes for s in cache._snapshots.values())
        assert kept == cache._bytes <= 3 * SIZE
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
