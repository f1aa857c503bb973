"""Which tables the pages have: their rows' result files, and what each cell shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"

Cell = Callable[[Any, str], str]
"""The text for a result file, and for what stands for ``{}`` in the column's path."""


@dataclass(frozen=True)
class Row:
    """A line of a table: its first cells, its result file, and where to look in it."""

    labels: tuple[str, ...]
    file: str
    at: str = ""


@dataclass(frozen=True)
class Table:
    """Headings of the first cells, a cell for each further heading, and the rows."""

    labels: tuple[str, ...]
    cells: Mapping[str, Cell]
    rows: tuple[Row, ...]
    empty: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    def lines(self, page: Path) -> list[str]:
        """The table in Markdown, the last column linking to the files."""
        headings = (*self.labels, *self.cells, "file")
        lines = [headings, ("---",) * len(headings)]
        for row in self.rows:
            figures = _read(row.file)
            shown = (
                "" if (row.at, heading) in self.empty else cell(figures, row.at)
                for heading, cell in self.cells.items()
            )
            folder = RESULTS.relative_to(page.parent).as_posix()
            link = f"[{row.file}]({folder}/{row.file}.json)"
            lines.append((*row.labels, *shown, link))
        return [
            *(
                f"|{'|'.join(line)}|" if line[0] == "---" else f"| {' | '.join(line)} |"
                for line in lines
            ),
            *self._notes(),
        ]

    def _notes(self) -> list[str]:
        """What a reader has to know of the files, a line each."""
        told = {row.file: _read(row.file)["provenance"] for row in self.rows}
        pages = {
            f"`{each['transcribed_from']}` at commit {each['page_commit']}": None
            for each in told.values()
            if "transcribed_from" in each
        }
        notes = [
            f"- *{file}*: {each['note']}."
            for file, each in told.items()
            if "note" in each
        ]
        if pages:
            typed = "Transcribed, not written by a benchmark; before the redesign these"
            shown = f"*{typed} figures stood in {', '.join(pages)}.*"
            notes = [shown, *(["", *notes] if notes else [])]
        return ["", *notes] if notes else []


def _read(file: str) -> Any:
    return json.loads((RESULTS / f"{file}.json").read_text("utf-8"))


def find(figures: Any, path: str) -> Any:
    """What stands at a path with slashes; None where there is nothing."""
    for key in path.split("/"):
        if isinstance(figures, list):
            figures = figures[int(key)]
        elif isinstance(figures, dict) and key in figures:
            figures = figures[key]
        else:
            return None
    return figures


def number(path: str, form: str, times: float = 1.0, *, nothing: str = "") -> Cell:
    """A number; with ``nothing``, that is also what stands for a 0."""

    def cell(figures: Any, at: str) -> str:
        value = find(figures, path.format(at))
        if value is None or (nothing and not value):
            return nothing
        return form.format(times * value)

    return cell


def spread(path: str) -> Cell:
    """The median, bold, and the quartiles around it."""

    def cell(figures: Any, at: str) -> str:
        quartiles = find(figures, path.format(at))
        if quartiles is None:
            return ""
        low, middle, high = quartiles
        return f"**{middle:.2f}** ({low:.2f}–{high:.2f})"

    return cell


def _plans(figures: Any, _: str) -> str:
    plans = find(figures, "rows/+PSA/plans").items()
    return ", ".join(f"{plan} {share:.0%}" for plan, share in [*plans][:3])


def _differ(figures: Any, at: str) -> str:
    row = find(figures, f"rows/SD{at}")
    return f"{row['n_answers'] - row['n_identical']}"


def _as_plain(figures: Any, at: str) -> str:
    row = find(figures, f"rows/{at}")
    return f"{row['n_identical']} of {row['n_answers']}"


def _times_a_token(n_tokens: int) -> Cell:
    def cell(figures: Any, _: str) -> str:
        seconds = find(figures, "batch_costs/-1/seconds")
        return f"{seconds[f'{n_tokens}'] / seconds['1']:.2f}"

    return cell


def _token_and_guess(figures: Any, at: str) -> str:
    costs = find(figures, f"by_k/{at}/rows/+S/costs_seconds")
    token, guess = (f"{1e3 * costs[name]:.1f}" for name in ("generation", "guess"))
    return f"{token}, {guess} ms" if costs["guess"] else f"{token} ms, –"


def _if_guessed(form: str, *paths: str, times: float = 1.0) -> Cell:
    """Numbers of a kNN-LM's row; a dash where it never guessed."""

    def cell(figures: Any, at: str) -> str:
        row = find(figures, f"by_k/{at}/rows/+S")
        if not row["costs_seconds"]["guess"]:
            return "–"
        return form.format(*(times * find(row, path) for path in paths))

    return cell


