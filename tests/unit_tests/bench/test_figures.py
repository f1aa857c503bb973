from __future__ import annotations

from pathlib import Path

import pytest

from langchain_ralmspec.bench.figures import (
    check_file,
    check_folder,
    read_figures,
    write_figures,
)
from langchain_ralmspec.errors import InvalidValueError


def test_a_file_that_can_be_written_is_left_alone(tmp_path: Path) -> None:
    check_file(None)
    check_file(tmp_path / "new.json")
    old = tmp_path / "old.json"
    old.write_text("kept", encoding="utf-8")
    check_file(old)
    assert old.read_text(encoding="utf-8") == "kept"
    assert [file.name for file in tmp_path.iterdir()] == ["old.json"]


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "nowhere" / "new.json"):
        with pytest.raises(InvalidValueError, match="cannot be written"):
            check_file(wrong)


def test_a_folder_is_made(tmp_path: Path) -> None:
    check_folder(None)
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for wrong in (file, file / "under"):
        with pytest.raises(InvalidValueError, match="cannot be made"):
            check_folder(wrong)


def test_figures_come_back(tmp_path: Path) -> None:
    figures = {"rows": {"+PSA": 1}, "workload": {"store": "×"}}
    write_figures(tmp_path / "a.json", figures)
    assert read_figures(tmp_path / "a.json") == figures


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": 1}', None])
def test_other_files_are_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "a.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidValueError, match=r"a\.json"):
        read_figures(file)
