from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from langchain_ralmspec.engine.prefixes import PrefixCache
from tests.unit_tests.engine.snapshots import (
    ABSENT,
    ENTRY,
    SIZE,
    TOKENS,
    a_folder,
    a_snapshot,
    get,
    heads,
    held,
    keep,
    names,
    put,
    same,
)

HEX = "0123456789abcdef"


def test_memory_returns_what_was_put_and_nothing_after_clear() -> None:
    cache = PrefixCache(10 * SIZE)
    assert get(cache, TOKENS) is None
    kept = keep(cache, TOKENS)
    assert get(cache, TOKENS) is kept
    assert get(cache, TOKENS[:2]) is None
    cache.clear()
    assert get(cache, TOKENS) is None


def test_memory_drops_the_least_recently_used() -> None:
    cache = PrefixCache(2 * SIZE)
    put(cache, 1, 2)
    get(cache, (1,))
    put(cache, 3)
    assert held(cache) == [1, 3]


def test_memory_keeps_what_is_used_often_until_that_is_long_ago() -> None:
    cache = PrefixCache(2 * SIZE)
    put(cache, 1)
    for _ in range(3):
        get(cache, (1,))
    for token in range(10, 13):
        put(cache, token)
        assert is_kept(cache, 1)
        assert is_kept(cache, token), "the newest stays"
    put(cache, *range(20, 30))
    assert not is_kept(cache, 1)


def is_kept(cache: PrefixCache, token: int) -> bool:
    """Whether it is there; asking is no use of it."""
    return cache.keeps(heads(cache, (token,)))


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
            keep(cache, (2,), snapshot=a_snapshot((2,), SIZE + 1))
        with pytest.warns(RuntimeWarning, match="raise kv_cache_bytes or set kv_c"):
            keep(cache, (2,), snapshot=a_snapshot((2,), SIZE + 1))
    assert held(cache) == [1]


def test_no_memory_is_not_warned_about() -> None:
    cache = PrefixCache(0)
    put(cache, 1)  # a warning would be an error
    assert held(cache) == []


# --- memory and folder


def test_a_prefix_outlives_the_process(tmp_path: Path) -> None:
    kept = a_snapshot(TOKENS)
    keep(PrefixCache(10 * SIZE, a_folder(tmp_path)), TOKENS, snapshot=kept)

    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))

    found = get(cache, TOKENS)
    assert same(found, kept)
    assert get(cache, TOKENS) is found  # now from memory
    cache.clear()
    assert same(get(cache, TOKENS), kept)


def test_what_is_larger_than_the_memory_lives_in_the_folder(tmp_path: Path) -> None:
    cache = PrefixCache(SIZE - 1, a_folder(tmp_path))
    keep(cache, TOKENS)
    assert same(get(cache, TOKENS), a_snapshot(TOKENS))
    assert get(cache, TOKENS) is not get(cache, TOKENS)


def test_what_left_memory_comes_back_from_the_folder(tmp_path: Path) -> None:
    cache = PrefixCache(2 * SIZE, a_folder(tmp_path))
    put(cache, 1, 2, 3)
    assert same(get(cache, (1,)), a_snapshot((1,)))


def test_what_is_kept_is_told_without_reading_it(tmp_path: Path) -> None:
    for cache in (PrefixCache(SIZE), PrefixCache(SIZE, a_folder(tmp_path))):
        assert not is_kept(cache, 1)
        put(cache, 1, 2)
        assert is_kept(cache, 2)
        cache.clear()
    assert is_kept(cache, 1)
    assert cache.room == 10 * ENTRY
    the_entry(tmp_path, cache, 1).unlink()
    assert not is_kept(cache, 1)


def the_entry(path: Path, store: PrefixCache | PrefixFolder, token: int) -> Path:
    return path / f"{heads(store, (token,))[-1].key.hex()}.kv"


# --- the folder: making room


def used_at(folder: PrefixFolder, token: int, when: float) -> None:
    os.utime(the_entry(folder.path, folder, token), (when, when))


@pytest.mark.parametrize(
    ("read", "size", "left"), [(1, SIZE, [1, 3, 4]), (3, 2 * SIZE, [3, 4])]
)
def test_as_many_of_the_least_recently_used_go_as_have_to(
    tmp_path: Path, read: int, size: int, left: list[int]
) -> None:
    folder = a_folder(tmp_path, 3 * ENTRY)
    put(folder, 1, 2, 3)
    for token in (1, 2, 3):
        used_at(folder, token, time.time() - 100 + token)
    get(folder, (read,))

    keep(folder, (4,), snapshot=a_snapshot((4,), size))

    assert held(folder) == left
    assert len(names(tmp_path)) == len(left)


