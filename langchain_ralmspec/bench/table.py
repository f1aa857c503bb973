"""Tables that benchmarks print."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def new_table(title: str, *headings: str) -> Table:
    """A table of right-justified columns; headings break at their blanks."""
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading.replace(" ", "\n"), justify="right")
    return table


def spread(quartiles: Sequence[float]) -> tuple[str, str]:
    """Cells for speed-ups: their median, and the quartiles around it."""
    low, middle, high = quartiles
    return f"{middle:.2f}×", f"{low:.2f}–{high:.2f}"


def print_plainly(console: Console, text: str) -> None:
    """Print a text as it is, on lines as long as the terminal makes them."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)
