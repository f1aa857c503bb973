"""``ralmspec report``: a page from a file, and what it says of other files."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from langchain_ralmspec.cli.app import app
from langchain_ralmspec.report import page
from tests.unit_tests.cli.shell import run
from tests.unit_tests.report.records import HOSTILE, long_record


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "run.json"
    file.write_text(long_record(3, HOSTILE).to_json(), "utf-8")
    return file


def test_a_page_is_made_of_a_saved_run(saved: Path, tmp_path: Path) -> None:
    assert run("report", str(saved)) == 0
    record = long_record(3, HOSTILE)
    assert (tmp_path / "run.html").read_text("utf-8") == page(record)
    other = tmp_path / "other.html"
    assert run("report", str(saved), "-o", str(other), "--title", "Mine") == 0
    assert other.read_text("utf-8") == page(record, "Mine")
    assert sorted(tmp_path.iterdir()) == [other, tmp_path / "run.html", saved]


def test_the_file_is_named(saved: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(saved)])
    assert result.output.strip() == str(saved.with_suffix(".html"))


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "cannot be read"),
        ("", [], "is empty"),
        ("{}", [], "is no saved run of version 1: method: Field required"),
        ("ok", ["-o", "nowhere/there.html"], "cannot be written"),
        ("ok", ["-o", "run.json"], "would replace"),
    ],
)
def test_what_cannot_be_done_is_said(
    saved: Path,
    content: str | None,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(saved.parent)
    if content is None:
        saved.unlink()
    elif content != "ok":
        saved.write_text(content, "utf-8")
    said = run("report", "run.json", *arguments)
    assert said.startswith("ralmspec: ")
    assert message in said
    assert not list(saved.parent.glob("*.html"))
