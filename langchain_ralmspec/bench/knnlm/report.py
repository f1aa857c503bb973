"""What ``ralmspec bench knnlm`` prints."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from langchain_ralmspec.bench.contest import SEQUENTIAL
from langchain_ralmspec.bench.table import print_plainly, spread

PAPER = {"exact": {1: 7.59, 1024: 3.88}, "approximate": {1: 2.45, 1024: 2.37}}
"""The speed-ups that the paper has, up to, by kind of search and k."""

_PARTS = ("generating", "guessing", "waiting", "searching")

_COUNTED = (
    ("tokens", "tokens_kept"),
    ("rolled\nback", "tokens_rolled_back"),
    ("store\ncalls", "store_calls"),
)

_EXPLAINED = (
    "Attainable is what the best fixed stride would reach, were every cost always the "
    "mean that was measured at this k, b(s) being fitted to the verifications of all "
    "rows; reached compares sums of seconds with it. Seconds are those on the clock; "
    "they include reading the prompt, which no part does. An untimed prompt warmed up "
    "every row."
)


def report(figures: dict[str, Any], console: Console) -> None:
    """Print the figures of one run."""
    say = partial(print_plainly, console)
    console.print()
    say(_described(figures["workload"]))
    console.print(_speedups(figures))
    console.print(_milliseconds(figures["by_k"]))
    console.print(_costs(figures["by_k"]))
    console.print(_counts(figures["by_k"]))
    say(_EXPLAINED)
    for note in figures["notes"]:
        say(note)
    if figures["perplexity"]:
        console.print(_perplexity(figures["perplexity"]))
    say(f"identical: {'yes' if figures['summary']['identical'] else 'NO'}")


def search_kind(workload: dict[str, Any]) -> str:
    """Exact or approximate, as the paper tells retrievers apart."""
    return "exact" if workload["index"] == "flat" else "approximate"


def _described(workload: dict[str, Any]) -> str:
    parts = f"{workload['real_entries']:,} entries"
    if workload["distractors"]:
        parts += f" + {workload['distractors']:,} distractors"
    return (
        f"{parts}, {workload['index']} index; model {workload['model']}, "
        f"λ = {workload['interpolation']:g}, T = {workload['knn_temperature']:.3g}; "
        f"{workload['limit']} prompts of {workload['prompt_tokens']} tokens, up to "
        f"{workload['max_tokens']} after each."
    )


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _speedups(figures: dict[str, Any]) -> Table:
    table = _table(
        "speed-up over the sequential loop", "k", "", "median", "quartiles",
        "of\ntotals", "attain-\nable", "reached", "identical", "right\nguesses",
    )  # fmt: skip
    by_k = figures["by_k"].items()
    for k, name, row in ((k, *row) for k, of_k in by_k for row in of_k["rows"].items()):
        n_identical = sum(answer["identical"] for answer in row["answers"])
        table.add_row(
            k,
            name,
            *spread(row["speedup_quartiles"]),
            f"{row['summary']['speedup_sums']:.2f}×",
            f"{row['summary']['attainable']:.2f}×",
            f"{row['reached']:.0%}",
            f"{n_identical} of {len(row['answers'])}",
            f"{row['summary']['guess_accuracy']:.0%}",
        )
    kind = search_kind(figures["workload"])
    known = " and ".join(f"{gain}× at k={k}" for k, gain in PAPER[kind].items())
    table.caption = (
        f"the paper, {kind} search: up to {known}, on other machines, models and "
        "datastores"
    )
    return table


def _milliseconds(by_k: dict[str, Any]) -> Table:
    table = _table("milliseconds of a continuation", "k", "", "all", *_PARTS)
    for k, of_k in by_k.items():
        for name, row in {SEQUENTIAL: of_k[SEQUENTIAL], **of_k["rows"]}.items():
            seconds = (row["seconds"][part] for part in ("all", *_PARTS))
            table.add_row(k, name, *(f"{1e3 * each:.0f}" for each in seconds))
    table.caption = "searching is part of waiting"
    return table


def _costs(by_k: dict[str, Any]) -> Table:
    table = _table(
        "milliseconds that decide", "k", "a, a token", "a guess", "b(1)", "b(s)",
        "retrieval\nshare", "ceiling\n1 + b/a",
    )  # fmt: skip
    for k, of_k in by_k.items():
        costs = next(reversed(of_k["rows"].values()))["costs_seconds"]
        line = costs["verification"]
        table.add_row(
            k,
            f"{1e3 * costs['generation']:.2f}",
            f"{1e3 * costs['guess']:.2f}" if costs["guess"] else "–",
            f"{1e3 * costs['retrieval']:.2f}",
            f"{1e3 * line['base']:.2f} + {1e3 * line['per_query']:.2f}·s",
            f"{of_k['retrieval_share']:.0%}",
            f"{of_k['ceiling']:.2f}×",
        )
    table.caption = "b(1) is the sequential loop's"
    return table


def _counts(by_k: dict[str, Any]) -> Table:
    """What each row did; for strides it is how many tokens a call verified."""
    table = _table("in all", "k", "", *(heading for heading, _ in _COUNTED))
    table.add_column("strides chosen most often")
    for k, of_k in by_k.items():
        for name, row in {SEQUENTIAL: of_k[SEQUENTIAL], **of_k["rows"]}.items():
            counts = (f"{row['counts'][count]:,}" for _, count in _COUNTED)
            plans = row.get("plans", {}).items()
            shown = [f"{plan} {share:.0%}" for plan, share in plans]
            table.add_row(k, name, *counts, ", ".join(shown[:5]))
    return table


def _perplexity(perplexity: dict[str, Any]) -> Table:
    rows = perplexity["rows"]
    shares = sorted({row["interpolation"] for row in rows})
    table = _table(
        f"perplexity over {perplexity['tokens']:,} tokens, by λ",
        "k", "T", *(f"{share:g}" for share in shares),
    )  # fmt: skip
    lines: dict[tuple[int, float], dict[float, str]] = {}
    for row in rows:
        said = f"{row['perplexity']:.2f}{'*' if row['is_best'] else ''}"
        line = lines.setdefault((row["k"], row["temperature"]), {})
        line[row["interpolation"]] = said
    for (k, temperature), line in lines.items():
        table.add_row(str(k), f"{temperature:.3g}", *(line[share] for share in shares))
    table.caption = "* the best λ of its line; λ = 0 is the model alone"
    return table
