"""What a table of the docs shows of a result file."""

import runpy
import sys
from pathlib import Path
from typing import Any

_SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"

sys.path.append(str(_SCRIPTS))  # as a script among them has it
TABLES: dict[str, Any] = runpy.run_path(str(_SCRIPTS / "tables.py"))["TABLES"]


def cells(table: str, figures: dict[str, Any], at: str = "") -> dict[str, str]:
    """The cells of a row, by heading; ``at`` is where the row looks."""
    shown = TABLES[table].cells.items()
    return {heading: cell(figures, at) for heading, cell in shown}
