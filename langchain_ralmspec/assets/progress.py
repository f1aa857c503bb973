"""Progress bars on standard error, so that standard output stays clean."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10


@contextmanager
def bar(
    what: str, *, unit: Literal["bytes", "items"] = "items"
) -> Iterator[Callable[[int, int], None]]:
    """Show a bar that appears with the first report of ``(done, total)``.

    Where nobody sees it move, a line now and then.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, console)
        return
    count: ProgressColumn = (
        DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    )
    columns = (TextColumn(what), BarColumn(), count, TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task(what)

    def advance(done: int, total: int) -> None:
        progress.start()  # starting twice does nothing
        progress.update(task, completed=done, total=total)

    try:
        yield advance
    finally:
        if progress.live.is_started:  # else stop() would print an empty line
            progress.stop()


def _lines(what: str, console: Console) -> Callable[[int, int], None]:
    """Tells the share that is done, unless that was told just now, and the end."""
    told, is_slow = time.monotonic(), False

    def advance(done: int, total: int) -> None:
        nonlocal told, is_slow
        is_due = time.monotonic() - told >= _SECONDS_BETWEEN_LINES
        if is_due or (is_slow and done == total):
            told, is_slow = time.monotonic(), True
            share = f"{done / max(1, total):.0%}"
            console.print(f"{what}: {share}", highlight=False, markup=False)

    return advance
