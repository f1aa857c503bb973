"""A text that has grown begins with whole parts whose KV is kept."""

from __future__ import annotations

from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ralmspec.engine.heads import (
    FEWEST,
    LEAST_PART,
    aligned,
    heads_of,
    parted,
    start_within,
)
from langchain_ralmspec.engine.prefixes import PrefixCache
from tests.unit_tests.engine.snapshots import (
    SIZE,
    a_folder,
    a_snapshot,
    heads,
    keep,
    names,
    same,
    the_file,
)

STEP = 4
LONG = tuple(range(11))  # two parts and a shorter one

tokens = st.lists(st.integers(0, 1), max_size=12).map(tuple)


def test_parts_are_all_the_tokens_in_order() -> None:
    assert parted(LONG, STEP) == [LONG[:4], LONG[4:8], LONG[8:]]
    assert parted((), STEP) == []
    assert parted(LONG, 99) == [LONG]


@pytest.mark.parametrize(
    ("length", "ends", "lengths"),
    [
        (11, [0], [4, 7]),  # what is too little for a part joins the last
        (11, [7], [4, 7]),  # which ends where kernels part tokens
        (10, [6], [4, 6]),
        (8, [0], [4, 4]),
        (5, [0], [5]),
        (4, [0], [4]),
        (3, [0], [3]),
        (0, [0], []),
    ],
)
def test_what_is_too_little_for_a_part_joins_the_last(
    length: int, ends: list[int], lengths: list[int]
) -> None:
    parts = parted(LONG[:length], STEP, ends)
    assert [*map(len, parts)] == lengths
    assert sum(map(tuple, parts), ()) == LONG[:length]


@pytest.mark.parametrize(
    ("length", "ends", "lengths"),
    [
        (304, [36, 160, 240], [36, 124, 80, 64]),
        (304, [15, 160, 240], [160, 80, 64]),  # 15 before documents are too few
        (300, [16, 160, 220], [16, 144, 140]),  # and 60 of one of them
        (270, [36, 160, 240], [36, 124, 80, 30]),
        (255, [36, 160, 240], [36, 124, 95]),  # or 15 of the last
        (700, [36, 600], [36, 256, 308, 100]),
        (800, [36, 336, 586], [36, 300, 248, 216]),  # by fours
        (99, [90], [99]),
        (601, [600, 601], [256, 345]),
        (90, [90], [90]),
        (130, [70, 130], [68, 62]),
    ],
)
def test_a_part_ends_where_something_does(
    length: int, ends: list[int], lengths: list[int]
) -> None:
    parts = parted(range(length), 256, ends)
    assert [*map(len, parts)] == lengths


TURN = 1  # a control token, among other numbers

turns = st.lists(st.just(0), max_size=300).map(lambda of: (TURN, *of))
conversations = st.lists(turns, max_size=4)
documents = st.lists(st.integers(1, 700).map(lambda n: (2,) * n), max_size=4)


def in_parts(told: list[tuple[int, ...]], found: list[tuple[int, ...]]) -> list[Any]:
    """The parts of a prompt with some turns, and then some documents."""
    before = tuple(chain(*told))
    prefix = (*before, *chain(*found))
    prefix = prefix[: aligned(len(prefix))]
    ends = [*accumulate(map(len, found), initial=len(before))]
    parts = parted(prefix, 256, ends, {TURN})
    assert tuple(chain(*parts)) == prefix
    return parts


@given(conversations, documents, documents)
def test_prompts_with_the_same_first_documents_share_their_parts(
    told: list[Any], found: list[Any], others: list[Any]
) -> None:
    parts = in_parts(told, found)
    assert all(FEWEST <= len(part) < 2 * 256 + FEWEST for part in parts[1:])
    begun = in_parts(told, [*found, *others, (3,) * FEWEST])
    if found and len(found[-1]) >= LEAST_PART + 3:  # which aligning may take
        assert begun[: len(parts)] == parts


