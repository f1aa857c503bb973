"""What ``ralmspec bench ralm`` prints."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from langchain_ralmspec.bench.comparison import PARTS
from langchain_ralmspec.bench.contest import SEQUENTIAL
from langchain_ralmspec.bench.ralm.contest import NARROW, READ
from langchain_ralmspec.bench.table import new_table, print_plainly, spread


def report(figures: dict[str, Any], console: Console) -> None:
    """Print the figures of one run."""
    workload, summary = figures["workload"], figures["summary"]
    say = partial(print_plainly, console)
    console.print()
    say(_described(workload))
    console.print(_speedups(figures))
    console.print(_first_text(figures))
    console.print(_seconds(figures))
    console.print(_plans(figures))
    row = figures["summary_of"]
    costs = figures["rows"][row]["costs_seconds"]
    say(
        f"Of {row}: a = {1e3 * costs['generation']:.0f} ms to generate a step, "
        f"b = {1e3 * costs['retrieval']:.0f} ms to retrieve: retrieval is "
        f"{figures['retrieval_share']:.0%} of the sequential time, the ceiling 1 + b/a "
        f"is {summary['ceiling']:.2f}×.\n"
        "Attainable is what the best plan of one stride would reach in answers of "
        "these lengths, the first retrieval paid in full where no replica guesses it, "
        "were all waiting free to "
        "overlap with work, and every cost and the share of right guesses always the "
        "mean that was measured in this row, in one with fewer boosters, or of "
        "repeating documents, where that makes it more. % of it compares sums of "
        "seconds with it. First text is the median time to "
        "what a stream gives first, sooner the median over the questions of the "
        "sequential loop's, for which nothing was read before, to it. "
        f"{workload['warm_up_questions']} untimed questions warmed up every row.",
    )
    if workload["distractors"]:
        say(
            f"{workload['distractors']:,} distractors are random unit vectors: they "
            "make the search cost what a corpus of that size costs, and are "
            "practically never what a query finds.",
        )
    if figures[NARROW]:
        say(
            "In this store the hits may depend on how many are asked for. "
            f"'{NARROW}' is the sequential loop that asks for as few as the rows "
            "without prefetching: these must give its answers. All speed-ups are over "
            f"'{SEQUENTIAL}'.",
        )
    if figures[READ]:
        say(
            f"'{READ}' is the sequential loop whose passages were read before: memory "
            "has been emptied since, and their KV comes from a folder. Rows whose "
            f"names end so are compared with it. Over '{SEQUENTIAL}' they are: "
            + ", ".join(
                f"{name} {row['over_unread']['median']:.2f}×"
                for name, row in _all_rows(figures).items()
                if "over_unread" in row
            )
            + "."
        )
    console.print(f"identical: {'yes' if summary['identical'] else 'NO'}")


def _described(workload: dict[str, Any]) -> str:
    parts = [f"{workload['passages']:,} passages"]
    if workload["distractors"]:
        parts.append(f"{workload['distractors']:,} distractors")
    where = f"{' + '.join(parts)} in {workload['store']}"
    if workload["latency"]:
        where += f", {1e3 * workload['latency']:g} ms away each way"
    if workload["embedding_server"] is not None:
        where += (
            ", queries embedded by a server at a round trip of "
            f"{1e3 * workload['embedding_server']:g} ms"
        )
    return (
        f"{where}; model {workload['model']}, up to {workload['max_tokens']} tokens, "
        f"embedding {workload['embedding']}."
    )


def _speedups(figures: dict[str, Any]) -> Table:
    table = new_table(
        "speed-up over the sequential loop", "", "median", "quartiles", "attain- able",
        "% of it", "identical", "right guesses", "proven",
    )  # fmt: skip
    if figures[NARROW]:
        table.add_row(NARROW, *spread(figures[NARROW]["speedup_quartiles"]))
    if figures[READ]:
        table.add_row(READ, *spread(figures[READ]["speedup_quartiles"]))
    for name, row in figures["rows"].items():
        n_identical = sum(answer["identical"] for answer in row["answers"])
        table.add_row(
            name,
            *spread(row["speedup_quartiles"]),
            f"{row['summary']['attainable']:.2f}×",
            f"{row['reached']:.0%}",
            f"{n_identical} of {len(row['answers'])}",
            f"{row['summary']['guess_accuracy']:.0%}",
            f"{row['proven']:.0%}",
        )
    return table


def _plans(figures: dict[str, Any]) -> Table:
    """What each row did: the guess policy, queries in a call × calls in flight."""
    table = new_table("plans followed most often", "")
    table.add_column("")
    for name, row in figures["rows"].items():
        shown = [f"{plan} {share:.0%}" for plan, share in row["plans"].items()]
        table.add_row(name, ", ".join(shown[:4]))
    return table


def _all_rows(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sequential loop, also the narrow one where there is one, and the others."""
    loops = (SEQUENTIAL, NARROW, READ)
    sequential = {name: figures[name] for name in loops if figures[name]}
    return {**sequential, **figures["rows"]}


def _first_text(figures: dict[str, Any]) -> Table:
    table = new_table("the first text of a stream, median", "", "seconds", "sooner")
    for name, row in _all_rows(figures).items():
        first = row["first_text"]
        table.add_row(name, f"{first['seconds']:.3f}", f"{first['sooner']:.2f}×")
    return table


def _seconds(figures: dict[str, Any]) -> Table:
    table = new_table("milliseconds of an answer", "", "all", *PARTS)
    for name, row in _all_rows(figures).items():
        seconds = (row["seconds"][part] for part in ("all", *PARTS))
        table.add_row(name, *(f"{1e3 * each:.0f}" for each in seconds))
    table.caption = (
        "embedding and searching are part of guessing and waiting, or run beside them"
    )
    return table
