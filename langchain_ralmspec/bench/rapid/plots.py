"""Pictures of what ``ralmspec bench rapid`` measured."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_ralmspec.bench.plots import require
from langchain_ralmspec.bench.rapid.contest import PLAIN, RAG, SD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

# Of Okabe and Ito's palette, which people tell apart whatever colours they see.
_BLUE, _ORANGE, _RED, _GREY = "#0072b2", "#e69f00", "#d55e00", "#999999"
_GREEN, _PINK, _SKY = "#009e73", "#cc79a7", "#56b4e9"
_ROW_COLOURS = (_BLUE, _ORANGE, _GREEN, _PINK, _SKY, _RED)
_DRAFTER_COLOURS = (_ORANGE, _SKY, _GREEN, _PINK)
_COLUMNS = 96
_MAX_LINES = 24


def draw(run: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all there is to see in a run.

    Args:
        run: what ``bench rapid`` returned.
        folder: where the pictures go.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require()
    figures = {
        "acceptance": acceptance(run),
        "costs": costs(run),
        "answer": answer(run),
    }
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=160)
    return files


def _drafting(run: dict[str, Any]) -> dict[str, Any]:
    """Rows that may draft, by name."""
    names = (name for name in run["rows"] if name not in (PLAIN, RAG))
    return {name: run["rows"][name] for name in names}


def acceptance(run: dict[str, Any]) -> Figure:
    """Acceptance by position in the draft: of tokens whose predecessors were right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    markers = itertools.cycle("osv^D")  # lines may lie upon one another
    for (name, row), colour in _coloured(_drafting(run).items()):
        judged = row["acceptance_by_position"]
        shares = [right / n for n, right in judged]
        places = range(1, len(judged) + 1)
        axes.plot(
            places,
            shares,
            f"{next(markers)}-",
            ms=6,
            color=colour,
            alpha=0.8,
            label=name,
        )
    if not any(row["acceptance_by_position"] for row in _drafting(run).values()):
        axes.text(
            0.5, 0.5, "nothing was drafted", ha="center", transform=axes.transAxes
        )
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("position in the draft")
    axes.set_ylabel("accepted, once all before it were")
    _tidy(axes)
    _legend(axes)
    figure.tight_layout()
    return figure


def costs(run: dict[str, Any]) -> Figure:
    """What a pass over n tokens costs, and the lengths that were chosen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.4))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for measured, colour in _coloured(run["batch_costs"]):
        seconds = {int(n): value for n, value in measured["seconds"].items()}
        ratios = [value / seconds[1] for value in seconds.values()]
        label = f"behind {measured['prompt_tokens']:,} tokens"
        upper.plot(list(seconds), ratios, "o-", ms=4, color=colour, label=label)
    upper.axhline(1.0, color=_GREY, lw=1, ls=":")
    upper.set_ylim(bottom=0)
    upper.set_ylabel("v(n) / v(1)")
    _tidy(upper)
    _legend(upper)
    _histogram(lower, _drafting(run))
    lower.set_xlabel("tokens in a pass: the drafted ones and the one before them")
    figure.tight_layout()
    return figure


def _histogram(axes: Axes, rows: dict[str, Any]) -> None:
    width = 0.8 / max(1, len(rows))
    for number, ((name, row), colour) in enumerate(_coloured(rows.items())):
        total = sum(row["lengths"].values()) or 1
        places = [int(n) + 1 + (number + 0.5) * width - 0.4 for n in row["lengths"]]
        shares = [n / total for n in row["lengths"].values()]
        axes.bar(places, shares, width, color=colour, label=name)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of the passes")
    _tidy(axes)
    _legend(axes)


def answer(run: dict[str, Any]) -> Figure:
    """One answer as text, every token in the colour of who proposed it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    row, sample = _shown(run)
    told = sample["rows"][row]
    lines = list(_lines(told["pieces"], told["sources"]))[:_MAX_LINES]
    names = [name for name in dict.fromkeys(told["sources"]) if name != "target"]
    colours = {"target": "#eeeeee", **dict(_coloured(names, _DRAFTER_COLOURS))}
    figure = Figure(figsize=(8, 1.4 + 0.24 * max(1, len(lines))))
    axes = figure.subplots()
    for line, spans in enumerate(lines):
        for column, text, source in spans:
            _token(axes, line, column, text, colours[source])
    axes.set_xlim(0, _COLUMNS)
    axes.set_ylim(max(1, len(lines)), 0)
    axes.set_axis_off()
    title = textwrap.shorten(sample["question"], 90, placeholder=" …")
    figure.suptitle(f"{row}: “{_plain(title)}”", size=10)
    figure.legend(
        handles=[Patch(facecolor=colours[name], label=name) for name in colours],
        loc="lower center",
        ncols=len(colours),
        frameon=False,
    )
    figure.subplots_adjust(left=0.02, right=0.98, top=0.86, bottom=0.2)
    return figure


def _shown(run: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The row and the sample with the most accepted tokens."""
    row = SD if SD in run["rows"] else next(reversed(run["rows"]))

    def n_accepted(sample: dict[str, Any]) -> int:
        sources = sample["rows"][row]["sources"]
        return sum(source != "target" for source in sources)

    return row, max(run["samples"], key=n_accepted)


def _lines(
    pieces: Sequence[str], sources: Sequence[str]
) -> Iterator[list[tuple[int, str, str]]]:
    """Lines of (column, text, source); tokens are cut where a line ends."""
    line: list[tuple[int, str, str]] = []
    column = 0
    for piece, source in zip(pieces, sources, strict=True):
        for number, part in enumerate(piece.split("\n")):
            if number or column + len(part) > _COLUMNS:
                yield line
                line, column = [], 0
            if part:
                line.append((column, part[:_COLUMNS], source))
                column += len(part)
    yield line


def _token(axes: Axes, line: int, column: int, text: str, colour: str) -> None:
    axes.broken_barh(
        [(column + 0.04, len(text) - 0.08)], (line + 0.06, 0.88), fc=colour
    )
    for number, character in enumerate(text):
        # One by one: the font's own advance need not be our column's width.
        axes.text(
            column + number + 0.5, line + 0.5, _plain(character), size=8,
            family="monospace", ha="center", va="center",
        )  # fmt: skip


def _plain(text: str) -> str:
    """A text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def _coloured(
    things: Iterable[T], colours: Sequence[str] = _ROW_COLOURS
) -> Iterator[tuple[T, str]]:
    return zip(things, itertools.cycle(colours), strict=False)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
