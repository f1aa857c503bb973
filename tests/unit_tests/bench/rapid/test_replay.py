from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from langchain_ralmspec import cli
from langchain_ralmspec.bench.rapid import replay as bench_replay
from langchain_ralmspec.bench.rapid.replay import Recorded, Round, Trace, read_traces
from langchain_ralmspec.bench.rapid.replay_profile import (
    LLAMA_31_8B,
    Point,
    expected_tokens,
    formula,
    read_profile,
)
from langchain_ralmspec.errors import InvalidValueError

FLAT = {1: 1.0, 11: 1.0}
ROUNDS: list[Round] = [("self", 10, 10), ("self", 10, 4), (None, 0, 0)]
PROFILE: dict[str, Any] = {
    "name": "some GPU",
    "source": "somebody",
    "points": [
        {"context": 8000, "draft_step": 0.1, "passes": {"1": 1.0, "11": 2.0}},
        {
            "context": 16000,
            "draft_step": 0.0,
            "passes": {"1": 1.0, "11": 1},
            "published": 4.0,
            "note": "a guess",
        },
    ],
}


def answer(rounds: list[Round], *, ended: bool = False) -> dict[str, Any]:
    n = 1 + sum(accepted + 1 for _, _, accepted in rounds) - ended
    return {
        "pieces": ["x"] * n,
        "decoded_tokens": n - 1 + ended,
        "rounds": [list(each) for each in rounds],
    }


def run_of(
    rounds: list[Round] = ROUNDS, draft_length: Any = 10, **rows: list[Round]
) -> dict[str, Any]:
    plain: list[Round] = [(None, 0, 0)] * 17
    all_rows = {"plain": plain, "SD": rounds, **rows}
    sample = {"rows": {row: answer(each) for row, each in all_rows.items()}}
    return {"workload": {"draft_length": draft_length}, "samples": [sample]}


def written(path: Path, what: Any) -> Path:
    path.write_text(json.dumps(what), encoding="utf-8")
    return path


def trace(*rounds: Round, ended: bool = False) -> Trace:
    return Trace("SD", 10, (Recorded(rounds, ended),))


def test_recorded_rounds_are_summed_up() -> None:
    # 11 + 5 + 1 tokens, in rounds of 10·c + v(11), the same, and v(1).
    point = Point(1, 0.25, {1: 1.0, 11: 1.5})
    assert trace(*ROUNDS).replayed(point) == pytest.approx(17 / (4.0 + 4.0 + 1.0))
    # A shorter draft takes a shorter pass: v(6) lies between.
    assert trace(("self", 5, 2)).replayed(point) == pytest.approx(3 / (1.25 + 1.25))


def test_acceptance_is_that_of_judged_tokens() -> None:
    # Of the second draft five tokens were judged, and four were right.
    assert trace(*ROUNDS).acceptance == pytest.approx(14 / 15)
    # Whether the token in the place of the end was right is not known.
    assert trace(*ROUNDS[:2], ended=True).acceptance == 1.0
    assert trace(*ROUNDS, ended=True).acceptance == pytest.approx(14 / 15)
    assert trace(("self", 3, 0), ended=True).acceptance == 0.0


@given(st.floats(0, 0.99), st.integers(1, 20), st.floats(0, 2), st.floats(0.5, 4))
def test_the_formula_is_the_papers(
    acceptance: float, length: int, step: float, verify: float
) -> None:
    above = 1 - acceptance ** (length + 1)
    below = (1 - acceptance) * (length * step + verify)
    assert formula(acceptance, length, step, verify) == pytest.approx(above / below)
    assert formula(1.0, length, step, verify) == (length + 1) / (length * step + verify)


def test_the_replay_is_the_formula_where_its_assumptions_hold() -> None:
    # Rounds as a chance of 1/2 gives them: half of them end behind no token, …
    length, n = 4, 2**4
    ends = [accepted for accepted in range(length) for _ in range(n >> (accepted + 1))]
    rounds = [("self", length, accepted) for accepted in [*ends, length]]
    recorded = Trace("SD", length, (Recorded(tuple(rounds), ended=False),))
    point = Point(1, 0.1, {1: 1.0, 5: 1.2})
    assert recorded.acceptance == pytest.approx(0.5)
    assert recorded.replayed(point) == pytest.approx(formula(0.5, length, 0.1, 1.2))


def test_the_papers_figures_are_behind_the_profile_that_is_shipped() -> None:
    short, long, bandwidth = LLAMA_31_8B.points
    assert (short.context, long.context, bandwidth.context) == (32e3, 120e3, 120e3)
    assert formula(0.8, 10, long.draft_step, long.cost(11)) == pytest.approx(2.10)
    assert formula(0.8, 10, short.draft_step, short.cost(11)) == pytest.approx(1.0)
    # 16.1 GB and 5,000 or 120,000 tokens of 131,072 bytes.
    assert bandwidth.draft_step == pytest.approx(16.75536 / 31.82864)
    assert formula(1.0, 10, bandwidth.draft_step, 1.0) < 2.10
    assert "implied by the paper's own figures" in long.note
    assert "0.73× at α = 0.80, and 1.76× were every drafted token" in bandwidth.note
    assert expected_tokens(0.8, 10) == pytest.approx(4.5705, abs=1e-4)


