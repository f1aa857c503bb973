"""A text that has grown begins with whole decode calls whose KV is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.engine.heads import digests, n_common
from langchain_ralmspec.engine.prefixes import PrefixCache
from tests.unit_tests.engine.snapshots import SIZE, a_folder, a_snapshot, same, the_file

STEP = 4
LONG = tuple(range(11))  # two calls and a part of one

tokens = st.lists(st.integers(0, 1), max_size=12).map(tuple)


@given(tokens, tokens, st.integers(1, 5))
def test_heads_are_whole_calls_in_common(one: Any, other: Any, step: int) -> None:
    import hashlib

    n = n_common(one, other, step)
    assert n == n_common(other, one, step)
    assert n % step == 0
    assert one[:n] == other[:n]
    assert one[: n + step] != other[: n + step] or n + step > min(len(one), len(other))
    pairs = zip(
        digests(hashlib.sha256(b"x"), one, step),
        digests(hashlib.sha256(b"x"), other, step),
        strict=False,
    )
    assert step * sum(own == theirs for own, theirs in pairs) == n


@pytest.fixture(params=["memory", "folder", "memory first"])
def cache(request: Any, tmp_path: Path) -> PrefixCache:
    """One that knows ``LONG``, and its first five tokens."""
    folder = a_folder(tmp_path, step=STEP)
    own = PrefixCache(10 * SIZE, folder, step=STEP)
    own.put(LONG[:5], a_snapshot(LONG[:5]))
    own.put(LONG, a_snapshot(LONG))
    if request.param == "folder":
        own.clear()
    elif request.param == "memory":
        own._folder = None
    return own


@pytest.mark.parametrize(
    ("key", "n"),
    [
        ((*LONG, 11, 12), 8),  # a page was added
        ((*LONG[:9], 99), 8),
        (LONG[:8], 8),
        ((*LONG[:7], 99), 4),
        (LONG[:6], 4),
        ((*LONG[:3], 99, 100), 0),
        (LONG[:3], 0),
    ],
)
def test_the_longest_head_is_found(cache: PrefixCache, key: Any, n: int) -> None:
    head = cache.head(key)
    assert (head[1] if head else 0) == n
    if head and n == 8:
        assert same(head[0], a_snapshot(LONG))


def test_without_a_length_of_calls_there_are_no_heads(tmp_path: Path) -> None:
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    cache.put(LONG, a_snapshot(LONG))
    assert cache.head(LONG) is None


def test_the_folder_is_asked_for_more_than_memory_has(tmp_path: Path) -> None:
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path, step=STEP), step=STEP)
    cache.put(LONG, a_snapshot(LONG))
    cache.clear()
    cache.put(LONG[:5], a_snapshot(LONG[:5]))
    head = cache.head((*LONG, 11))
    assert head is not None
    assert head[1] == 8


@pytest.mark.parametrize(
    "said", ["", "[]", "{}", '{"heads": 3, "n_tokens": 11}', '{"heads": [1]}']
)
def test_what_is_no_description_has_no_heads(tmp_path: Path, said: str) -> None:
    folder = a_folder(tmp_path, step=STEP)
    folder.put(LONG, a_snapshot(LONG))
    the_file(tmp_path, ".json").write_text(said)
    assert folder.head((*LONG, 11), STEP) is None


def test_an_entry_of_before_has_no_heads(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, step=STEP)
    folder.put(LONG, a_snapshot(LONG))
    file = the_file(tmp_path, ".json")
    said = json.loads(file.read_text())
    del said["heads"]
    file.write_text(json.dumps(said))
    assert same(folder.get(LONG), a_snapshot(LONG))
    assert folder.head((*LONG, 11), STEP) is None


def test_a_damaged_or_unsound_head_is_warned_about(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, step=STEP)
    folder.put(LONG, a_snapshot(LONG))
    cache = PrefixCache(10 * SIZE, folder, lambda _: False, step=STEP)
    with pytest.warns(RuntimeWarning, match="11 tokens is not their KV"):
        assert cache.head((*LONG, 11)) is None
    the_file(tmp_path, ".kv").write_bytes(b"x" * SIZE)
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert cache.head((*LONG, 11)) is None
