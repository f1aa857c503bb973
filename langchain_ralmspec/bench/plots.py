"""Pictures of what ``ralmspec bench ralm`` measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Span = dict[str, Any]

# Of Okabe and Ito's palette, which people tell apart whatever colours they see.
_BLUE, _ORANGE, _RED, _GREY = "#0072b2", "#e69f00", "#d55e00", "#999999"
_PANELS_A_LINE = 4
_MAX_EMPTY = 2.0  # a ceiling this many times above everything else is only named

_LOOKS = {
    ("generating", True): ("generated, kept", _BLUE, ""),
    ("generating", False): ("generated, rolled back", _RED, "////"),
    ("verifying", True): ("retrieved or verified", _ORANGE, ""),
    ("verifying", False): ("found wrong, or dropped", _GREY, r"\\\\"),
}


def require() -> None:
    """Check that there is something to plot with.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError.of("matplotlib", "plots") from error
    mpl.rcParams["hatch.linewidth"] = 0.8


def draw(runs: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw all there is to see in some runs.

    Args:
        runs: what ``bench ralm`` returned or wrote, one for each store.
        folder: where the pictures go.

    Returns:
        The files: one picture of speed-ups, and a timeline for each run.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require()
    figures = {"speedups": speedups(runs)}
    for number, run in enumerate(runs, start=1):
        name = "timeline" if len(runs) == 1 else f"timeline-{number}"
        figures[name] = timeline(run)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=160)
    return files


def speedups(runs: Sequence[dict[str, Any]]) -> Figure:
    """Speed-up by booster, a panel for each run."""
    from matplotlib.figure import Figure

    n_columns = min(len(runs), _PANELS_A_LINE)
    n_lines = math.ceil(len(runs) / n_columns)
    height = 0.6 + 3.4 * n_lines
    figure = Figure(figsize=(1.2 + 3.6 * n_columns, height))
    axes = list(figure.subplots(n_lines, n_columns, squeeze=False).flat)
    for panel, run in zip(axes, runs, strict=False):
        _speedup_panel(panel, run)
    for empty in axes[len(runs) :]:
        empty.set_axis_off()
    for first in axes[::n_columns]:
        first.set_ylabel("speed-up over the sequential loop")
    handles, labels = axes[0].get_legend_handles_labels()
    n_legend = 4 if n_columns > 1 else 2
    figure.legend(handles, labels, loc="lower center", ncols=n_legend, frameon=False)
    figure.tight_layout(rect=(0, 0.55 / height, 1, 1))
    return figure


def _speedup_panel(axes: Axes, run: dict[str, Any]) -> None:
    rows = run["rows"]
    places = range(len(rows))
    quartiles = [row["speedup_quartiles"] for row in rows.values()]
    medians = [middle for _, middle, _ in quartiles]
    attainable = [row["summary"]["attainable"] for row in rows.values()]
    whiskers = [
        [middle - low for low, middle, _ in quartiles],
        [high - middle for _, middle, high in quartiles],
    ]
    axes.bar(places, medians, 0.62, color=_BLUE, label="median")
    axes.errorbar(
        places, medians, whiskers, fmt="none", ecolor="black", capsize=3, lw=1,
        label="quartiles",
    )  # fmt: skip
    axes.hlines(
        attainable,
        [place - 0.42 for place in places],
        [place + 0.42 for place in places],
        colors=_ORANGE,
        lw=2.5,
        label="attainable",
    )
    for place, median in zip(places, medians, strict=True):
        axes.text(
            place, 0.04, f"{median:.2f}", ha="center", va="bottom", size=8,
            color="white", transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    highest = 1.12 * max(*attainable, *(high for *_, high in quartiles), 1.0)
    _mark_ceiling(axes, run["summary"]["ceiling"], highest)
    axes.axhline(1.0, color=_GREY, lw=1, ls=":")
    axes.set_xticks(places, list(rows))
    axes.set_title(_panel_title(run["workload"]), size=10)
    axes.spines[["top", "right"]].set_visible(False)


def _mark_ceiling(axes: Axes, ceiling: float, highest: float) -> None:
    if ceiling < _MAX_EMPTY * highest:
        axes.set_ylim(0, max(highest, 1.06 * ceiling))
    else:
        axes.set_ylim(0, highest)
        axes.set_xlabel(f"ceiling {ceiling:.1f}×, above", size=8)
    axes.axhline(ceiling, color=_RED, lw=1.2, ls="--", label="ceiling 1 + b/a")


def _panel_title(workload: dict[str, Any]) -> str:
    n_vectors = workload["passages"] + workload["distractors"]
    second = f"{n_vectors:,} vectors" if workload["distractors"] else ""
    if workload["latency"]:
        second = f"{1e3 * workload['latency']:g} ms each way"
    return f"{workload['store']}\n{second or f'{n_vectors:,} passages'}"


def timeline(run: dict[str, Any]) -> Figure:
    """One request by both loops, on one scale: what the model and the store did."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    told = run["timeline"]
    figure = Figure(figsize=(11, 4.2))
    upper, lower = figure.subplots(2, 1, sharex=True)
    end = 0.0
    for axes, loop in ((upper, "sequential"), (lower, "speculative")):
        last = max((span["end"] for span in told[loop]), default=0.0)
        end = max(end, last)
        _lanes(axes, told[loop])
        axes.set_title(f"{loop}: {last:.0f} ms", size=10, loc="left")
    lower.set_xlim(0, 1.01 * end)
    lower.set_xlabel("milliseconds since the question")
    figure.suptitle(f"{_one_line(run['workload'])}: “{told['question']}”", size=10)
    figure.legend(
        handles=[
            Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=label)
            for label, colour, hatch in _LOOKS.values()
        ],
        loc="lower center",
        ncols=4,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return figure


def _one_line(workload: dict[str, Any]) -> str:
    return _panel_title(workload).replace("\n", ", ")


def _lanes(axes: Axes, spans: Sequence[Span]) -> None:
    """Draw the model's lane above the store's, calls in flight below one another."""
    for (kind, kept), (_, colour, hatch) in _LOOKS.items():
        lane = [span for span in spans if span["kind"] == kind]
        n_tracks, bottom = 1, 1.1
        tracks = [0] * len(lane)
        if kind == "verifying":
            tracks, bottom = _tracks(lane), 0.0
            n_tracks = 1 + max(tracks, default=0)
        for span, track in zip(lane, tracks, strict=True):
            if span["kept"] is kept:
                axes.broken_barh(
                    [(span["start"], span["end"] - span["start"])],
                    (bottom + 0.9 * (1 - (track + 1) / n_tracks), 0.9 / n_tracks),
                    facecolor=colour,
                    hatch=hatch,
                    edgecolor="white",
                    lw=0.4,
                )
    axes.set_yticks([1.55, 0.45], ["model", "store"])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _tracks(spans: Sequence[Span]) -> list[int]:
    """The first track that is free for each span, so that none hides another."""
    ends: list[float] = []  # of the last span on each track
    tracks = []
    for span in spans:
        free = (track for track, end in enumerate(ends) if end <= span["start"])
        track = next(free, len(ends))
        ends[track : track + 1] = [span["end"]]
        tracks.append(track)
    return tracks