def test_figures_are_printed_and_written(tmp_path: Path, capsys: Any) -> None:
    traces = written(tmp_path / "a.json", run_of())
    profile, file = written(tmp_path / "p.json", PROFILE), tmp_path / "out.json"
    bench_replay.run(traces, profile, file)
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["kind"] == "replay, not a measurement"
    assert list(figures["rows"]) == ["SD"]
    row = figures["rows"]["SD"]
    assert (row["tokens"], row["passes"], row["answers"]) == (17, 3, 1)
    assert row["accepted_of_drafted"] == pytest.approx(0.7)
    first, second = row["points"]
    assert first["replayed"] == pytest.approx(17 / 7)
    assert first["published"] is first["difference_percent"] is None
    assert second["replayed"] == pytest.approx(17 / 3)
    assert second["all_right"] == 11.0
    assert second["difference_percent"] == pytest.approx(100 * (17 / 12 - 1))
    said = capsys.readouterr().out
    assert said.startswith("A replay, not a measurement: ")
    assert "some GPU (source: somebody)" in said
    assert "16,000 tokens: c = 0.000, v(1) = 1, v(11) = 1; a guess." in said
    assert "5.67×" in said
    assert "+42 %" in said
    assert "8,000 tokens: c = 0.100, v(1) = 1, v(11) = 2.\n" in said


def test_the_report_fits_a_usual_terminal(tmp_path: Path) -> None:
    read = read_traces(written(tmp_path / "a.json", run_of(**{"RAPID η=20": ROUNDS})))
    rows = {one.row: one.as_dict(LLAMA_31_8B.points) for one in read}
    file = io.StringIO()
    figures = {"traces": "a.json", "rows": rows}
    bench_replay._report(figures, LLAMA_31_8B, Console(file=file, width=80))
    assert "…" not in file.getvalue()
    assert "RAPID η=20 " in file.getvalue()


def test_the_profile_that_was_written_can_be_given(tmp_path: Path) -> None:
    traces = written(tmp_path / "a.json", run_of())
    figures = bench_replay.run(traces)
    profile = read_profile(written(tmp_path / "p.json", figures["profile"]))
    assert profile == LLAMA_31_8B


def test_only_rows_with_drafts_of_a_model_are_replayed(tmp_path: Path) -> None:
    lookup: list[Round] = [("lookup", 10, 3), ("self", 10, 3)]
    rapid: list[Round] = [("self", 10, 0)]
    run = run_of(**{"RAPID η=5": rapid, "mixed": lookup})
    found = read_traces(written(tmp_path / "a.json", run))
    assert [(one.row, one.draft_length) for one in found] == [
        ("SD", 10),
        ("RAPID η=5", 10),
    ]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (run_of(draft_length="auto"), "made with --draft-length auto"),
        (run_of([("lookup", 10, 3)]), "no row in which a model"),
        (run_of([(None, 0, 0)]), "no row in which a model"),
        (run_of([]), "no row in which a model"),
        (run_of([("self", 3, 4)]), "4 of 3 drafted tokens"),
        ({"rows": {}, "workload": {}}, "is not what `ralmspec bench rapid"),
        ([], "is not what `ralmspec bench rapid"),
        ({"workload": {"draft_length": 1}, "samples": [3]}, "is not what"),
    ],
)
def test_other_traces_are_refused(tmp_path: Path, run: Any, said: str) -> None:
    file = written(tmp_path / "a.json", run)
    with pytest.raises(InvalidValueError, match=said) as caught:
        read_traces(file)
    assert "--draft-length 10 --json FILE" in str(caught.value)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.json"
    for read in (read_traces, read_profile):
        with pytest.raises(InvalidValueError, match=r"nowhere\.json' cannot be read"):
            read(missing)


def point(**other: Any) -> dict[str, Any]:
    given = {"context": 1, "draft_step": 0.5, "passes": {"1": 1.0}} | other
    return PROFILE | {"points": [given]}


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ([], "no JSON object"),
        (PROFILE | {"name": 3}, "'name' is 3"),
        (PROFILE | {"points": []}, "'points' is \\[\\]"),
        (PROFILE | {"points": [1]}, "point 1 is 1, no JSON object"),
        (point(context=0), "point 1: 'context' is 0"),
        (point(context=True), "'context' is True"),
        (point(draft_step=-1), "'draft_step' is -1"),
        (point(draft_step="fast"), "'draft_step' is 'fast'"),
        (point(draft_step=None), "'draft_step' is None"),
        (point(passes={"11": 1.0}), "None for a pass of one token"),
        (point(passes={"1": 2.0}), "2.0 for a pass of one token"),
        (point(passes={"1": 1.0, "many": 1.0}), "'many'"),
        (point(passes={"1": 1.0, "2": 0}), "size 2 is 0"),
        (point(passes={"1": 1.0, "2": float("inf")}), "size 2 is inf"),
        (point(passes=None), "'passes' is None"),
        (point(published=0), "'published' is 0"),
        (point(note=1), "'note' is 1"),
    ],
)
def test_other_profiles_are_refused(tmp_path: Path, profile: Any, said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        read_profile(written(tmp_path / "p.json", profile))


def ralmspec(monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["ralmspec", "bench", "replay", *options])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def test_the_command_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    assert not ralmspec(monkeypatch, "--help")
    assert "a replay, not a measurement" in capsys.readouterr().out
    traces = written(tmp_path / "a.json", run_of())
    assert not ralmspec(monkeypatch, str(traces))
    assert "Llama-3.1-8B" in capsys.readouterr().out
    profile = written(tmp_path / "p.json", {})
    said = ralmspec(monkeypatch, str(traces), "--profile", str(profile))
    assert said.startswith("ralmspec: ")
    out = str(tmp_path / "no" / "b.json")
    assert "cannot be written" in ralmspec(monkeypatch, str(traces), "--json", out)
