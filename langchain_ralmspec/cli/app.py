"""The commands, and which room does their work.

None of these imports loads torch, llama.cpp or FAISS: ``--help`` is quick.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer

from langchain_ralmspec.bench import (
    knnlm,
    quality,
    ralm,
    rapid,
    swap,
    together,
)
from langchain_ralmspec.bench import serve as load
from langchain_ralmspec.bench.demo import Demo
from langchain_ralmspec.bench.engine import engine
from langchain_ralmspec.bench.options import add_command
from langchain_ralmspec.cli.datastore import datastore
from langchain_ralmspec.cli.doctor.command import doctor
from langchain_ralmspec.cli.models import models
from langchain_ralmspec.cli.preload import preload
from langchain_ralmspec.cli.report import report
from langchain_ralmspec.cli.serve import serve
from langchain_ralmspec.cli.warm import warm

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Speculative retrieval inside generation, on local models.",
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    if wanted:
        typer.echo(version("langchain-ralmspec"))
        raise typer.Exit


@app.callback()
def main(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version, and end.",
        ),
    ] = False,
) -> None:
    """Speculative retrieval inside generation, on local models."""


def _is_identical(figures: dict[str, Any]) -> bool:
    identical: bool = figures["summary"]["identical"]
    return identical


app.add_typer(models, name="models")
add_command(app, "demo", Demo, bool)
app.command()(doctor)
app.command()(preload)
app.command()(warm)
app.command()(datastore)
app.command()(report)
app.command()(serve)

bench = typer.Typer(no_args_is_help=True, help="Measurements on this machine.")
app.add_typer(bench, name="bench")
bench.command()(engine)
add_command(bench, "swap", swap.Benchmark, swap.found_the_same)
add_command(bench, "together", together.Benchmark, _is_identical)
add_command(bench, "serve", load.Benchmark, _is_identical)
add_command(bench, "ralm", ralm.Benchmark, _is_identical)
add_command(bench, "rapid", rapid.Benchmark, rapid.Benchmark.kept_its_promise)
add_command(bench, "knnlm", knnlm.Benchmark, _is_identical)
add_command(bench, "quality", quality.Benchmark, bool)
