import json
import subprocess
from pathlib import Path

import pytest

from langchain_ralmspec import machine
from langchain_ralmspec.bench import provenance as provenances
from langchain_ralmspec.bench.figures import (
    check_file,
    check_folder,
    write_figures,
)
from langchain_ralmspec.bench.provenance import commit
from langchain_ralmspec.errors import InvalidValueError


def test_a_file_that_can_be_written_is_left_alone(tmp_path: Path) -> None:
    check_file(None)
    check_file(tmp_path / "new.json")
    old = tmp_path / "old.json"
    old.write_text("kept", encoding="utf-8")
    check_file(old)
    assert old.read_text(encoding="utf-8") == "kept"
    assert [file.name for file in tmp_path.iterdir()] == ["old.json"]
    for wrong in (tmp_path, tmp_path / "nowhere" / "new.json"):
        with pytest.raises(InvalidValueError, match="cannot be written"):
            check_file(wrong)


def test_a_folder_is_made_or_refused(tmp_path: Path) -> None:
    check_folder(None)
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    file = tmp_path / "file"
    file.touch()
    for wrong in (file, file / "under"):
        with pytest.raises(InvalidValueError, match="cannot be made"):
            check_folder(wrong)


def test_figures_that_cannot_be_written_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidValueError, match=r"gone/a\.json.*above"):
        write_figures(tmp_path / "gone" / "a.json", {"rows": {"+PSA": 1}})
    assert json.loads(capsys.readouterr().err)["rows"] == {"+PSA": 1}


def test_figures_are_written_with_where_they_come_from(tmp_path: Path) -> None:
    write_figures(tmp_path / "a.json", {"rows": {"+PSA": 1}})
    told = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert told["rows"] == {"+PSA": 1}
    provenance = told["provenance"]
    assert set(provenance) == {"version", "commit", "machine", "date", "command"}
    assert provenance["machine"]["cores"]
    assert provenance["machine"]["usable_cores"] == machine.cores()
    assert provenance["machine"]["cpu_quota"] == machine.cpu_quota()
    assert provenance["machine"]["packages"]["numpy"]
    assert provenance["date"].endswith("+00:00")
    assert provenance["command"].startswith("ralmspec")


def test_the_commit_is_that_of_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenances, "commit", lambda _: "before")
    provenances.running_commit.cache_clear()
    try:
        check_file(tmp_path / "a.json")
        monkeypatch.setattr(provenances, "commit", lambda _: "after")
        write_figures(tmp_path / "a.json", {})
    finally:
        provenances.running_commit.cache_clear()
    told = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert told["provenance"]["commit"] == "before"


def test_a_checkout_is_named_by_its_commit_and_whether_files_differ(
    tmp_path: Path,
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@x"]
        command = ["git", *who, *arguments]
        done = subprocess.run(  # noqa: S603  our own command
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert commit(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("one", encoding="utf-8")
    git("add", "a")
    git("commit", "-m", "x")
    known = git("rev-parse", "--short=12", "HEAD")
    assert commit(tmp_path) == known
    (tmp_path / "a").write_text("two", encoding="utf-8")
    assert commit(tmp_path) == f"{known}-dirty"
