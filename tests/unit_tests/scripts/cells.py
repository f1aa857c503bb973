"""What a table of the docs shows of a result file."""

import runpy
from pathlib import Path
from typing import Any

TABLES: dict[str, Any] = runpy.run_path(
    str(Path(__file__).resolve().parents[3] / "scripts" / "tables.py")
)["TABLES"]


def cells(table: str, figures: dict[str, Any], at: str = "") -> dict[str, str]:
    """The cells of a row, by heading; ``at`` is where the row looks."""
    shown = TABLES[table].cells.items()
    return {heading: cell(figures, at) for heading, cell in shown}
