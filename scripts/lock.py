"""Write the newest versions that pyproject.toml allows to requirements-dev.lock."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"
HEADER = "# What `make setup` installs. Written by `make lock`: do not edit.\n"


def main() -> None:
    """Resolve the development environment with the given torch; install nothing."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet"),
            *("--dry-run", "--ignore-installed", "--report", "-"),
            *(*sys.argv[1:], "--editable", f"{ROOT}[all]", "--group", "dev"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    packages = [package["metadata"] for package in json.loads(result.stdout)["install"]]
    pins = {normalized(p["name"]): public(p["version"]) for p in packages}
    for unpinned in ("langchain-ralmspec", "pip"):
        pins.pop(unpinned, None)
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
    LOCK.write_text(HEADER + "".join(lines))


def normalized(name: str) -> str:
    """Return the spelling of a package's name by which all spellings compare equal."""
    return re.sub(r"[-_.]+", "-", name).lower()


def public(version: str) -> str:
    """Return ``version`` without a build's tag, which other indexes do not have."""
    return version.partition("+")[0]


if __name__ == "__main__":
    main()