@given(conversations, documents, turns)
def test_a_conversation_that_goes_on_begins_with_its_parts(
    told: list[Any], found: list[Any], another: Any
) -> None:
    parts = in_parts(told, [])
    grown = in_parts([*told, another], found)
    n_own = len(parts)
    if any(len(turn) < LEAST_PART for turn in told):  # the last part may go on
        n_own = max(0, n_own - 1)
    assert grown[:n_own] == parts[:n_own]


def test_turns_are_parts_of_their_own_unless_they_are_short() -> None:
    told = [(TURN, *[0] * n) for n in (79, 9, 69, 299)]
    assert [*map(len, in_parts(told, []))] == [80, 80, 300]
    few = in_parts([*told, (TURN, *[0] * 19)], [(2,) * 90])
    assert [*map(len, few)] == [80, 80, 300, 108], "few tokens far behind are slow"


@given(tokens, tokens, st.integers(1, 5), st.integers(1, 5))
def test_heads_are_alike_where_parts_are(
    one: Any, other: Any, size: int, of_the_other: int
) -> None:
    parts, others = parted(one, size), parted(other, of_the_other)
    pairs = list(zip(heads_of(parts, b"x"), heads_of(others, b"x"), strict=False))
    for n, (own, theirs) in enumerate(pairs, 1):
        assert (own == theirs) == (parts[:n] == others[:n])
        assert own.length == sum(map(len, parts[:n]))
        assert heads_of(parts, b"y")[n - 1].key != own.key


PARTS = [
    ([(1, 2), (3,), (4, 5)], 3),
    ([(1, 2), (3,), (4, 6)], 2),
    ([(1, 2), (3,)], 2),
    ([(1, 2), (3,), (4, 5), (6,)], 3),
    ([(1, 2), (7,)], 1),
    ([(1, 2)], 1),
    ([(1, 2, 3)], 0),  # the same tokens, otherwise parted
    ([(1,), (2,), (3,)], 0),
    ([(9,)], 0),
    ([], 0),
]


@pytest.fixture(params=["memory", "folder", "memory of a folder", "another process"])
def cache(request: Any, tmp_path: Path) -> PrefixCache:
    """One that knows a few prefixes."""
    kind = request.param
    folder = None if kind == "memory" else a_folder(tmp_path)
    cache = PrefixCache(10 * SIZE, folder)
    assert cache.longest(heads(cache, (1, 2))) == (0, None)
    for parts in ([(1, 2), (8,)], [(1, 2), (3,), (4, 5)], [(7, 7)]):
        keep(cache, *parts)
    if kind == "folder":
        cache.clear()
    if kind == "another process":
        cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    return cache


def test_what_cannot_be_cut_is_found_as_a_whole(cache: PrefixCache) -> None:
    """As of a recurrent memory; and what need not be cut is preferred."""
    wanted = heads(cache, (1, 2), (3,), (4, 6))
    assert cache.longest(wanted)[0] == 2
    assert cache.longest(wanted, whole=True) == (0, None)
    keep(cache, (1, 2))
    n, snapshot = cache.longest(wanted, whole=True)
    assert n == 1
    assert same(snapshot, a_snapshot((1, 2)))
    keep(cache, (1, 2), (0,))
    n, snapshot = cache.longest(heads(cache, (1, 2), (9,)))
    assert n == 1
    assert same(snapshot, a_snapshot((1, 2)))


@pytest.mark.parametrize(("parts", "n_shared"), PARTS)
def test_what_begins_alike_is_found(
    cache: PrefixCache, parts: list[tuple[int, ...]], n_shared: int
) -> None:
    for _ in range(2):  # what comes from the folder is in memory then
        n, snapshot = cache.longest(heads(cache, *parts))
        assert n == n_shared
        assert (snapshot is None) == (n == 0)
        if snapshot is not None and n > 1:
            assert same(snapshot, a_snapshot((1, 2, 3, 4, 5)))


def test_the_folder_is_asked_for_more_than_memory_has(tmp_path: Path) -> None:
    cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    keep(cache, *parted(LONG, STEP))
    cache.clear()
    keep(cache, LONG[:4], (99,))
    n, snapshot = cache.longest(heads(cache, *parted((*LONG, 11), STEP)))
    assert n == 2
    assert same(snapshot, a_snapshot(LONG))


