import gzip
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.bench.figures import check_file, write_figures
from langchain_ralmspec.engine import folder_room
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import (
    absolute,
    read_json_lines,
    read_text,
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
    for suffix in ("kv", "head"):
        with replacing_file(tmp_path / f"{'0' * 64}.{suffix}") as new:
            assert folder_room._TEMPORARY.fullmatch(new.name)
            new.touch()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


PACKED_OR_NOT = pytest.mark.parametrize("name", ["a", "a.gz"])


@PACKED_OR_NOT
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts_are_read_from_any_system(
    name: str, mark: bytes, end: str, tmp_path: Path
) -> None:
    path = written(tmp_path / name, mark + f"naïve{end}{end}\u2028.".encode())
    assert read_text(path) == "naïve\n\n\u2028."


@PACKED_OR_NOT
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_lines_come_with_their_numbers(
    name: str, mark: bytes, tmp_path: Path
) -> None:
    data = mark + '{"a": "é"}\n \r\n\u200b\n{"\\ud83d": ["\\ud83d\\ude00"]}'.encode()
    expected = [(1, {"a": "é"}), (4, {"\ufffd": ["😀"]})]
    assert list(read_json_lines(written(tmp_path / name, data))) == expected


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b'{}\n{"a": ', "not JSON, .* at column 6"),
        (b"\n[1]", r"'\[1\]' is not a JSON object"),
        (b"\n" + b"[" * 99999, "nested too deeply"),
        (b'\n{"a": ' + b"[" * 99999 + b"]" * 99999 + b"}", "nested too deeply"),
        (b'\n{"a": ' + b"9" * 9999 + b"}", "integer string"),
        (b'\n{"a": 1, "b": 1, "a": 2}', "the key 'a' is there twice"),
    ],
)
def test_a_bad_line_is_named(data: bytes, wrong: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", data)
    with pytest.raises(InvalidValueError, match=rf"a\.jsonl, line 2: .*{wrong}"):
        list(read_json_lines(path))


@pytest.mark.parametrize(
    ("name", "data", "wrong"),
    [
        ("a", "é".encode("latin-1"), r"not in UTF-8, as b'\\xe9' in line 1 .*iconv"),
        ("a", b"{}\n" * 3 + b"caf\xe9", "in line 4 shows"),
        ("a.gz", gzip.compress(b"{}\n" * 4 + b"caf\xe9"), "in line 5 shows"),
        ("a", "é".encode("utf-16"), "not in UTF-8"),
        ("a", None, "No such file"),
        (".", None, "Is a directory"),
        ("a.gz", b"no gzip", "Not a gzipped file"),
        ("a.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "ended before"),
        ("a.gz", gzip.compress(b"{}", mtime=0)[:10] + b"\xff" * 20, "invalid"),
    ],
)
@pytest.mark.parametrize("read", [read_text, lambda path: list(read_json_lines(path))])
def test_a_bad_file_is_named(
    read: Any, name: str, data: bytes | None, wrong: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InvalidValueError, match=f"{path}' cannot be read: .*{wrong}"):
        read(path)


def test_a_file_without_a_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"a' is empty"):
        read_text(written(tmp_path / "a", " \n\u200b\n\f".encode()))


def test_a_path_is_absolute_without_links_and_may_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for path in ("~/folder", "folder", Path("link"), tmp_path / "a" / ".." / "folder"):
        assert absolute(path) == tmp_path / "folder"


def test_files_are_read_and_written_under_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    check_file(Path("~/figures.json"))
    write_figures(Path("~/figures.json"), {"a": 1})
    assert '"a": 1' in read_text(Path("~/figures.json"))


@pytest.mark.parametrize("path", ["nu\0ll", "~nobody-of-this-name/a", 7])
def test_what_is_no_path_is_quoted(path: Any) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(repr(path))):
        absolute(path)


def test_marks_of_byte_orders_are_no_text(tmp_path: Path) -> None:
    marked = "\ufeffA heap.\n\ufeffA list.".encode("utf-8-sig")
    (tmp_path / "some.txt").write_bytes(marked)
    assert read_text(tmp_path / "some.txt") == "A heap.\nA list."
    line = '{"text": "a"}\r\n'.encode("utf-8-sig")
    (tmp_path / "some.jsonl").write_bytes(line + line)
    records = [record for _, record in read_json_lines(tmp_path / "some.jsonl")]
    assert records == [{"text": "a"}] * 2


def test_a_pipe_is_read(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.write(writes, b'{"a": 1}\n')
    os.close(writes)
    try:
        assert [*read_json_lines(Path(f"/dev/fd/{reads}"))] == [(1, {"a": 1})]
    finally:
        os.close(reads)


def test_what_is_no_text_may_end_early_as_well(tmp_path: Path) -> None:
    data = gzip.compress(b"{}\ncaf\xe9 " + os.urandom(60_000))[:-9]
    with pytest.raises(InvalidValueError, match="cannot be read: it is not in UTF-8"):
        list(read_json_lines(written(tmp_path / "a.gz", data)))


def test_a_pipe_that_is_no_text_is_not_waited_for_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[b"caf\xe9"])
    writer.start()
    with pytest.raises(InvalidValueError, match=r"not in UTF-8, as .* in it shows"):
        read_text(tmp_path / "pipe")
    writer.join()


def test_an_empty_path_is_none() -> None:
    with pytest.raises(InvalidValueError, match="'' is no path"):
        absolute("")
