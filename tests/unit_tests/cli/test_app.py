import json
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from langchain_ralmspec.assets.corpus import QUESTIONS
from langchain_ralmspec.assets.models import MODELS
from langchain_ralmspec.bench.comparison import Comparison
from langchain_ralmspec.bench.demo import Demo, Told
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
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[str]]]:
    """Workloads and questions of a demo without models and stores."""
    asked = []

    def ask(self: Demo, stack: Any, gguf: str, corpus: Any, *rest: Any) -> Told:
        asked.append((stack.workload, rest[0]))
        return Told(Comparison([pair()]), [pair().speculative])

    corpus = SimpleNamespace(passages=["passage"])
    monkeypatch.setattr(Demo, "_ask", ask)
    monkeypatch.setattr(Demo, "_read_corpus", lambda self: corpus)
    monkeypatch.setattr(
        "langchain_ralmspec.bench.demo.find_gguf", lambda model: "m.gguf"
    )
    return asked


@pytest.mark.parametrize(("limit", "n"), [([], 2), (["--limit", "3"], 3)])
def test_all_stacks_are_asked_the_same(
    asked: list[Any], limit: list[str], n: int
) -> None:
    assert invoke("demo", *limit).exit_code == 0
    assert [questions for _, questions in asked] == [QUESTIONS[:n]] * 3


def test_the_demo_asks_what_is_near_and_what_is_far(
    asked: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "demo.json"
    result = invoke("demo", "--store", "chroma", "--json", str(file))
    assert result.exit_code == 0
    near, far, hosted = (workload for workload, _ in asked)
    assert (near.store, near.latency, near.embedding_server) == ("chroma", 0, None)
    assert (far.store, far.latency, far.embedding_server) == (
        "chroma-http",
        0.025,
        None,
    )
    assert (hosted.store, hosted.embedding_server) == ("faiss-flat", 0.15)
    assert result.stdout.endswith("identical: yes\n")
    assert "A plan says" in result.stdout
    figures = json.loads(file.read_text(encoding="utf-8"))
    for key in ("near", "remote", "hosted"):
        summary = figures[key]["summary"]
        assert summary["speedup_median"] == pytest.approx(1.5)
        assert {"ceiling", "attainable", "identical"} <= summary.keys()
        assert figures[key]["read_before"]["speedup_median"] == pytest.approx(1.5)


@pytest.mark.parametrize("differs", ["speculative", "read before"])
def test_one_answer_that_differs_is_enough(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, differs: str
) -> None:
    usual = Demo._ask

    def ask(self: Demo, stack: Any, *rest: Any) -> Told:
        told = usual(self, stack, *rest)
        other = pair(DIFFERENT[0])
        if stack.key != "remote":
            return told
        if differs == "speculative":
            return replace(told, compared=Comparison([other]))
        return replace(told, read=[other.speculative])

    monkeypatch.setattr(Demo, "_ask", ask)
    result = invoke("demo")
    assert result.stdout.endswith("identical: NO\n")
    assert result.exit_code == 1


def test_without_an_extra_the_demo_shows_what_it_can(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual = Demo._ask

    def ask(self: Demo, stack: Any, *rest: Any) -> Told:
        if stack.workload.latency:
            raise MissingExtraError.of("langchain_chroma", "chroma")
        return usual(self, stack, *rest)

    monkeypatch.setattr(Demo, "_ask", ask)
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