def test_a_head_is_found_while_one_of_those_that_have_it_is_there() -> None:
    cache = PrefixCache(2 * SIZE)
    for last in (1, 2, 3):  # the first leaves, and then another
        keep(cache, (0,), (last,))
    for _ in range(3):
        assert cache.longest(heads(cache, (0,), (9,)))[0] == 1
    keep(cache, (5,))
    keep(cache, (6,))
    assert cache.longest(heads(cache, (0,), (9,)))[0] == 1, "used more often"
    cache.clear()
    assert cache.longest(heads(cache, (0,), (9,))) == (0, None)


@pytest.mark.parametrize("said", ["", "x", "0" * 64, "\N{EURO SIGN}", "../" + "0" * 61])
def test_what_names_no_entry_is_passed_over(tmp_path: Path, said: str) -> None:
    folder = a_folder(tmp_path)
    keep(folder, *parted(LONG, STEP))
    wanted = heads(folder, *parted((*LONG[:8], 99), STEP))
    (tmp_path / f"{wanted[1].key.hex()}.head").write_text(said, "utf-8")
    found = folder.longest(wanted)
    assert found is not None
    assert found.n_heads == 1


def test_an_entry_that_is_named_for_another_head_is_found_out(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    keep(folder, *parted(LONG, STEP))
    other = heads(folder, (5, 6), (7,))
    (tmp_path / f"{other[0].key.hex()}.head").write_text(the_file(tmp_path).stem)
    with pytest.warns(RuntimeWarning, match="it is for heads"):
        assert folder.longest(other) is None


def test_what_names_an_entry_goes_with_it(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, 3 * SIZE)
    for last in (1, 2, 3):
        keep(folder, (last,), (0,))
    assert len(names(tmp_path)) == 2 * 2
    for last, n in ((1, 0), (2, 1), (3, 1)):
        found = folder.longest(heads(folder, (last,), (9,)))
        assert (found.n_heads if found else 0) == n


def test_a_damaged_or_unsound_head_is_warned_about(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    keep(folder, *parted(LONG, STEP))
    cache = PrefixCache(10 * SIZE, folder, lambda _: False)
    wanted = heads(cache, *parted((*LONG, 11), STEP))
    with pytest.warns(RuntimeWarning, match="11 tokens is not their KV"):
        assert cache.longest(wanted) == (0, None)
    data = the_file(tmp_path).read_bytes()
    the_file(tmp_path).write_bytes(data[:-9] + bytes(9))
    with pytest.warns(RuntimeWarning, match="is damaged") as caught:
        assert cache.longest(wanted) == (0, None)
    assert len(caught) == 1


@pytest.mark.parametrize("start", [b"", bytes(32)], ids=["memory", "folder"])
def test_no_two_namespaces_have_a_key_in_common(start: bytes) -> None:
    assert start_within(None, start) == start, "folders of before are good still"
    # A namespace that looks like what another one has for a key, too.
    names = ["red", "Red", "", "\ud800", "red" + start_within("red", start).hex()]
    parts = parted(LONG, STEP)
    keys = [
        {head.key for head in heads_of(parts, start_within(name, start))}
        for name in (None, *names)
    ]
    assert len(set.union(*keys)) == len(keys) * len(parts)


@pytest.mark.parametrize("in_folder", [False, True])
def test_what_one_namespace_keeps_no_other_finds(
    tmp_path: Path, *, in_folder: bool
) -> None:
    cache = PrefixCache(
        0 if in_folder else 99 * SIZE, a_folder(tmp_path) if in_folder else None
    )
    parts = parted(LONG, STEP)
    names = [None, "red", "blue"]
    for name in names:
        wanted = cache.heads(parts, name)
        assert cache.longest(wanted) == (0, None)
        assert not cache.keeps(wanted)
        cache.put(wanted, a_snapshot(LONG))
        cache.flush()
        n, snapshot = cache.longest(wanted)
        assert n == len(parts)
        assert same(snapshot, a_snapshot(LONG))
