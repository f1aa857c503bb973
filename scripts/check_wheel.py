"""Build what is published, and try it in an empty environment.

The wheel is built from the source archive, so that one is tried, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NAME, PACKAGE = "langchain-ralmspec", "langchain_ralmspec"

IN_THE_ARCHIVE = ("README.md", "CHANGELOG.md", "LICENSE", "mkdocs.yml", "docs/index.md")
LIGHT = ("bm25", "cli")
"""Extras that are installed in the empty environment: seconds, and no torch."""
NOT_SET_UP = {"gemma", "qwen"}
"""Extras of model packages that ``make setup`` does not bring."""

# Run by the empty environment's Python, before it has any extra.
BARE = """
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

# And once it has the light ones.
WITH_EXTRAS = """
from langchain_core.documents import Document
from langchain_ralmspec import RaLMSpecRetriever

documents = [Document("heapq pushes onto heaps"), Document("bisect keeps lists sorted")]
[found, *_] = RaLMSpecRetriever.from_documents(documents).invoke("sorted")
if found.page_content != documents[1].page_content:
    raise SystemExit(f"BM25 found {found}")
"""


def main() -> None:
    """Run the check; the exit status says whether it passed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--outdir", name, str(ROOT))
        (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
        check_archive(archive)
        metadata = check_content(wheel)
        check_links(metadata)
        tried = check_extras(metadata)
        check_installed(wheel, folder)
        print(f"{wheel.name}: installs, imports, and names the extras it misses")
        print(f"extras whose packages fit together: {', '.join(tried)}")


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    fails: bool = False,
) -> str:
    """What a command says; refuse one that fails, or that was to fail and does not."""
    words = [str(word) for word in command]
    result = subprocess.run(
        words, cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    said = f"{result.stdout}{result.stderr}"
    if (result.returncode != 0) is not fails:
        raise SystemExit(f"{' '.join(words)}: exit {result.returncode}\n{said}")
    return said


def check_archive(archive: Path) -> None:
    """Refuse a source archive without what a packager needs, or with what is built."""
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    missing = [name for name in IN_THE_ARCHIVE if name not in names]
    built = [name for name in names if name.startswith(("build/", "dist/"))]
    if missing or built:
        raise SystemExit(f"the archive has no {missing}, and should not have {built}")


def check_content(wheel: Path) -> Message:
    """Refuse a wheel that holds anything but the package; returns its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (file,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(file).decode())
    tops = {name.split("/")[0] for name in names}
    strangers = {top for top in tops if not top.endswith(".dist-info")} - {PACKAGE}
    if strangers:
        raise SystemExit(f"the wheel also holds {', '.join(sorted(strangers))}")
    return metadata


def check_links(metadata: Message) -> None:
    """Refuse a description with links that lead nowhere outside the repository."""
    links = re.findall(r"\]\(((?!https?://)[^)]*)\)", str(metadata.get_payload()))
    if links:
        raise SystemExit(f"the description has links that PyPI cannot follow: {links}")


def check_extras(metadata: Message) -> list[str]:
    """Refuse extras that ask for what the set-up does not have in that version.

    Nothing is fetched: ``make setup`` has resolved them. Returns those that were tried.
    """
    extras = metadata.get_all("Provides-Extra", [])
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    for extra in extras:
        for need in _needed(extra, wanted):
            if unknown := need.extras - {*extras} if need.name == NAME else set():
                raise SystemExit(f"{extra} names extras that there are not: {unknown}")
            if need.name == NAME:
                continue
            try:
                has = version(need.name)
            except PackageNotFoundError:
                if extra not in NOT_SET_UP:
                    raise SystemExit(f"{extra} wants {need}: not installed") from None
                continue
            if not need.specifier.contains(has, prereleases=True):
                raise SystemExit(f"{extra} wants {need}: {has} is installed")
    return [extra for extra in extras if extra not in NOT_SET_UP]


def _needed(extra: str, wanted: list[Requirement]) -> Iterator[Requirement]:
    """What an extra itself asks for."""
    for need in wanted:
        marker = need.marker
        is_own = marker is not None and not marker.evaluate({"extra": ""})
        if is_own and marker and marker.evaluate({"extra": extra}):
            yield need


def check_installed(wheel: Path, folder: Path) -> None:
    """Try the wheel alone, and with its light extras."""
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python, command = scripts / "python", scripts / "ralmspec"
    # Away from the repository, whose own folder would be imported first; the cache is
    # empty too, or a model in it would be found without its package.
    environment = os.environ | {"RALMSPEC_CACHE": str(folder / "cache")}
    environment.pop("PYTHONPATH", None)
    there = partial(run, cwd=folder, env=environment)
    there(python, "-m", "pip", "install", wheel)
    there(python, "-m", "pip", "check")
    there(python, "-c", BARE)
    said = there(command, "--help", fails=True)
    if f"{NAME}[" not in said:
        raise SystemExit(f"without its extra, `ralmspec --help` says: {said}")
    there(python, "-m", "pip", "install", f"{wheel}[{','.join(LIGHT)}]")
    there(python, "-m", "pip", "check")
    there(python, "-c", WITH_EXTRAS)
    said = there(command, "--version")
    if f"-{said.strip()}-py3" not in wheel.name:
        raise SystemExit(f"`ralmspec --version` says {said!r} of {wheel.name}")


if __name__ == "__main__":
    main()
