"""What ``ralmspec bench quality`` prints."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from langchain_ralmspec.bench.quality.policies import ONCE
from langchain_ralmspec.bench.table import new_table, print_plainly

_NOTHING = "–"
_SHARE, _NUMBER, _GAIN = "{:.0%}", "{:.2f}", "{:+.2f}"

_EXPLAINED = (
    "Below a mean is its bootstrap interval of 95 %, over questions or pieces. "
    "Contains it: a right answer stands in the answer. Faithful: the share of its "
    "content words that stand in the passage that answers the question. Gold read: "
    "answers under documents with that passage among them. Look-ups, documents and "
    "tokens are those of the answer as it is, without what was taken back."
)


def report(figures: dict[str, Any], console: Console) -> None:
    """Print the figures of one run."""
    say = partial(print_plainly, console)
    console.print()
    say(_described(figures["workload"]))
    console.print(_quality(figures["rows"]))
    if ONCE in figures["rows"]:
        console.print(_gains(figures["rows"]))
    console.print(_costs(figures["rows"]))
    say(_EXPLAINED)
    if figures["perplexity"]:
        console.print(_perplexity(figures["perplexity"]))
        say(_scored(figures["perplexity"]))


def _described(workload: dict[str, Any]) -> str:
    return (
        f"{workload['asked']} questions about {workload['passages']:,} passages; model "
        f"{workload['model']}, up to {workload['max_tokens']} tokens, greedy, "
        f"embedding {workload['embedding']}; all rows are told: "
        f"{workload['instruction']!r}"
    )


def _quality(rows: dict[str, Any]) -> Table:
    table = new_table("answers", "", "exact match", "F1", "contains it", "faithful")
    for name, row in rows.items():
        table.add_row(
            name,
            _spread(row["exact"], _SHARE),
            _spread(row["f1"], _NUMBER),
            _spread(row["contains"], _SHARE),
            _spread(row["faithful"], _SHARE),
        )
    return table


def _gains(rows: dict[str, Any]) -> Table:
    table = new_table(f"more than '{ONCE}'", "", "F1", "contains it", "faithful")
    for name, row in rows.items():
        if name != ONCE:
            shown = (row["to_once"][key] for key in ("f1", "contains", "faithful"))
            table.add_row(name, *(_spread(each, _GAIN) for each in shown))
    return table


def _costs(rows: dict[str, Any]) -> Table:
    table = new_table(
        "an answer", "", "gold read", "look-ups", "documents", "tokens", "seconds"
    )
    for name, row in rows.items():
        table.add_row(
            name,
            _spread(row["found"], _SHARE),
            *(f"{row[key]['mean']:.1f}" for key in ("lookups", "documents", "tokens")),
            _spread(row["seconds"], _NUMBER),
        )
    return table


def _perplexity(perplexity: dict[str, Any]) -> Table:
    table = new_table("perplexity", "looked up", "perplexity", "ratio")
    for name, row in perplexity["rows"].items():
        shown = _spread(row["perplexity"], _NUMBER), _spread(row["to_none"], "{:.3f}")
        table.add_row(name, *shown)
    return table


def _scored(perplexity: dict[str, Any]) -> str:
    return (
        f"{perplexity['tokens']:,} tokens were scored, in {perplexity['pieces']} "
        "paragraphs that are held out. The model is given their beginnings, and "
        "documents that are looked up with what stands before, among the text's other "
        f"{perplexity['passages']:,} paragraphs. Ratio: perplexity ÷ that without "
        "documents."
    )


def _spread(mean: dict[str, float] | None, form: str) -> str:
    """A mean, and on the next line its interval."""
    if mean is None:
        return _NOTHING
    low, high = form.format(mean["low"]), form.format(mean["high"])
    return f"{form.format(mean['mean'])}\n{low} to {high}"
