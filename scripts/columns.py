"""What a table in the docs is made of: rows of result files, and how a cell reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"

Cell = Callable[[Any, str], str]
"""The text for a result file, and for what stands for ``{}`` in the column's path."""


@dataclass(frozen=True)
class Row:
    """A line of a table: its first cells, its result file, and where to look in it."""

    labels: tuple[str, ...]
    file: str
    at: str = ""


@dataclass(frozen=True)
class Table:
    """Headings of the first cells, a cell for each further heading, and the rows."""

    labels: tuple[str, ...]
    cells: Mapping[str, Cell]
    rows: tuple[Row, ...]
    empty: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    def lines(self, page: Path) -> list[str]:
        """The table in Markdown, the last column linking to the files."""
        headings = (*self.labels, *self.cells, "file")
        lines = [headings, ("---",) * len(headings)]
        for row in self.rows:
            figures = _read(row.file)
            shown = (
                "" if (row.at, heading) in self.empty else cell(figures, row.at)
                for heading, cell in self.cells.items()
            )
            folder = RESULTS.relative_to(page.parent).as_posix()
            link = f"[{row.file}]({folder}/{row.file}.json)"
            lines.append((*row.labels, *shown, link))
        return [
            *(
                f"|{'|'.join(line)}|" if line[0] == "---" else f"| {' | '.join(line)} |"
                for line in lines
            ),
            *self._notes(),
        ]

    def _notes(self) -> list[str]:
        """What a reader has to know of the files, a line each."""
        told = {row.file: _read(row.file)["provenance"] for row in self.rows}
        typed = {f: each for f, each in told.items() if "transcribed_from" in each}
        pages = {
            f"`{each['transcribed_from']}` at commit {each['page_commit']}": None
            for each in typed.values()
        }
        notes = [
            f"- *{file}*: {each['note']}."
            for file, each in told.items()
            if "note" in each
        ]
        if pages:
            which = "" if len(typed) == len(told) else f" ({', '.join(typed)})"
            said = "not written by a benchmark; before the redesign these figures stood"
            shown = f"*Transcribed{which}, {said} in {', '.join(pages)}.*"
            notes = [shown, *(["", *notes] if notes else [])]
        return ["", *notes] if notes else []


def _read(file: str) -> Any:
    return json.loads((RESULTS / f"{file}.json").read_text("utf-8"))


def find(figures: Any, path: str) -> Any:
    """What stands at a path with slashes; None where there is nothing."""
    for key in path.split("/"):
        if isinstance(figures, list):
            figures = figures[int(key)]
        elif isinstance(figures, dict) and key in figures:
            figures = figures[key]
        else:
            return None
    return figures


def number(path: str, form: str, times: float = 1.0, *, nothing: str = "") -> Cell:
    """A number; with ``nothing``, that is also what stands for a 0."""

    def cell(figures: Any, at: str) -> str:
        value = find(figures, path.format(at))
        if value is None or (nothing and not value):
            return nothing
        return form.format(times * value)

    return cell


def spread(path: str) -> Cell:
    """The median, bold, and the quartiles around it."""

    def cell(figures: Any, at: str) -> str:
        quartiles = find(figures, path.format(at))
        if quartiles is None:
            return ""
        low, middle, high = quartiles
        return f"**{middle:.2f}** ({low:.2f}–{high:.2f})"

    return cell


def interval(path: str, form: str) -> Cell:
    """A mean, bold, and its bootstrap interval."""

    def cell(figures: Any, at: str) -> str:
        mean = find(figures, path.format(at))
        if mean is None:
            return "–"
        middle, low, high = (form.format(mean[end]) for end in ("mean", "low", "high"))
        return f"**{middle}** ({low} to {high})"

    return cell
