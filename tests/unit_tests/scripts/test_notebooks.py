"""The notebooks are the programs of examples/, without outputs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def make_notebooks(root: Path, *options: str) -> int:
    command = [sys.executable, str(root / "scripts" / "notebooks.py"), *options]
    return subprocess.run(command, check=False, capture_output=True).returncode  # noqa: S603  our own script


def test_they_are_what_the_programs_say() -> None:
    assert make_notebooks(ROOT, "--check") == 0
    assert len([*(ROOT / "examples").glob("*.ipynb")]) >= 3


def test_one_that_differs_is_an_error_until_it_is_made_again(tmp_path: Path) -> None:
    for folder in ("examples", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    file = next((tmp_path / "examples").glob("*.ipynb"))
    made = json.loads(file.read_text(encoding="utf-8"))
    [cell, *_] = [each for each in made["cells"] if each["cell_type"] == "code"]
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "1"}]
    file.write_text(json.dumps(made), encoding="utf-8")
    assert make_notebooks(tmp_path, "--check") == 1
    assert make_notebooks(tmp_path) == 0
    assert make_notebooks(tmp_path, "--check") == 0
