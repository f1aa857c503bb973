"""Pictures of what ``ralmspec bench knnlm`` measured."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.bench.knnlm.report import PAPER, search_kind
from langchain_ralmspec.bench.plots import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito's palette, which people tell apart whatever colours they see.
_BLUE, _ORANGE, _RED, _GREY = "#0072b2", "#e69f00", "#d55e00", "#999999"
_GREEN, _PINK, _SKY = "#009e73", "#cc79a7", "#56b4e9"
_ROW_COLOURS = (_BLUE, _SKY)
_K_COLOURS = (_BLUE, _ORANGE, _GREEN, _PINK, _RED, _SKY)
_STYLES = {0.5: ":", 1.0: "-", 2.0: "--"}


def draw(run: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all there is to see in a run.

    Args:
        run: what ``bench knnlm`` returned.
        folder: where the pictures go.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require()
    figures = {"speedups": speedups(run), "verification": verification(run)}
    if run["perplexity"]:
        figures["perplexity"] = perplexity(run)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=160)
    return files


def speedups(run: dict[str, Any]) -> Figure:
    """Speed-up by k and row, beside the paper's."""
    from matplotlib.figure import Figure

    by_k, paper = run["by_k"], PAPER[search_kind(run["workload"])]
    names = list(next(iter(by_k.values()))["rows"])
    figure = Figure(figsize=(2.4 + 1.3 * (len(by_k) + len(paper)), 4.4))
    axes = figure.subplots()
    width = 0.8 / len(names)
    for number, (name, colour) in enumerate(zip(names, _ROW_COLOURS, strict=False)):
        rows = [of_k["rows"][name] for of_k in by_k.values()]
        offset = (number + 0.5) * width - 0.4
        places = [place + offset for place in range(len(rows))]
        bars = axes.bar(
            places,
            [row["speedup_quartiles"][1] for row in rows],
            0.94 * width,
            color=colour,
            label=f"{name}, median",
        )
        axes.bar_label(bars, fmt="%.2f", size=8, color="white", label_type="center")
        _whiskers(axes, places, [row["speedup_quartiles"] for row in rows])
    axes.hlines(
        [of_k["attainable"] for of_k in by_k.values()],
        [place - 0.44 for place in range(len(by_k))],
        [place + 0.44 for place in range(len(by_k))],
        colors=_ORANGE,
        lw=2.5,
        label="attainable",
    )
    behind = range(len(by_k), len(by_k) + len(paper))
    bars = axes.bar(
        behind, list(paper.values()), 0.5, color=_GREY, hatch="//", edgecolor="white",
        label="the paper, up to, elsewhere",
    )  # fmt: skip
    axes.bar_label(bars, fmt="%.2f", size=8)
    axes.set_xticks(
        range(len(by_k) + len(paper)),
        [*(f"k = {k}" for k in by_k), *(f"k = {k}\n(paper)" for k in paper)],
    )
    axes.axhline(1.0, color=_GREY, lw=1, ls=":")
    axes.set_ylabel("speed-up over the sequential loop")
    axes.set_title(_title(run["workload"]), size=10)
    _finish(figure, axes)
    return figure


def _whiskers(
    axes: Axes, places: Sequence[float], quartiles: Sequence[Sequence[float]]
) -> None:
    axes.errorbar(
        places,
        [middle for _, middle, _ in quartiles],
        [
            [middle - low for low, middle, _ in quartiles],
            [high - middle for _, middle, high in quartiles],
        ],
        fmt="none",
        ecolor="black",
        capsize=3,
        lw=1,
    )


def verification(run: dict[str, Any]) -> Figure:
    """Seconds of every verification by its queries, and the lines through them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.4))
    axes = figure.subplots()
    for (k, of_k), colour in zip(
        run["by_k"].items(), itertools.cycle(_K_COLOURS), strict=False
    ):
        rows = list(of_k["rows"].values())
        points = [
            point
            for row in rows
            for answer in row["answers"]
            for point in answer["speculative"]["verifications"]
        ]
        axes.plot(
            [n for n, _ in points], [1e3 * seconds for _, seconds in points], "o",
            ms=3, alpha=0.25, color=colour,
        )  # fmt: skip
        costs = rows[-1]["costs_seconds"]
        line, most = costs["verification"], max((n for n, _ in points), default=1)
        axes.plot(
            [1, most],
            [1e3 * (line["base"] + line["per_query"] * n) for n in (1, most)],
            color=colour,
            label=f"k = {k}: {1e3 * line['base']:.1f} + "
            f"{1e3 * line['per_query']:.2f}·s ms",
        )
        axes.plot(1, 1e3 * costs["retrieval"], "D", ms=7, mfc="none", color=colour)
    axes.plot([], [], "D", mfc="none", color="black", label="sequential, b(1)")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("queries in a verification, s")
    axes.set_ylabel("milliseconds, b(s)")
    axes.set_title(_title(run["workload"]), size=10)
    _finish(figure, axes)
    return figure


def perplexity(run: dict[str, Any]) -> Figure:
    """Perplexity by λ, a colour for each k and a style for each T."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4))
    axes = figure.subplots()
    lines: dict[tuple[int, float], list[dict[str, Any]]] = {}
    for row in run["perplexity"]["rows"]:
        key = row["k"], row["default_temperatures"]
        lines.setdefault(key, []).append(row)
    ks = list(dict.fromkeys(k for k, _ in lines))
    colours = dict(zip(ks, itertools.cycle(_K_COLOURS), strict=False))
    for (k, factor), rows in lines.items():
        axes.plot(
            [row["interpolation"] for row in rows],
            [row["perplexity"] for row in rows],
            _STYLES[factor],
            marker="o",
            ms=3,
            color=colours[k],
            label=f"k = {k}, T = {rows[0]['temperature']:.3g}",
        )
    axes.set_xlabel("λ, the neighbours' share")
    axes.set_ylabel("perplexity")
    workload = run["workload"]
    axes.set_title(
        f"{run['perplexity']['tokens']:,} tokens, {workload['real_entries']:,} entries",
        size=10,
    )
    _finish(figure, axes)
    return figure


def _title(workload: dict[str, Any]) -> str:
    n_entries = workload["real_entries"] + workload["distractors"]
    return f"{workload['index']}, {n_entries:,} entries, {workload['model']}"


def _finish(figure: Figure, axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
