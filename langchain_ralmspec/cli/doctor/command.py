"""``ralmspec doctor``: what is slow in a stack, what to set, and what to expect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from langchain_ralmspec.assets.corpus import QUESTIONS
from langchain_ralmspec.assets.targets import find_gguf
from langchain_ralmspec.bench.figures import check_file, write_figures
from langchain_ralmspec.bench.options import JsonOption
from langchain_ralmspec.bench.ralm.workload import Corpus, Workload
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.cli import OPENMP_AT_START
from langchain_ralmspec.cli.doctor.costs import BATCH, Costs, measure
from langchain_ralmspec.cli.doctor.facts import Facts, inspect
from langchain_ralmspec.cli.doctor.finding import Finding, Severity
from langchain_ralmspec.cli.doctor.findings import findings
from langchain_ralmspec.cli.doctor.gains import Gains, expect
from langchain_ralmspec.cli.doctor.rehearsal import STEPS
from langchain_ralmspec.cli.doctor.target import Target, load_target
from langchain_ralmspec.machine import OPENMP_ENVIRONMENT
from langchain_ralmspec.retrievers import RaLMSpecRetriever

_QUESTION = "What is it about?"
_STYLES: dict[Severity, str] = {
    "slow": "bold red",
    "worth knowing": "yellow",
    "fine": "green",
}


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A ChatRaLMSpec or RaLMSpecLLM of yours, as module:attribute, e.g. "
            "app:chat; the demo's stack by default."
        ),
    ] = None,
    *,
    question: Annotated[
        str | None, typer.Option(help="Measure while this is answered.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Look for what is slow in a stack, and say what to set and to expect."""
    check_file(json)
    console = Console()
    with patient(target) as stack:
        console.print("measuring, for some 15 seconds and more", style="dim")
        asked = question or (_QUESTION if target else QUESTIONS[0])
        costs = measure(stack, asked)  # first: it loads every library
        is_ours = target is None and not OPENMP_AT_START
        facts = inspect(stack, costs, openmp_is_ours=is_ours)
    gains = expect(facts)
    found = findings(facts, gains)
    model, store = facts.model, facts.store
    is_known = store.n_documents >= 0
    documents = f"{store.n_documents if is_known else 'some'} documents"
    about = (
        f"{Path(model.file).name}, {model.size / 1e6:.0f} MB; {documents} in "
        f"{store.name}{f' ({store.index})' if store.index else ''}"
    )
    console.print(Text(about))
    _print_costs(facts.costs, console)
    if not facts.settings.retrieves_once:
        _print_parts(facts.costs, console)
    _print_findings(found, console)
    if not facts.settings.retrieves_once:
        _print_gains(facts, gains, console)
    if json:
        figures = {
            "facts": asdict(facts),
            "findings": [asdict(finding) for finding in found],
            "gains": asdict(gains),
        }
        write_figures(json, figures)


@contextmanager
def patient(target: str | None) -> Iterator[Target]:
    """Give the stack to examine: the user's, by name, or the demo's."""
    if target is not None:
        for name in OPENMP_ENVIRONMENT.keys() - OPENMP_AT_START.keys():
            # As the app has it when it is run on its own. It may set its own.
            os.environ.pop(name, None)
        yield load_target(target)
        return
    gguf = find_gguf("smollm2-135m")
    workload = Workload(store="faiss-flat")
    workload.check()
    with workload.opened(Corpus.load()) as store:
        retriever = RaLMSpecRetriever(vectorstore=store)
        yield ChatRaLMSpec(model_path=gguf, retriever=retriever)


def _print_costs(costs: Costs, console: Console) -> None:
    table = Table(title="what things cost here", box=box.SIMPLE, show_header=False)
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    one, many = costs.call(1), costs.call(BATCH)
    ratio = f"{many.seconds / one.seconds:.1f} times b(1)"
    rows = [
        ("a prompt", f"{costs.prefill_rate:.0f} tokens/s", ""),
        ("a token", _ms(costs.decode), ""),
        ("a: a step", _ms(costs.step), "with its share of new documents"),
        ("b(1): one query", _ms(one.seconds), f"embedding {_ms(one.embedding)}"),
        (
            f"b({BATCH}): {BATCH} at once",
            _ms(many.seconds),
            f"embedding {_ms(many.embedding)}; {ratio}",
        ),
        ("a token beside a search", _times(costs.overlap["lookup"]), "as long"),
        ("… and its embedding", _times(costs.overlap["same"]), "as long"),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _print_parts(costs: Costs, console: Console) -> None:
    title = "where a step of the sequential loop goes"
    table = Table(title=title, box=box.SIMPLE, show_header=False)
    for justify in ("left", "right", "right"):
        table.add_column(justify=justify)
    whole = sum(costs.parts.values())
    for name, seconds in costs.parts.items():
        table.add_row(name, _ms(seconds), f"{seconds / whole:.0%}")
    console.print(table)


def _print_findings(found: list[Finding], console: Console) -> None:
    for finding in found:
        line = Text(finding.severity, style=_STYLES[finding.severity])
        line.append(f"  {finding.about}: {finding.what}", style="default not bold")
        console.print(line)
        for label, text in (("why", finding.why), ("set", finding.advice)):
            if text:
                console.print(Padding(Text(f"{label}: {text}"), (0, 0, 0, 4)))


def _print_gains(facts: Facts, gains: Gains, console: Console) -> None:
    title = f"speed-up to expect, answers of {STEPS} steps"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    headings = (
        "ceiling 1 + b/a", "synchronous", "asynchronous", "your settings",
        "the plan then followed most",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    speedups = (gains.ceiling, gains.synchronous, gains.asynchronous, gains.speedup)
    table.add_row(*map(_times, speedups), gains.plan)
    console.print()
    console.print(table)
    guesses = ", ".join(
        f"{policy} {judged.right} of {judged.n}"
        for policy, judged in facts.costs.guesses.items()
    )
    console.print(
        "By the scheduler itself, rehearsed on these costs and on guesses as good as "
        f"in a short answer ({guesses} were right), mixed with what it takes for "
        "granted at first. `ralmspec bench ralm` measures.",
        style="dim",
        highlight=False,
    )


def _times(factor: float) -> str:
    return f"{factor:.2f}×"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"