def _perplexity(interpolation: float) -> Cell:
    def cell(figures: Any, at: str) -> str:
        (row,) = (
            row
            for row in find(figures, "perplexity/rows")
            if (row["k"], row["interpolation"]) == (int(at), interpolation)
            and row["default_temperatures"] == 1
        )
        bold = "**" if row["is_best"] else ""
        return f"{bold}{row['perplexity']:.2f}{bold}"

    return cell


_PSA, _AUTO = "rows/+PSA", "by_k/{}/rows/+S"
_STORES = tuple(
    Row((label,), f"ralm-{file}")
    for label, file in (
        ("exact FAISS, 1 M vectors", "faiss-1m"),
        ("exact FAISS, 3 M vectors", "faiss-3m"),
        ("exact FAISS, 8 M vectors", "faiss-8m"),
        ("HNSW, 50 k passages", "hnsw-50k"),
        ("Chroma in the process, 50 k", "chroma-50k"),
        ("BM25, 200 k passages", "bm25-200k"),
        ("Chroma server, 10 ms each way", "chroma-10ms"),
        ("Chroma server, 25 ms each way", "chroma-25ms"),
        ("Chroma server, 50 ms each way", "chroma-50ms"),
        ("Chroma server, 100 ms each way", "chroma-100ms"),
    )
)
_QWEN, _SMOL = "Qwen2.5-Coder-1.5B Q4_K_M", "SmolLM2-135M"
_QUOTE_QWEN, _QUOTE, _QA = (
    "rapid-qwen-quote",
    "rapid-smollm2-f16-quote",
    "rapid-smollm2-qa",
)

