import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.engine import prefixes
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import (
    absolute,
    read_json_lines,
    replacing_file,
    replacing_folder,
)


def write(place: Path, text: str) -> None:
    """Write a file, or a folder that holds one."""
    (place / "inside" if place.is_dir() else place).write_text(text)


def content(place: Path) -> str:
    return (place / "inside" if place.is_dir() else place).read_text()


BOTH = pytest.mark.parametrize(
    ("replacing", "name"), [(replacing_file, "a.txt"), (replacing_folder, "a")]
)


@BOTH
def test_what_is_made_takes_its_place_whole(
    replacing: Any, name: str, tmp_path: Path
) -> None:
    target = tmp_path / name
    for text in ("old", "new"):
        with replacing(target) as made:
            write(made, text)
            assert target.exists() == (text == "new")
        assert content(target) == text
    assert list(tmp_path.iterdir()) == [target]


@BOTH
def test_what_fails_leaves_what_was_there(
    replacing: Any, name: str, tmp_path: Path
) -> None:
    target = tmp_path / name
    with replacing(target) as made:
        write(made, "old")

    def write_half() -> None:
        with replacing(target) as made:
            write(made, "half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert content(target) == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_left_over_temporaries_have_the_name_that_prefixes_are_rid_of(
    tmp_path: Path,
) -> None:
    for suffix in ("kv", "json"):
        with replacing_file(tmp_path / f"{'0' * 64}.{suffix}") as new:
            assert prefixes._TEMPORARY.fullmatch(new.name)
            new.touch()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_come_with_their_numbers(name: str, tmp_path: Path) -> None:
    data = '{"a": "é"}\n \n\n{}'.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert list(read_json_lines(path)) == [(1, {"a": "é"}), (4, {})]


@pytest.mark.parametrize(
    ("name", "data", "wrong"),
    [
        ("a.jsonl", b'{}\n{"a": ', r"a\.jsonl, line 2: not JSON, .* at column 6"),
        ("a.jsonl", b"\n[1]", r"a\.jsonl, line 2: \[1\] is not a JSON object"),
        ("a.jsonl", b"\xff", r"a\.jsonl cannot be read: .*utf-8"),
        ("a.jsonl", None, r"a\.jsonl cannot be read: .*No such file"),
        ("a.gz", b"no gzip", r"a\.gz cannot be read: Not a gzipped file"),
        ("a.gz", gzip.compress(b"{}" * 99)[:-9], r"a\.gz cannot be read"),
        ("a.gz", gzip.compress(b"{}")[:10] + b"\xff" * 20, r"a\.gz cannot be read"),
    ],
)
def test_a_bad_file_or_line_is_named(
    name: str, data: bytes | None, wrong: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InvalidValueError, match=wrong):
        list(read_json_lines(path))


def test_a_path_is_absolute_without_links_and_may_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for path in ("~/folder", "folder", Path("link"), tmp_path / "a" / ".." / "folder"):
        assert absolute(path) == tmp_path / "folder"


@pytest.mark.parametrize("path", ["nu\0ll", "~nobody-of-this-name/a", 7])
def test_what_is_no_path_is_quoted(path: Any) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(repr(path))):
        absolute(path)
