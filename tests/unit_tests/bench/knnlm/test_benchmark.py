import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.bench.contest import SEQUENTIAL
from langchain_ralmspec.bench.knnlm import benchmark
from langchain_ralmspec.bench.knnlm.benchmark import ROWS, Benchmark
from langchain_ralmspec.bench.knnlm.report import report
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import DatastoreError, InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore
from tests.unit_tests.bench.knnlm.fakes import (
    AUTO,
    SLOW,
    SPEC,
    FakeLLM,
    fake_model,
    write_datastore,
)
from tests.unit_tests.bench.test_comparison import SUMMARY
from tests.unit_tests.cli.shell import printed
from tests.unit_tests.scripts.cells import cells

Bench = Callable[..., Benchmark]


pytestmark = pytest.mark.usefixtures("fake_time")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.gz"
    lines = (f"p{number} is a paragraph of words" for number in range(12))
    file.write_bytes(gzip.compress("\n\n".join(lines).encode()))
    return file


class Made:
    """Which language models were made, over which datastores."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.settings: list[dict[str, Any]] = []
        self.datastores: list[KNNDatastore] = []
        self.tokens = {SEQUENTIAL: [1, 2], "Spec": [1, 2], "+S": [1, 2]}

    def __call__(self, **settings: Any) -> FakeLLM:
        self.datastores.append(settings["datastore"])
        self.settings.append(settings)
        name = SEQUENTIAL
        if settings.get("speculation", True):
            given = {key: settings.get(key) for key in ROWS["Spec"]}
            name = next((row for row, own in ROWS.items() if own == given), name)
        stats = {SEQUENTIAL: SLOW, "Spec": SPEC, "+S": AUTO}[name]
        return FakeLLM(name, stats, self.tokens[name], self.log)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    monkeypatch.setattr(benchmark, "KNNLMSpecLLM", made)
    return made


@pytest.fixture
def bench(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, made: Made
) -> Bench:
    """Benchmarks without a model."""
    write_datastore(tmp_path / "store")
    model = fake_model()
    monkeypatch.setattr(benchmark, "find_gguf", lambda name: "fake.gguf")
    monkeypatch.setattr(Model, "load", lambda *_, **__: model)

    def with_settings(**settings: Any) -> Benchmark:
        given: dict[str, Any] = {
            "datastore": tmp_path / "store",
            "text": text,
            "limit": 4,
            "prompt_tokens": 4,
            "perplexity_tokens": 20,
        }
        return Benchmark(**(given | settings))

    return with_settings


def test_the_figures_say_what_was_measured(bench: Bench, tmp_path: Path) -> None:
    bench(json=tmp_path / "a.json").run()
    figures = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert set(figures["summary"]) == SUMMARY
    expected = {"speedup_median": 2.0, "questions": 4, "identical": True}
    assert expected.items() <= figures["summary"].items()
    assert list(figures["by_k"]) == ["1", "16"]
    for of_k in figures["by_k"].values():
        assert list(of_k["rows"]) == ["Spec", "+S"]
        assert len(of_k["rows"]["+S"]["answers"]) == 4
    expected = {"real_entries": 400, "distractors": 0, "knn_temperature": 2.0}
    assert expected.items() <= figures["workload"].items()
    assert figures["notes"] == []
    assert figures["provenance"]["machine"]["cores"]
    assert figures["perplexity"]["tokens"] == 19
    assert len(figures["perplexity"]["rows"]) == 2 * 3 * 6
    shown = cells("knnlm", figures, "16")  # in the docs
    assert shown["+S, median (quartiles)"] == "**2.00** (2.00–2.00)"
    assert shown["*a*, a guess"] == "100.0, 9.0 ms"
    assert shown["*b(s)*"] == "400 + 100.0·s ms"
    assert (shown["search"], shown["right"], shown["Spec"]) == ("70%", "80.0%", "1.25")
    assert all(cells("perplexity", figures, "1").values())


def test_all_rows_share_one_datastore(bench: Bench, made: Made) -> None:
    bench(max_tokens=77, interpolation=0.5, perplexity_tokens=0).run()
    assert len(made.settings) == 6
    assert len({id(store) for store in made.datastores}) == 1
    expected = {"max_tokens": 77, "interpolation": 0.5, "temperature": 0.0}
    for settings, k in zip(made.settings, (1, 1, 1, 16, 16, 16), strict=True):
        assert {**expected, "k": k}.items() <= settings.items()


def test_one_prompt_warms_up_and_is_not_measured(bench: Bench, made: Made) -> None:
    figures = bench(k=[16], perplexity_tokens=0).run()
    answers = figures["by_k"]["16"]["rows"]["Spec"]["answers"]
    measured = [answer["question"] for answer in answers]
    assert len(set(measured)) == 4
    assert all(prompt.endswith(" is a paragraph") for prompt in measured)
    warm = {prompt for _, prompt in made.log[:3]}
    assert len(warm) == 1
    assert not warm & set(measured)
    assert {prompt for _, prompt in made.log[3:]} == set(measured)
    assert figures["perplexity"] is None


def test_distractors_are_called_what_they_are(
    bench: Bench, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = bench(entries=2000, k=[1]).run()
    assert figures["workload"]["real_entries"] == 400
    assert figures["workload"]["distractors"] == 1600
    assert "1,600 distractors are noise" in figures["notes"][0]
    assert len(figures["notes"]) == 1
    assert "approximate" in benchmark._notes(9, is_exact=False)[1]
    assert "400 entries + 1,600 distractors" in capsys.readouterr().out
    # Perplexity is of the real ones; all else of the copy, which is gone.
    assert [len(store) for store in made.datastores] == [400, 2000, 2000, 2000]
    assert not made.datastores[-1].path.exists()


def test_one_token_that_differs_is_said(
    bench: Bench, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    made.tokens["Spec"] = [1, 3]
    figures = bench().run()
    assert figures["summary"]["identical"] is False
    for of_k in figures["by_k"].values():
        assert of_k["rows"]["+S"]["summary"]["identical"] is True
    assert capsys.readouterr().out.endswith("identical: NO\n")


def test_the_report_names_every_row_and_the_paper(bench: Bench) -> None:
    figures = bench().run()
    said = printed(report, figures)
    for cell in (SEQUENTIAL, "Spec", "+S", "2.00×", "1.25×", "5.00×", "4 of 4"):
        assert f" {cell} " in said
    assert "…" not in said  # nothing is cut off at this width
    assert "lookup 3 75%, sequential 25%" in said
    assert "400.00" in said  # b(1)
    assert "400.00 + 100.00·s" in said
    assert "up to 7.59× at k=1 and 3.88× at k=1024, on other" in said
    assert "perplexity over 19 tokens, by λ" in said
    assert said.endswith("identical: yes\n")
    figures["workload"]["index"] = "hnsw"
    approximate = "approximate search: up to 2.45× at k=1 and 2.37×"
    assert approximate in printed(report, figures)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rows": "Spec,+A"}, r"'\+A'; known: Spec, \+S"),
        ({"k": [1, 401]}, "the 400 entries .* got 401"),
        ({"k": [0]}, "got 0"),
        ({"entries": 399}, "400 entries already, got --entries 399"),
        ({"text": Path("nowhere.txt")}, "'nowhere.txt'"),
        ({"limit": 12}, "too few for 13 prompts"),
        ({"index": "lsh"}, "'lsh'"),
        ({"perplexity_tokens": 1}, "got 1"),
        ({"json": Path("nowhere/a.json")}, "nowhere"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr(KNNDatastore, "search", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr(benchmark, "distracted", lambda *_: pytest.fail("too late"))
    if "json" in settings:
        monkeypatch.setattr(benchmark, "read_text", lambda _: pytest.fail("too late"))
    if "limit" in settings:
        settings |= {"prompt_tokens": 6}
    with pytest.raises(InvalidValueError, match=said):
        bench(**settings).run()


def test_a_datastore_must_be_there_and_the_models_own(
    bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(DatastoreError, match="nowhere"):
        bench(datastore=tmp_path / "nowhere").run()
    write_datastore(tmp_path / "other", sha256="0" * 64)
    with pytest.raises(DatastoreError, match="not by fake"):
        bench(datastore=tmp_path / "other").run()