def test_the_newest_stays_even_if_clocks_disagree(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, ENTRY)
    put(folder, 1)
    used_at(folder, 1, time.time() + 1000)
    put(folder, 2)
    assert held(folder) == [2]


def test_what_is_no_entry_under_its_name_takes_room_too(tmp_path: Path) -> None:
    (tmp_path / f"{ABSENT}.kv").write_bytes(bytes(SIZE))
    os.utime(tmp_path / f"{ABSENT}.kv", (1, 1))
    folder = a_folder(tmp_path, 2 * ENTRY)
    put(folder, 1, 2)
    assert held(folder) == [1, 2]
    assert f"{ABSENT}.kv" not in names(tmp_path)


def test_what_exceeds_all_the_room_is_reported_and_drives_nothing_out(
    tmp_path: Path,
) -> None:
    folder = a_folder(tmp_path, SIZE)
    put(folder, 1)
    with pytest.warns(RuntimeWarning, match="needs 1001 bytes, max_bytes is 1000"):
        keep(folder, (2,), snapshot=a_snapshot((2,), SIZE + 1))
    assert get(folder, (1,))
    assert len(names(tmp_path)) == 1


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
    folder = a_folder(tmp_path, ENTRY)
    put(folder, 1, 2)
    entry, directory = the_entry(tmp_path, folder, 2), f"{'1' * 64}.kv"
    assert names(tmp_path) == {*others, directory, entry.name}


def test_only_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    for suffix in (".kv", ".head"):
        for number, hours in enumerate((0, 23, 25)):
            file = tmp_path / f".{ABSENT}{suffix}.{number:016x}.tmp"
            file.write_bytes(b"half")
            os.utime(file, (time.time() - hours * 3600,) * 2)
    keep(a_folder(tmp_path), TOKENS)
    left = sorted(name[-5] for name in names(tmp_path) if name.endswith(".tmp"))
    assert left == ["0", "0", "1", "1"]


def test_the_folder_is_listed_only_where_others_have_changed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    iterdir = Path.iterdir

    def listing(path: Path) -> Iterator[Path]:
        listed.append(path)
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", listing)
    folder = a_folder(tmp_path, 3 * ENTRY)
    put(folder, 1)
    assert listed == [tmp_path]
    for token in range(2, 7):
        put(folder, token)
        assert get(folder, (token,))
        assert not get(folder, (token, 0), (1,))
    assert listed == [tmp_path]
    put(a_folder(tmp_path, 3 * ENTRY), 7)
    os.utime(tmp_path, (1, 1))  # clocks are coarse
    put(folder, 8)
    assert listed == [tmp_path] * 3
    assert len([*tmp_path.glob("*.kv")]) == 3


# --- many at once


def test_memory_stays_in_order_among_threads() -> None:
    snapshots = [a_snapshot((token,), 1) for token in range(3)]
    cache = PrefixCache(2)
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        for step in range(300):
            token = (seed + step) % 3
            found = get(cache, (token,))
            assert found is None or found is snapshots[token]
            keep(cache, (token,), snapshot=snapshots[token])
            if step % 7 == seed:
                cache.clear()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(cache._kept) == len(cache._by_head) == cache._bytes <= 2


@pytest.mark.parametrize("n_folders", [1, 2], ids=["threads", "processes"])
def test_many_threads_get_what_was_put_or_nothing(
    tmp_path: Path, n_folders: int
) -> None:
    # Room for a part, in memory and on disk, so that both drop entries all along.
    # Two folders on one path share no lock: so do two processes.
    caches = [
        PrefixCache(3 * SIZE, a_folder(tmp_path, 6 * ENTRY)) for _ in range(n_folders)
    ]
    start = threading.Barrier(6)

    def work(seed: int) -> int:
        random = np.random.default_rng(seed)
        cache = caches[seed % n_folders]
        start.wait()
        hits = 0
        for token in map(int, random.integers(0, 12, 80)):
            found = get(cache, (token,))
            if found is None:
                keep(cache, (token,))
            else:
                assert same(found, a_snapshot((token,)))
                hits += 1
            if random.random() < 0.1:
                cache.clear()
        return hits

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) > 0
    for cache in caches:
        kept = sum(each.snapshot.state.nbytes for each in cache._kept.values())
        assert kept == cache._bytes <= 3 * SIZE
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