TABLES = {
    "swap": Table(
        ("a question …",),
        {
            "whole answer, before": number("summary/rounds/{}/seconds_old", "{:.2f} s"),
            "after": number("summary/rounds/{}/seconds_new", "{:.2f} s"),
            "sooner": number("summary/rounds/{}/seconds_ratio", "**{:.2f}×**"),
            "first text, before": number(
                "summary/rounds/{}/first_text_old", "{:.2f} s"
            ),
            "after ": number("summary/rounds/{}/first_text_new", "{:.2f} s"),
            "sooner ": number("summary/rounds/{}/first_text_ratio", "**{:.2f}×**"),
        },
        (
            Row(("whose passages are new",), "swap-smollm2", "new"),
            Row(("that is asked again",), "swap-smollm2", "again"),
            Row(("that is put in other words",), "swap-smollm2", "reworded"),
        ),
    ),
    "ralm-short": Table(
        ("store",),
        {
            "retrieval's share of the sequential time": number(
                "retrieval_share", "{:.0%}"
            ),
            "ceiling": number("summary/ceiling", "{:.2f}"),
            "speed-up": number("summary/speedup_median", "**{:.2f}**"),
        },
        _STORES,
    ),
    "ralm": Table(
        ("store",),
        {
            "*a*": number(f"{_PSA}/costs_seconds/generation", "{:.0f} ms", 1e3),
            "*b*": number(f"{_PSA}/costs_seconds/retrieval", "{:.0f} ms", 1e3),
            "retrieval": number("retrieval_share", "{:.0%}"),
            "ceiling": number("summary/ceiling", "{:.2f}"),
            "right": number("summary/guess_accuracy", "{:.0%}", nothing="–"),
            "proven": number(f"{_PSA}/proven", "{:.0%}", nothing="–"),
            "speed-up, median (quartiles)": spread(f"{_PSA}/speedup_quartiles"),
            "of sums": number("summary/speedup_sums", "{:.2f}"),
            "attainable": number("summary/attainable", "{:.2f}"),
            "reached": number(f"{_PSA}/reached", "{:.0%}"),
        },
        _STORES,
    ),
    "boosters": Table(
        ("store",),
        {
            row: number(f"rows/{row}/summary/speedup_median", "{:.2f}")
            for row in ("Spec", "+A", "+PS", "+PSA")
        }
        | {"plans that +PSA followed most": _plans},
        _STORES,
    ),
    "scans": Table(
        ("queries",),
        {
            n: number(f"milliseconds/{{}}/{n}", "{:.0f}")
            for n in ("2", "4", "8", "16", "32")
        },
        tuple(
            Row((scan,), "scan-faiss-1m", scan)
            for scan in (
                "inner product, float32",
                "inner product, bfloat16",
                "L2, FAISS",
                "L2, bfloat16",
            )
        ),
    ),
    "rapid": Table(
        ("model, task",),
        {
            "answers": number("rows/SD{}/n_answers", "{:.0f}"),
            "plain, tokens/s": number("rows/plain{}/decode_tokens_a_second", "{:.1f}"),
            "speed-up, median (quartiles)": spread("rows/SD{}/decode/quartiles"),
            "of totals": number("rows/SD{}/decode_of_totals", "{:.2f}"),
            "best fixed": number("rows/SD{}/attainable", "{:.2f}"),
            "reached": number("rows/SD{}/reached", "{:.0%}"),
            "oracle": number("rows/SD{}/oracle", "{:.2f}"),
            "acceptance": number("rows/SD{}/acceptance", "{:.0%}"),
            "differ": _differ,
        },
        (
            Row((f"{_QWEN}, quoting",), _QUOTE_QWEN),
            Row((f"{_SMOL} F16, quoting",), _QUOTE),
            Row(("of these, answers that do quote",), _QUOTE, "/where_quoting"),
            Row(("of these, the others",), _QUOTE, "/where_not_quoting"),
            Row((f"{_SMOL} Q4_0, questions",), _QA),
        ),
    ),
    "pass-costs": Table(
        ("",),
        {"one token": number("batch_costs/-1/seconds/1", "{:.0f} ms", 1e3)}
        | {f"{n}": _times_a_token(n) for n in (2, 4, 8, 16, 32)},
        (
            Row((_QWEN,), _QUOTE_QWEN),
            Row((f"{_SMOL} F16",), _QUOTE),
            Row((f"{_SMOL} Q4_0",), _QA),
        ),
    ),
    "first-token": Table(
        ("",),
        {
            heading: number(f"rows/SD/first_token_seconds/{at}", form)
            for heading, at, form in (
                ("first question about a text", "first", "{:.1f}"),
                ("a second one", "second", "{:.2f}"),
                ("with the KV read from `kv_cache_dir`", "disk", "{:.2f}"),
            )
        },
        (
            Row((_QWEN,), _QUOTE_QWEN),
            Row((f"{_SMOL} Q4_0",), _QA),
            Row((f"{_SMOL} F16",), _QUOTE),
        ),
    ),
    "quality": Table(
        ("",),
        {
            "F1": number("rows/{}/quality/f1", "{:.2f}"),
            "exact match": number("rows/{}/quality/exact", "{:.0%}"),
            "contains it": number("rows/{}/quality/contains", "{:.0%}"),
            "drafted tokens kept": number("rows/{}/acceptance", "{:.0%}"),
            "as plain decoding": _as_plain,
        },
        tuple(
            Row((label,), "rapid-qwen-squad", row)
            for label, row in (
                ("long context, plain", "plain"),
                ("RAG", "rag"),
                ("SD (transfer off)", "SD"),
                ("RAPID, η = 5", "RAPID η=5"),
                ("RAPID, η = 20", "RAPID η=20"),
            )
        ),
        frozenset({("plain", "as plain decoding")}),
    ),
    "knnlm": Table(
        ("index, entries", "*k*"),
        {
            "*a*, a guess": _token_and_guess,
            "*b(1)*": number(f"{_AUTO}/costs_seconds/retrieval", "{:.1f} ms", 1e3),
            "*b(s)*": _if_guessed(
                "{:.0f} + {:.1f}·s ms",
                "costs_seconds/verification/base",
                "costs_seconds/verification/per_query",
                times=1e3,
            ),
            "search": number("by_k/{}/search_share", "{:.0%}"),
            "ceiling": number(f"{_AUTO}/summary/ceiling", "{:.2f}"),
            "+S, median (quartiles)": spread(f"{_AUTO}/speedup_quartiles"),
            "of sums": number(f"{_AUTO}/summary/speedup_sums", "{:.2f}"),
            "attainable": number(f"{_AUTO}/summary/attainable", "{:.2f}"),
            "reached": _if_guessed("{:.0%}", "reached"),
            "right": _if_guessed("{:.1%}", "summary/guess_accuracy"),
            "Spec": number("by_k/{}/rows/Spec/summary/speedup_median", "{:.2f}"),
        },
        tuple(
            Row((label, k), f"knnlm-{file}", k)
            for label, file in (
                ("exact, 500 k", "500k"),
                ("exact, 2 M", "2m"),
                ("IVF, 300 k", "ivf-300k"),
            )
            for k in ("1", "16", "1024")
        ),
    ),
    "perplexity": Table(
        ("*k*",),
        {
            f"λ = {share:g}": _perplexity(share)
            for share in (0.0, 0.05, 0.1, 0.15, 0.25, 0.4)
        },
        tuple(Row((k,), "knnlm-500k", k) for k in ("1", "16", "1024")),
    ),
    "engine": Table(
        ("`llama_cpp.Llama`'s time ÷ ours",),
        {
            "prompt": number("summary/prompt_ratio", "{:.2f}"),
            "decode": number("summary/decode_ratio", "{:.2f}"),
        },
        (Row(("first run",), "engine-1"), Row(("second run",), "engine-2")),
    ),
}
