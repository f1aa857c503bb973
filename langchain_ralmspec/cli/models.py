"""``ralmspec models``: which models there are, and where they lie."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from langchain_ralmspec.assets.models import MODELS, model_path
from langchain_ralmspec.assets.progress import bar

models = typer.Typer(no_args_is_help=True, help="Models that install from PyPI.")


@models.command("list")
def list_(  # the name is taken by the builtin
) -> None:
    """List the models that this package can find, and what brings them."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("name", "kind", "MB", "licence", "brought by the extra"):
        table.add_column(heading, no_wrap=heading == "name")
    for model in MODELS.values():
        table.add_row(
            model.name,
            model.kind,
            f"{model.size / 1e6:.0f}",
            model.licence,
            f"{model.extra} (installed)" if model.is_installed else model.extra,
        )
    Console().print(table)


@models.command()
def path(
    name: Annotated[str, typer.Argument(help="A name that `models list` shows.")],
    quantization: Annotated[
        str | None,
        typer.Option(help="Q4_0, Q8_0, F16, or original; the default suits the CPU."),
    ] = None,
) -> None:
    """Print where a model lies; assembles or requantises it the first time."""
    with bar(f"preparing {name}", unit="bytes") as advance:
        found = model_path(name, quantization, advance)
    typer.echo(found)
