from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.collections import PolyCollection
from matplotlib.image import imread

from langchain_ralmspec.bench import plots

ROWS = ("Spec", "+P", "+PSA")


def span(kind: str, start: float, end: float, *, kept: bool = True) -> dict[str, Any]:
    return {"kind": kind, "start": start, "end": end, "kept": kept, "queries": 1}


def run(store: str = "faiss-flat", ceiling: float = 3.0, **workload: Any) -> Any:
    row = {"speedup_quartiles": [1.4, 1.5, 1.7], "summary": {"attainable": 1.8}}
    return {
        "summary": {"ceiling": ceiling},
        "workload": {"store": store, "passages": 5, "distractors": 0, "latency": 0.0}
        | workload,
        "rows": dict.fromkeys(ROWS, row),
        "timeline": {
            "question": "why?",
            "sequential": [span("verifying", 0, 20), span("generating", 20, 50)],
            "speculative": [
                span("generating", 0, 30),
                span("verifying", 10, 40),
                span("generating", 30, 45, kept=False),
                span("verifying", 20, 41, kept=False),
            ],
        },
    }


def test_a_picture_of_each_kind_is_written(tmp_path: Path) -> None:
    files = plots.draw([run()], tmp_path)
    assert [file.name for file in files] == ["speedups.png", "timeline.png"]
    for file in files:
        assert imread(file).std() > 0.05  # something is on it


def test_many_runs_share_one_picture_of_speed_ups(tmp_path: Path) -> None:
    files = plots.draw([run(), run()], tmp_path)
    names = ["speedups.png", "timeline-1.png", "timeline-2.png"]
    assert [file.name for file in files] == names
    figure = plots.speedups([run(latency=0.001 * n) for n in range(1, 7)])
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == [
        f"faiss-flat\n{n} ms each way" for n in range(1, 7)
    ]


def test_bars_whiskers_and_bounds_stand_where_they_were_measured() -> None:
    (axes,) = plots.speedups([run(distractors=1000)]).axes
    assert axes.get_title() == "faiss-flat\n1,005 vectors"
    heights = [
        bar.get_extents().transformed(axes.transData.inverted()).y1
        for bar in axes.patches
    ]
    assert heights == pytest.approx([1.5] * 3)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(ROWS)
    low, high = axes.get_ylim()
    assert low == 0
    assert high > 3.0  # the ceiling is in the picture
    lines: dict[Any, Any] = {line.get_label(): line for line in axes.lines}
    assert list(lines["ceiling 1 + b/a"].get_ydata()) == [3.0, 3.0]


def test_a_ceiling_far_above_is_named_instead() -> None:
    (axes,) = plots.speedups([run(ceiling=20.0)]).axes
    assert axes.get_ylim()[1] < 3
    assert "20.0×" in axes.get_xlabel()


def test_both_loops_share_one_scale() -> None:
    upper, lower = plots.timeline(run()).axes
    assert upper.get_xlim() == lower.get_xlim()
    assert upper.get_xlim()[0] == 0
    assert upper.get_xlim()[1] >= 50
    assert "50 ms" in upper.get_title(loc="left")
    assert "45 ms" in lower.get_title(loc="left")


def boxes(axes: Any) -> dict[str, tuple[float, float, float, float, Any]]:
    """Left, right, bottom, top and look of every bar, by what it shows."""
    found = {}
    for bar in axes.collections:
        assert isinstance(bar, PolyCollection)
        (path,) = bar.get_paths()
        extents = path.get_extents()
        colour: Any = bar.get_facecolor()
        look = tuple(colour[0]), bar.get_hatch()
        name = f"{extents.x0:g}-{extents.x1:g}"
        found[name] = (extents.x0, extents.x1, extents.y0, extents.y1, look)
    return found


def test_calls_in_flight_do_not_hide_one_another() -> None:
    _, lower = plots.timeline(run()).axes
    drawn = boxes(lower)
    assert set(drawn) == {"0-30", "10-40", "30-45", "20-41"}
    # The second call is below the first, both below the model.
    assert drawn["20-41"][3] <= drawn["10-40"][2]
    assert drawn["10-40"][3] <= drawn["0-30"][2]


def test_what_was_for_nothing_looks_different() -> None:
    _, lower = plots.timeline(run()).axes
    looks = {name: box[4] for name, box in boxes(lower).items()}
    assert len(set(looks.values())) == 4
    assert looks["30-45"][1]  # hatched, for who cannot tell the colours
    assert looks["20-41"][1]


def test_a_track_is_used_again_once_it_is_free() -> None:
    spans = [span("verifying", 0, 10), span("verifying", 5, 20)]
    spans += [span("verifying", 10, 12), span("verifying", 11, 15)]
    assert plots._tracks(spans) == [0, 1, 0, 2]
