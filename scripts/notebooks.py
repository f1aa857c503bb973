"""Make the notebooks of examples/ from the programs that have cells (``# %%``).

A notebook is the program, cell by cell, without outputs. With ``--check`` nothing is
written, and a notebook that differs is an error.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CELL = "# %%"


def notebook(program: str) -> dict[str, Any]:
    """The notebook of a program: its docstring, and its cells under their headings."""
    told = ast.get_docstring(ast.parse(program)) or ""
    title, _, rest = told.partition("\n")
    cells = [_cell("markdown", f"# {title.rstrip('.')}\n{rest.replace('``', '`')}")]
    code = program.split('"""', 2)[2]
    for number, part in enumerate(code.split(CELL)):
        heading, _, source = part.partition("\n") if number else ("", "", part)
        if heading.strip():
            cells.append(_cell("markdown", f"## {heading.strip()}"))
        cells.append(_cell("code", source.strip("\n")))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": source.splitlines(keepends=True)}


def main(*, check: bool) -> int:
    """Write all notebooks, or only say which differ; the exit status."""
    differing = 0
    for file in sorted(EXAMPLES.glob("*.py")):
        program = file.read_text("utf-8")
        if f"\n{CELL}" not in program:
            continue
        made = json.dumps(notebook(program), indent=1, ensure_ascii=False) + "\n"
        target = file.with_suffix(".ipynb")
        if target.exists() and target.read_text("utf-8") == made:
            continue
        if check:
            print(f"{target.name} is not what {file.name} says: run {__file__}")
            differing += 1
        else:
            target.write_text(made, "utf-8")
    return differing


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
