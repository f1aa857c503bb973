from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.image import imread

from langchain_ralmspec.bench.knnlm import contest as knnlm_contest
from langchain_ralmspec.bench.knnlm import plots as knnlm_plots
from langchain_ralmspec.bench.knnlm.figures import figures
from tests.unit_tests.bench.knnlm.fakes import CLOCK
from tests.unit_tests.bench.knnlm.test_contest import a_contest


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers cost nothing here, but collecting garbage before each would."""
    monkeypatch.setattr(gc, "collect", lambda: 0)
    monkeypatch.setattr(knnlm_contest, "time", CLOCK)


def a_run(*, index: str = "flat", perplexity: bool = True) -> Any:
    contests = {k: a_contest() for k in (1, 16)}
    for contest in contests.values():
        contest.ask("prompt")
    rows = [
        {
            "k": k,
            "temperature": 4.0 * factor,
            "default_temperatures": factor,
            "interpolation": share,
            "perplexity": 20.0 + k + share,
            "is_best": False,
        }
        for k in (1, 16)
        for factor in (0.5, 1.0, 2.0)
        for share in (0.0, 0.25)
    ]
    workload = {"index": index, "model": "m", "real_entries": 9, "distractors": 991}
    told = {"tokens": 99, "rows": rows} if perplexity else None
    return {**figures(contests), "workload": workload, "perplexity": told}


def test_a_picture_of_each_kind_is_written(tmp_path: Path) -> None:
    names = ["speedups.png", "verification.png", "perplexity.png"]
    files = knnlm_plots.draw(a_run(), tmp_path)
    assert [file.name for file in files] == names
    for file in files:
        assert imread(file).std() > 0.05  # something is on it
    files = knnlm_plots.draw(a_run(perplexity=False), tmp_path)
    assert [file.name for file in files] == names[:2]


@pytest.mark.parametrize(
    ("index", "paper"), [("flat", [7.59, 3.88]), ("hnsw", [2.45, 2.37])]
)
def test_bars_stand_beside_the_papers(index: str, paper: list[float]) -> None:
    run = a_run(index=index)
    (axes,) = knnlm_plots.speedups(run).axes
    assert axes.get_title() == f"{index}, 1,000 entries, m"
    heights = [
        [bar.get_height() for bar in bars.patches]
        for bars in axes.containers
        if hasattr(bars, "patches")
    ]
    assert heights == [[1.25, 1.25], [2.0, 2.0], paper]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["k = 1", "k = 16", "k = 1\n(paper)", "k = 1024\n(paper)"]
    attainable: Any = next(
        each for each in axes.collections if each.get_label() == "attainable"
    )
    for segment in attainable.get_segments():
        assert segment[0][1] == pytest.approx(run["by_k"]["1"]["attainable"])


def test_verifications_lie_on_their_line() -> None:
    (axes,) = knnlm_plots.verification(a_run()).axes
    points, line, once, *_ = axes.lines
    measured: list[Any] = list(
        zip(points.get_xdata(), points.get_ydata(), strict=True)  # type: ignore[arg-type]
    )
    assert set(measured) == {(3, 700.0), (5, 900.0)}
    assert list(line.get_ydata()) == pytest.approx([500.0, 900.0])  # type: ignore[arg-type]
    assert list(once.get_ydata()) == pytest.approx([400.0])  # type: ignore[arg-type]


def test_perplexity_has_a_line_for_each_k_and_temperature() -> None:
    (axes,) = knnlm_plots.perplexity(a_run()).axes
    labels = [line.get_label() for line in axes.lines]
    assert labels[:3] == ["k = 1, T = 2", "k = 1, T = 4", "k = 1, T = 8"]
    assert len({line.get_color() for line in axes.lines}) == 2
    assert axes.get_title() == "99 tokens, 9 entries"
