import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from langchain_ralmspec.assets.corpus import QUESTIONS
from langchain_ralmspec.assets.models import MODELS
from langchain_ralmspec.bench.comparison import Comparison
from langchain_ralmspec.bench.demo import Demo
from langchain_ralmspec.bench.ralm.workload import Corpus
from langchain_ralmspec.cli.app import app
from langchain_ralmspec.errors import MissingExtraError
from tests.unit_tests.bench.test_comparison import DIFFERENT, pair
from tests.unit_tests.cli.shell import run


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_the_version_is_told() -> None:
    result = invoke("--version")
    assert result.output == f"{version('langchain-ralmspec')}\n"
    assert result.exit_code == 0


def test_models_are_listed() -> None:
    result = invoke("models", "list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in MODELS)


def test_our_errors_are_one_line() -> None:
    said = run("models", "path", "smollm2-135")
    assert said.startswith("ralmspec: unknown model 'smollm2-135'")
    assert "smollm2-135m" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["demo", "--questions", "{folder}/questions.jsonl"], "line 2"),
        (["demo", "--model", "nonsense"], "'nonsense' is neither a GGUF file nor"),
        (["demo", "--json", "{folder}/nowhere/a.json"], "cannot be written"),
        *(
            (["demo", "--speculation-stride", given], f"got {given!r}")
            for given in ("0", "-1", "many", "1.5", "²")
        ),
        (["bench", "ralm", "--rows", "Spec,+X"], "'+X'"),
        (["bench", "ralm", "--embedding", "nowhere"], "'nowhere'"),
        (["bench", "ralm", "--model", "nonsense"], "'nonsense'"),
        (["bench", "ralm", "--json", "{folder}/nowhere/a.json"], "nowhere"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], said: str
) -> None:
    monkeypatch.setattr(
        "langchain_ralmspec.bench.ralm.workload.stdlib_passages",
        lambda: pytest.fail("too late"),
    )
    if "--embedding" not in options:  # that is looked for after the model
        monkeypatch.setattr(
            "langchain_ralmspec.assets.targets.model_path",
            lambda *_, **__: pytest.fail("too late"),
        )
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "why?"}\n{"answer": 42}\n')
    error = run(*(option.format(folder=tmp_path) for option in options))
    assert error.startswith("ralmspec: ")
    assert said in error


@pytest.mark.parametrize("identical", [True, False])
@pytest.mark.parametrize(("given", "meant"), [("auto", "auto"), ("7", 7)])
def test_a_stride_reaches_the_demo_and_its_verdict_the_shell(
    monkeypatch: pytest.MonkeyPatch, given: str, meant: object, identical: bool
) -> None:
    demos: list[Demo] = []

    def ran(self: Demo) -> bool:
        demos.append(self)
        return identical

    monkeypatch.setattr(Demo, "run", ran)
    result = invoke("demo", "--speculation-stride", given)
    assert result.exit_code == (0 if identical else 1)
    assert demos[0]._stride == meant


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[str]]]:
    """Workloads and questions of a demo without models and stores."""
    compared = []

    def compare(
        self: Demo, workload: Any, gguf: str, corpus: Any, *rest: Any
    ) -> Comparison:
        compared.append((workload, rest[0]))
        return Comparison([pair()])

    corpus = SimpleNamespace(passages=["passage"])
    monkeypatch.setattr(Demo, "_compare", compare)
    monkeypatch.setattr(Corpus, "load", lambda path: corpus)
    monkeypatch.setattr(
        "langchain_ralmspec.bench.demo.find_gguf", lambda model: "m.gguf"
    )
    return compared


def test_limit_holds_for_the_demos_own_questions(compared: list[Any]) -> None:
    assert invoke("demo", "--limit", "2").exit_code == 0
    assert [questions for _, questions in compared] == [QUESTIONS[:2]] * 3


def test_the_demo_ends_with_a_store_and_an_encoder_at_a_distance(
    compared: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "demo.json"
    result = invoke("demo", "--store", "chroma", "--json", str(file))
    assert result.exit_code == 0
    near, far, hosted = (workload for workload, _ in compared)
    assert (near.store, near.latency, near.embedding_server) == ("chroma", 0, None)
    assert (far.store, far.latency, far.embedding_server) == (
        "chroma-http",
        0.025,
        None,
    )
    assert (hosted.store, hosted.embedding_server) == ("faiss-flat", 0.15)
    for distance in ("50 ms", "150 ms"):
        assert f"round trip of {distance}" in result.stdout
    assert result.stdout.endswith("identical: yes\n")
    figures = json.loads(file.read_text(encoding="utf-8"))
    for each in (figures, figures["remote"], figures["hosted"]):
        summary = each["summary"]
        assert summary["speedup_median"] == pytest.approx(1.5)
        assert {"ceiling", "attainable", "identical"} <= summary.keys()


def test_one_table_that_differs_is_enough(
    compared: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Demo._compare

    def compare(self: Demo, workload: Any, *rest: Any) -> Comparison:
        different = Comparison([pair(DIFFERENT[0])])
        return different if workload.latency else usual(self, workload, *rest)

    monkeypatch.setattr(Demo, "_compare", compare)
    assert invoke("demo").stdout.endswith("identical: NO\n")


def test_without_an_extra_the_demo_shows_what_it_can(
    compared: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual = Demo._compare

    def compare(self: Demo, workload: Any, *rest: Any) -> Comparison:
        if workload.latency:
            raise MissingExtraError.of("langchain_chroma", "chroma")
        return usual(self, workload, *rest)

    monkeypatch.setattr(Demo, "_compare", compare)
    file = tmp_path / "demo.json"
    result = invoke("demo", "--json", str(file))
    assert result.exit_code == 0
    assert "langchain-ralmspec[chroma]" in result.stdout
    assert result.stdout.endswith("identical: yes\n")
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert "hosted" in figures
    assert "remote" not in figures


def test_without_typer_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "langchain_ralmspec.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    assert "langchain-ralmspec[cli]" in run("--help")
