"""Progress bars on standard error, so that standard output stays clean."""

from __future__ import annotations

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

from langchain_ralmspec.cli.models import MODELS, model_path


@contextmanager
def bar(
    what: str, *, unit: Literal["bytes", "items"] = "items"
) -> Iterator[Callable[[int, int], None]]:
    """Show a bar that appears with the first report of ``(done, total)``."""
    count: ProgressColumn = (
        DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    )
    columns = (TextColumn(what), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, visible=False, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        yield advance


def find_gguf(model: str) -> str:
    """Path of a model that is given by path or by packaged name."""
    if model not in MODELS:
        return model
    with bar(f"preparing {model}", unit="bytes") as advance:
        return str(model_path(model, progress=advance))
