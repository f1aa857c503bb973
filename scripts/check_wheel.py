"""Build the wheel and try it in an empty environment with its core dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "langchain_ralmspec"

# Run by the empty environment's Python.
PROBE = """
import importlib.resources
import langchain_ralmspec
from langchain_ralmspec.errors import MissingExtraError

if not importlib.resources.files("langchain_ralmspec").joinpath("py.typed").is_file():
    raise SystemExit("py.typed is not installed")
try:
    from langchain_ralmspec.assets.models import model_path
    model_path("smollm2-135m")
except MissingExtraError as error:
    if "langchain-ralmspec[" not in str(error):
        raise SystemExit(f"the error names no extra: {error}")
else:
    raise SystemExit("a model was found where none is installed")
"""


def main() -> None:
    """Run the check; the exit status says whether it passed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", name, str(ROOT))
        (wheel,) = folder.glob("*.whl")
        check_content(wheel)
        venv.create(folder / "venv", with_pip=True)
        scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        pip(str(scripts / "python"), "install", str(wheel))
        # Away from the repository, whose own folder would be imported first; the
        # cache is empty too, or a model in it would be found without its package.
        environment = os.environ | {"RALMSPEC_CACHE": str(folder / "cache")}
        subprocess.run(
            [scripts / "python", "-c", PROBE], cwd=folder, env=environment, check=True
        )
        check_command(scripts / "ralmspec", folder)
        print(f"{wheel.name}: installs, imports, and names the extras it misses")


def pip(python: str, *arguments: str) -> None:
    """Run pip under ``python``, saying nothing unless it fails."""
    command = [python, "-m", "pip", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")


def check_content(wheel: Path) -> None:
    """Refuse a wheel that holds anything but the package and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    strangers = {top for top in tops if not top.endswith(".dist-info")} - {PACKAGE}
    if strangers:
        raise SystemExit(f"the wheel also holds {', '.join(sorted(strangers))}")


def check_command(command: Path, folder: Path) -> None:
    """Refuse a command that does not say which extra it needs."""
    result = subprocess.run(
        [command, "--help"], cwd=folder, capture_output=True, text=True, check=False
    )
    said = result.stdout + result.stderr
    if result.returncode == 0 or "langchain-ralmspec[" not in said:
        raise SystemExit(f"without its extra, `ralmspec --help` says: {said}")


if __name__ == "__main__":
    main()
