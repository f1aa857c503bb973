"""Install the lowest versions that pyproject.toml allows, and run the unit tests.

Only what is named there is as old as it may be; what that needs in turn is as new as it
may be. torch is given, as in ``make setup``, and llama-cpp-python comes by pip, which
keeps the wheel that it has compiled.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "lowest"
EXTRAS = "bench,bm25,chroma,cli,embeddings,faiss,llama,serve"
UV = "uv>=0.9,<0.14"


def main() -> None:
    """Run the check with the given torch; the exit status says whether it passed."""
    venv.create(FOLDER, with_pip=True, clear=True)
    python = str(FOLDER / "bin" / "python")
    llama = lowest_of("llama", "llama-cpp-python")
    pip = (python, "-m", "pip", "install", "--progress-bar", "off", "--no-deps")
    run(*pip, UV)
    run(*pip, *sys.argv[1:])
    run(*pip, llama)
    # Neither brings what it needs: uv keeps what it finds, be it the newest. The build
    # of torch is pinned, for uv might exchange it for PyPI's.
    torch = subprocess.check_output(
        [python, "-c", "import importlib.metadata as m; print(m.version('torch'))"],
        text=True,
    )
    kept = FOLDER / "torch.txt"
    kept.write_text(f"torch=={torch}")
    how = ("--resolution", "lowest-direct", "--python", python, "-c", str(kept))
    what = ("--editable", f"{ROOT}[{EXTRAS}]", "--group", "test")
    run(python, "-m", "uv", "pip", "install", *how, *what)
    sockets = ("--disable-socket", "--allow-unix-socket")
    run(python, "-m", "pytest", "tests/unit_tests", "-q", "-n", "logical", *sockets)


def lowest_of(extra: str, package: str) -> str:
    """The lowest version of a package that an extra allows, as pip is asked for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = map(Requirement, project["optional-dependencies"][extra])
    (need,) = (each for each in wanted if each.name == package)
    (bound,) = (each.version for each in need.specifier if each.operator == ">=")
    return f"{package}=={bound}"


def run(*command: str) -> None:
    """Run a command in the project's folder; its failure is ours."""
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
