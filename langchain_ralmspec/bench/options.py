"""Options that several commands share, and how a dataclass becomes a command.

A benchmark is a dataclass. Its fields are the options, each with its help beside it,
and the first line of its docstring is the command's help.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from langchain_ralmspec.errors import InvalidValueError

ModelOption = Annotated[
    str, typer.Option(help="A GGUF file, or a name that `models list` shows.")
]
EmbeddingOption = Annotated[
    str, typer.Option(help='"minilm", or a sentence-transformers folder.')
]
CorpusOption = Annotated[
    Path | None,
    typer.Option(
        help='JSON lines with "text" (and "id", "title"); '
        "the standard library's docstrings by default.",
        dir_okay=False,
    ),
]
LimitOption = Annotated[int, typer.Option(help="Ask so many at most.", min=1)]
LengthOption = Annotated[int, typer.Option(help="Length of an answer.", min=1)]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the figures to this file.")
]


def add_command(
    app: typer.Typer,
    name: str,
    action: type[Any],
    succeeded: Callable[[Any], bool],
) -> None:
    """Make a command of a dataclass, with its fields as options.

    ``succeeded`` says whether the exit status is 0, by what ``run()`` returned.
    """

    def command(**options: Any) -> None:
        if not succeeded(action(**options).run()):
            raise typer.Exit(1)

    signature = inspect.signature(action, eval_str=True)
    vars(command)["__signature__"] = signature  # which typer reads
    app.command(name, help=(action.__doc__ or "").partition("\n")[0])(command)


def auto_or_number(what: str, given: str) -> int | Literal["auto"]:
    """Read an option that is a number or ``auto``; else ``InvalidValueError``."""
    if given == "auto":
        return "auto"
    if not given.isdecimal() or int(given) < 1:
        raise InvalidValueError(
            f"the {what} is auto or a number of at least 1, got {given!r}"
        )
    return int(given)


def chosen_rows(given: str | None, known: list[str]) -> list[str]:
    """Read which rows of a benchmark are wanted, all known ones when None."""
    rows = given.split(",") if given else known
    for row in rows:
        if row not in known:
            raise InvalidValueError(f"unknown row {row!r}; known: {', '.join(known)}")
    return rows
