"""Whose files the KV of a private text is, and whose files are believed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_ralmspec.engine.kv import Snapshot
from langchain_ralmspec.engine.prefixes import PrefixCache
from tests.unit_tests.engine.snapshots import (
    SIZE,
    TOKENS,
    a_folder,
    a_snapshot,
    get,
    keep,
    names,
    same,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes say nothing there")


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    umask = os.umask(0)
    yield
    os.umask(umask)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_folder_is_its_owner_s_alone(tmp_path: Path) -> None:
    a_folder(tmp_path / "new")
    assert mode(tmp_path / "new") == 0o700


@pytest.mark.parametrize("opened", [0o755, 0o711, 0o750, 0o710])
def test_a_folder_that_others_may_enter_is_warned_about_and_its_files_are_closed(
    opened: int, tmp_path: Path
) -> None:
    keep(a_folder(tmp_path), TOKENS)
    mine = tmp_path / "notes.txt"
    mine.touch()
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    tmp_path.chmod(opened)
    with pytest.warns(RuntimeWarning, match=rf"{opened:o}.*chmod 700 on it") as caught:
        folder = a_folder(tmp_path)
    assert len(caught) == 1
    assert str(tmp_path) in str(caught[0].message)
    assert same(get(folder, TOKENS), a_snapshot(TOKENS))
    keep(folder, (4,))
    assert {mode(file) for file in tmp_path.iterdir() if file != mine} == {0o600}
    assert mode(mine) == 0o644
    assert mode(tmp_path) == opened, "which is its owner's to choose"


@pytest.mark.parametrize("opened", [0o777, 0o1777, 0o770, 0o722])
def test_a_folder_that_others_may_write_to_is_not_used(
    opened: int, tmp_path: Path
) -> None:
    keep(a_folder(tmp_path), TOKENS)
    before = names(tmp_path)
    tmp_path.chmod(opened)
    with pytest.warns(RuntimeWarning, match=r"no prefix is kept.*chmod 700") as caught:
        cache = PrefixCache(10 * SIZE, a_folder(tmp_path))
    assert len(caught) == 1
    assert get(cache, TOKENS) is None
    keep(cache, (4,))
    assert get(cache, (4,))
    assert names(tmp_path) == before
    below = a_folder(tmp_path / "below")  # is made for its owner alone
    keep(below, (4,))
    assert get(below, (4,))


def test_another_user_s_folder_and_files_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_folder(tmp_path)
    keep(folder, TOKENS)
    real = os.geteuid()
    if real == 0:  # files of root, who may do everything anyhow, are believed
        for file in tmp_path.iterdir():
            os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    with pytest.warns(RuntimeWarning, match="another user"):
        assert get(folder, TOKENS) is None
    if real == 0:
        os.chown(tmp_path, 12345, -1)
    with pytest.warns(RuntimeWarning, match="no prefix is kept"):
        assert get(a_folder(tmp_path), TOKENS) is None


def test_what_cannot_be_restored_is_reported_and_replaced(tmp_path: Path) -> None:
    keep(
        a_folder(tmp_path), TOKENS, snapshot=a_snapshot((7, 8, 9))
    )  # forged, with a checksum
    true = a_snapshot(TOKENS)

    def is_sound(snapshot: Snapshot) -> bool:
        return same(snapshot, true)

    cache = PrefixCache(10 * SIZE, a_folder(tmp_path), is_sound)
    with pytest.warns(RuntimeWarning, match=r"not their KV.*replaced") as caught:
        assert get(cache, TOKENS) is None
    assert str(tmp_path) in str(caught[0].message)
    keep(cache, TOKENS, snapshot=true)
    assert same(get(PrefixCache(0, a_folder(tmp_path), is_sound), TOKENS), true)
