"""The tables of the docs show what the result files say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit_tests.scripts.cells import TABLES

ROOT = Path(__file__).resolve().parents[3]


def fill_tables(root: Path, *options: str) -> int:
    command = [sys.executable, str(root / "scripts" / "fill_tables.py"), *options]
    return subprocess.run(command, check=False, capture_output=True).returncode  # noqa: S603  our own script


def test_the_pages_show_what_the_files_say() -> None:
    assert fill_tables(ROOT, "--check") == 0


def told(file: Path) -> dict[str, str]:
    """Where the figures of a result file come from."""
    provenance: dict[str, str] = json.loads(file.read_text("utf-8"))["provenance"]
    return provenance


def lines_of(page: Path) -> list[str]:
    return page.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Pages, files and scripts, to be changed."""
    for folder in ("docs", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_a_page_that_differs_is_an_error_until_it_is_filled(copy: Path) -> None:
    file = copy / "docs" / "results" / "ralm-faiss-1m.json"
    figures = json.loads(file.read_text(encoding="utf-8"))
    figures["summary"]["speedup_median"] = 9.87
    file.write_text(json.dumps(figures), encoding="utf-8")
    before = (copy / "README.md").read_text(encoding="utf-8")
    assert fill_tables(copy, "--check") == 1
    assert (copy / "README.md").read_text(encoding="utf-8") == before
    assert fill_tables(copy) == 0
    assert fill_tables(copy, "--check") == 0
    assert "**9.87**" in (copy / "README.md").read_text(encoding="utf-8")


def test_a_table_says_what_was_transcribed_or_is_older_than_the_code(
    copy: Path,
) -> None:
    page = copy / "docs" / "speed.md"
    assert "*scan-faiss-1m*: measured before" in page.read_text(encoding="utf-8")
    results = copy / "docs" / "results"
    typed = {
        file.stem for file in results.glob("*.json") if "transcribed_from" in told(file)
    }
    shown = [re.match(r"<!-- table: (\S+)", line) for line in lines_of(page)]
    rows = [TABLES[name[1]].rows for name in shown if name]
    n_transcribed = sum(any(row.file in typed for row in each) for each in rows)
    for file in results.glob("*.json"):
        figures = json.loads(file.read_text(encoding="utf-8"))
        figures["provenance"] = {"commit": "0123456789ab"}  # as a benchmark says it
        file.write_text(json.dumps(figures), encoding="utf-8")
    before = page.read_text(encoding="utf-8").count("\n*Transcribed")
    assert 0 < before == n_transcribed < len(rows)  # others were measured since
    assert fill_tables(copy) == 0
    after = page.read_text(encoding="utf-8")
    assert "\n*Transcribed" not in after
    assert "measured before the form" not in after


def test_every_table_and_every_file_is_shown() -> None:
    text = "".join(
        page.read_text(encoding="utf-8")
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    )
    for name in TABLES:
        assert f"<!-- table: {name} -->" in text
    shown = {row.file for table in TABLES.values() for row in table.rows}
    assert shown == {file.stem for file in (ROOT / "docs" / "results").glob("*.json")}
