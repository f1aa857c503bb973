"""Where figures come from: which code, which machine, when, by which command."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from langchain_ralmspec.machine import cores, cpu_quota, openmp_environment

_PACKAGES = (
    "llama-cpp-python", "faiss-cpu", "chromadb", "bm25s", "sentence-transformers",
    "torch", "numpy",
)  # fmt: skip
_ROOT = Path(__file__).resolve().parents[2]


def provenance() -> dict[str, Any]:
    """Say where the figures of this process come from, for a JSON file."""
    return {
        "version": version("langchain-ralmspec"),
        "commit": running_commit(),
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["ralmspec", *sys.argv[1:]]),
    }


@cache
def running_commit() -> str | None:
    """Name the commit of this code at the first call, whatever comes later."""
    return commit(_ROOT)


def commit(root: Path) -> str | None:
    """Name a checkout's commit, ``-dirty`` if files differ; None for other folders."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607  whichever git there is
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Describe the machine, and what is installed on it."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": cores(),
        "cpu_quota": cpu_quota(),
        "memory_bytes": _memory_bytes(),
        "system": platform.platform(),
        "openmp_environment": openmp_environment(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None  # a system that does not say


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
