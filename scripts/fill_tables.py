"""Fill the tables of README.md and docs/ from the result files in docs/results.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->``. Its figures
are what ``ralmspec bench … --json`` wrote: to renew a row, replace its file and run
this script. With ``--check`` nothing is written, and a page that differs is an error.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_MARKED = re.compile(
    r"(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end table -->)", re.DOTALL
)


def filled(page: Path, text: str) -> str:
    """The text of a page, with the tables that the result files give."""

    def table(match: re.Match[str]) -> str:
        lines = TABLES[match["name"]].lines(page)
        return "\n".join([match[1].rstrip(), *lines, match[3]])

    return _MARKED.sub(table, text)


def main(*, check: bool) -> int:
    """Fill all pages, or only say which differ; the exit status."""
    differing = 0
    for page in PAGES:
        text = page.read_text("utf-8")
        wanted = filled(page, text)
        if wanted != text and check:
            print(f"{page.name} is not what docs/results says: run {__file__}")
            differing += 1
        elif wanted != text:
            page.write_text(wanted, "utf-8")
    return differing


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
