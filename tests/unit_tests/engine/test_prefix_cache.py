from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from langchain_ralmspec.engine.heads import joined
from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from langchain_ralmspec.engine.prefixes import PrefixCache
from tests.unit_tests.engine.snapshots import (
    ABSENT,
    SIZE,
    TOKENS,
    a_folder,
    a_snapshot,
    held,
    names,
    put,
    same,
    the_file,
)

HEX = "0123456789abcdef"


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
    put(cache, 1, 2)
    cache.get((1,))
    put(cache, 3)
    assert held(cache) == [1, 3]


def test_memory_is_free_again_after_clear() -> None:
    cache = PrefixCache(2 * SIZE)
    for _ in range(3):
        cache.clear()
        put(cache, 1, 2)
    assert held(cache) == [1, 2]


def test_a_snapshot_put_twice_counts_once() -> None:
    cache = PrefixCache(2 * SIZE)
    put(cache, 1, 2, 2, 2)
    assert held(cache) == [1, 2]


def test_what_finds_no_place_is_warned_about_and_drives_nothing_out() -> None:
    cache = PrefixCache(SIZE)
    put(cache, 1)
    for _ in range(2):  # every time
        with pytest.warns(RuntimeWarning, match=f"takes {SIZE + 1} bytes.*{SIZE}, so"):
            cache.put((2,), a_snapshot((2,), SIZE + 1))
        with pytest.warns(RuntimeWarning, match="raise kv_cache_bytes or set kv_c"):
            cache.put((2,), a_snapshot((2,), SIZE + 1))
    assert held(cache) == [1]


def test_no_memory_is_not_warned_about() -> None:
    cache = PrefixCache(0)
    put(cache, 1)  # a warning would be an error
    assert held(cache) == []


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
    put(cache, 1, 2, 3)
    assert same(cache.get((1,)), a_snapshot((1,)))


def test_what_is_in_memory_is_not_written_again(tmp_path: Path) -> None:
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    cache.put(TOKENS, a_snapshot(TOKENS))
    the_file(tmp_path, ".kv").unlink()
    cache.put(TOKENS, a_snapshot(TOKENS))
    assert not list(tmp_path.glob("*.kv"))


# --- the folder: making room


def used_at(folder: PrefixFolder, token: int, when: float) -> None:
    _, description = folder._files(folder._key((token,)))
    os.utime(description, (when, when))


@pytest.mark.parametrize(
    ("read", "size", "left"), [(1, SIZE, [1, 3, 4]), (3, 2 * SIZE, [3, 4])]
)
def test_as_many_of_the_least_recently_used_go_as_have_to(
    tmp_path: Path, read: int, size: int, left: list[int]
) -> None:
    folder = a_folder(tmp_path, 3 * SIZE)
    put(folder, 1, 2, 3)
    for token in (1, 2, 3):
        used_at(folder, token, time.time() - 100 + token)
    folder.get((read,))

    folder.put((4,), a_snapshot((4,), size))

    assert held(folder) == left
    assert len(names(tmp_path)) == 2 * len(left)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.kv")) == 3 * SIZE


def test_the_newest_stays_even_if_clocks_disagree(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, SIZE)
    put(folder, 1)
    used_at(folder, 1, time.time() + 1000)
    put(folder, 2)
    assert held(folder) == [2]


def test_data_without_description_takes_room_too(tmp_path: Path) -> None:
    (tmp_path / f"{ABSENT}.kv").write_bytes(bytes(SIZE))
    os.utime(tmp_path / f"{ABSENT}.kv", (1, 1))
    folder = a_folder(tmp_path, 2 * SIZE)
    put(folder, 1, 2)
    assert held(folder) == [1, 2]
    assert f"{ABSENT}.kv" not in names(tmp_path)


def test_what_exceeds_all_the_room_is_reported_and_drives_nothing_out(
    tmp_path: Path,
) -> None:
    folder = a_folder(tmp_path, SIZE)
    put(folder, 1)
    with pytest.warns(RuntimeWarning, match="needs 1001 bytes, max_bytes is 1000"):
        folder.put((2,), a_snapshot((2,), SIZE + 1))
    assert folder.get((1,))
    assert len(names(tmp_path)) == 2


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    others = {
        *("notes.txt", "model.kv", "settings.json", ".hidden.tmp", f"{ABSENT[1:]}.kv"),
        *(f"{ABSENT}0.kv", f"{ABSENT[1:]}g.kv", f"{ABSENT}.kv.bak", f"x{ABSENT}.kv"),
        *(f"{ABSENT}.json", f".{ABSENT}.kv.tmp", f".{ABSENT}.txt.{HEX}.tmp"),
        *(f"{ABSENT}.kv.{HEX}.tmp", f"x.{ABSENT}.kv.{HEX}.tmp"),
        f".{ABSENT}.kv.{HEX}.tmp.bak",
    }
    for name in others:
        (tmp_path / name).write_bytes(bytes(SIZE))
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / f"{'1' * 64}.kv").mkdir()
    folder = a_folder(tmp_path, SIZE)
    put(folder, 1, 2)
    key = folder._key((2,))
    directory = f"{'1' * 64}.kv"
    assert names(tmp_path) == {*others, directory, f"{key}.kv", f"{key}.json"}


def test_only_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    for suffix in (".kv", ".json"):
        for number, hours in enumerate((0, 23, 25)):
            file = tmp_path / f".{ABSENT}{suffix}.{number:016x}.tmp"
            file.write_bytes(b"half")
            os.utime(file, (time.time() - hours * 3600,) * 2)
    a_folder(tmp_path).put(TOKENS, a_snapshot(TOKENS))
    left = sorted(name[-5] for name in names(tmp_path) if name.endswith(".tmp"))
    assert left == ["0", "0", "1", "1"]


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


@pytest.mark.parametrize(
    ("parts", "n_shared"),
    [
        ([(1, 2), (3,), (4, 5)], 3),
        ([(1, 2), (3,), (4, 6)], 2),
        ([(1, 2), (3,)], 2),
        ([(1, 2), (3,), (4, 5), (6,)], 3),
        ([(1, 2), (7,)], 1),
        ([(1, 2, 3)], 0),  # the same tokens, otherwise parted
        ([(1,), (2,), (3,)], 0),
        ([(9,)], 0),
        ([], 0),
    ],
)
def test_what_begins_alike_is_found(
    parts: list[tuple[int, ...]], n_shared: int
) -> None:
    cache = PrefixCache(10 * SIZE)
    assert cache.longest(parts) == (0, None)
    kept: list[list[tuple[int, ...]]]
    kept = [[(1, 2), (8,)], [(1, 2), (3,), (4, 5)], [(7, 7)]]
    for each in kept:
        key = joined(each)
        cache.put(key, a_snapshot(tuple(token for part in each for token in part)))
    n, snapshot = cache.longest(parts)
    assert n == n_shared
    assert (snapshot is None) == (n == 0)
    if snapshot is not None:
        assert snapshot.length >= sum(map(len, parts[:n]))
