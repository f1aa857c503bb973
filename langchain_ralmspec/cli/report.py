"""``ralmspec report``: a page about one answer, from what ``run.to_json()`` gave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import absolute, read_text, replacing_file
from langchain_ralmspec.report import Record, page


def report(
    run: Annotated[Path, typer.Argument(help="A file with what run.to_json() gave.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The page; beside RUN by default."),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Of the page; the question by default.")
    ] = None,
) -> None:
    """Show how one answer was written, as a page of HTML."""
    source = absolute(run)
    target = source.with_suffix(".html") if output is None else absolute(output)
    if target == source:
        msg = f"the page would replace {str(run)!r}; name another file with -o"
        raise InvalidValueError(msg)
    text = page(Record.read(read_text(source), str(run)), title)
    try:
        with replacing_file(target) as new:
            new.write_text(text, "utf-8")
    except OSError as error:
        msg = f"{str(target)!r} cannot be written: {error}; name another file with -o"
        raise InvalidValueError(msg) from error
    typer.echo(target)
