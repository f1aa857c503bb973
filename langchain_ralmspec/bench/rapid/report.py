"""What ``ralmspec bench rapid`` prints."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from langchain_ralmspec.bench.rapid.contest import PLAIN, RAG, SD
from langchain_ralmspec.bench.table import new_table, print_plainly, spread

_MAX_LISTED = 12
_NOTHING = "–"

_PARTS = {
    "where_quoting": "where answers quote",
    "where_not_quoting": "where they do not",
}

_EXPLAINED = (
    "Decoding is compared by the token, with every second behind the first one. Best "
    "fixed is what the best fixed policy would have reached in sums of seconds, known "
    "afterwards, with passes as timed before and after each question's answers, and "
    "v(1) from its plain answer; reached is of totals ÷ that. Oracle is what look-up "
    "would reach by perfect foresight, as nobody can: of every draft as many tokens as "
    "are right and worth it. An answer quotes if at least half of the tokens of the "
    "plain one stand in the prompt, eight in a row. A second question finds the KV of "
    "the context in memory, a first one has it read.\n"
    "An untimed question, none of the measured ones, has warmed up every row: it knows "
    "what passes cost there, and how often drafts are right. A fresh process learns "
    "that from its first answers, once per model and context length."
)


def report(figures: dict[str, Any], console: Console) -> None:
    """Print the figures of one run."""
    say = partial(print_plainly, console)
    console.print()
    say(_described(figures))
    console.print(_decoding("decoding, speed-up over plain", figures["rows"]))
    n_all = len(figures["samples"])
    for part, which in _PARTS.items():
        rows = {name: row[part] for name, row in figures["rows"].items()}
        n_answers = rows[PLAIN]["n_answers"]
        if 0 < n_answers < n_all:
            title = f"the same {which} ({n_answers} of {n_all})"
            console.print(_decoding(title, rows))
    console.print(_questions(figures["rows"]))
    console.print(_answers(figures["rows"], n_all))
    console.print(_costs(figures["batch_costs"]))
    say(_EXPLAINED)
    for name, row in figures["rows"].items():
        if row["lengths"] and name not in (PLAIN, RAG):
            say(f"{name}: drafts of {_lengths(row['lengths'])}{_best(row)}.")
    for note in (*figures["notes"], *_dropped(figures["samples"])):
        say(note)
    for line in _divergences(figures["rows"]):
        say(line)
    name = SD if SD in figures["rows"] else next(reversed(figures["rows"]))
    identical = "yes" if figures["summary"]["identical"] else "NO"
    say(f"{name} identical to plain decoding: {identical}")


def _described(figures: dict[str, Any]) -> str:
    workload = figures["workload"]
    tokens = [sample["prompt_tokens"] for sample in figures["samples"]]
    exact = ", exact batches" if workload["exact_batches"] else ""
    return (
        f"{len(tokens)} questions ({workload['task']}) about {workload['contexts']} "
        f"contexts, prompts of {min(tokens):,} to {max(tokens):,} tokens; target "
        f"{workload['target']}, drafter {workload['drafter']}, up to "
        f"{workload['max_tokens']} tokens{exact}."
    )


def _decoding(title: str, rows: dict[str, Any]) -> Table:
    table = new_table(
        title, "", "tokens /s", "median", "quartiles", "of totals", "best fixed",
        "reached", "oracle",
    )  # fmt: skip
    for name, row in rows.items():
        table.add_row(
            name,
            _number(row["decode_tokens_a_second"], "{:.1f}"),
            *_spread(row["decode"]),
            _number(row["decode_of_totals"], "{:.2f}×"),
            _number(row["attainable"], "{:.2f}×"),
            _number(row["reached"], "{:.0%}"),
            _number(row["oracle"], "{:.2f}×"),
        )
    return table


def _questions(rows: dict[str, Any]) -> Table:
    table = new_table(
        "end to end: speed-up over plain, and seconds to the first token", "",
        "second question", "first question", "first: s", "second: s",
        "from folder: s",
    )  # fmt: skip
    for name, row in rows.items():
        seconds = row["first_token_seconds"]
        table.add_row(
            name,
            _spread(row["second_question"])[0],
            _spread(row["first_question"])[0],
            *(_number(seconds[at], "{:.2f}") for at in ("first", "second", "disk")),
        )
    return table


def _answers(rows: dict[str, Any], n_samples: int) -> Table:
    table = new_table(
        "answers", "", "identical", "acceptance", "tokens a pass", "F1", "exact match",
        "contains it",
    )  # fmt: skip
    for name, row in rows.items():
        quality = row["quality"] or {}
        table.add_row(
            name,
            f"{row['n_identical']} of {n_samples}",
            _number(row["acceptance"], "{:.0%}"),
            _number(row["tokens_per_pass"], "{:.2f}"),
            _number(quality.get("f1"), "{:.2f}"),
            _number(quality.get("exact"), "{:.0%}"),
            _number(quality.get("contains"), "{:.0%}"),
        )
    return table


def _costs(batch_costs: list[dict[str, Any]]) -> Table:
    sizes = sorted({n for costs in batch_costs for n in costs["seconds"]})
    headings = ("behind", "v(1), ms", *(f"n={n}" for n in sizes))
    table = new_table("v(n) ÷ v(1): a pass of n tokens", *headings)
    for costs in batch_costs:
        seconds = costs["seconds"]
        shown = (
            f"{seconds[n] / seconds[1]:.2f}" if n in seconds else _NOTHING
            for n in sizes
        )
        behind = f"{costs['prompt_tokens']:,}"
        table.add_row(behind, f"{1e3 * seconds[1]:.1f}", *shown)
    return table


def _lengths(lengths: dict[int, int]) -> str:
    total = sum(lengths.values())
    ranked = sorted(lengths.items(), key=lambda item: -item[1])[:8]
    shown = ", ".join(f"{length} ({n / total:.0%})" for length, n in ranked)
    return f"{shown} tokens in {total} passes"


def _best(row: dict[str, Any]) -> str:
    return f"; best afterwards: {row['attainable_by']}" if row["attainable_by"] else ""


def _dropped(samples: list[dict[str, Any]]) -> list[str]:
    dropped = [each["dropped_tokens"] for each in samples if each["dropped_tokens"]]
    if not dropped:
        return []
    said = (
        f"{len(dropped)} of {len(samples)} contexts were too long: up to "
        f"{max(dropped):,} tokens at their ends were dropped."
    )
    return [said]


def _divergences(rows: dict[str, Any]) -> list[str]:
    """Where lossless answers differ, and how sure the target was there."""
    found = rows[SD]["divergences"] if SD in rows else []
    lines = [
        f"  sample {one['sample']}, token {one['position'] + 1}: plain "
        f"{_token(one['plain'])}, {SD} {_token(one['other'])}, margin "
        f"{one['margin']:.3f} logits"
        for one in found[:_MAX_LISTED]
    ]
    if len(found) > _MAX_LISTED:
        lines.append(f"  and {len(found) - _MAX_LISTED} more")
    if lines:
        lines.insert(
            0, "Answers that differ, with the target's margin between its best two:"
        )
    return lines


def _token(piece: str | None) -> str:
    return "the end" if piece is None else repr(piece)


def _spread(speedup: dict[str, Any] | None) -> tuple[str, str]:
    if speedup is None:
        return _NOTHING, _NOTHING
    return spread(speedup["quartiles"])


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else form.format(value)
