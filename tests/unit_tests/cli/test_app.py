from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from langchain_ralmspec import cli
from langchain_ralmspec.cli.app import app
from langchain_ralmspec.cli.demo import QUESTIONS, Demo
from langchain_ralmspec.cli.models import MODELS


def test_models_are_listed() -> None:
    result = CliRunner().invoke(app, ["models", "list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert all(name in result.stdout for name in MODELS)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["ralmspec", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return str(caught.value.code)


def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = run(monkeypatch, "models", "path", "smollm2-135")
    assert said.startswith("ralmspec: unknown model 'smollm2-135'")
    assert "smollm2-135m" in said


def test_a_file_without_questions_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "why?"}\n{"answer": 42}\n')
    assert "line 2" in run(monkeypatch, "demo", "--questions", str(file))


def test_a_model_that_is_not_there_is_noticed_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "langchain_ralmspec.cli.demo.stdlib_passages", lambda: pytest.fail("too late")
    )
    said = run(monkeypatch, "demo", "--model", "nonsense")
    assert said.startswith("ralmspec: 'nonsense' is neither a GGUF file nor")


def test_limit_holds_for_the_demos_own_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Demo, "_chat", lambda self, console: None)
    monkeypatch.setattr("langchain_ralmspec.cli.demo._answer", lambda *args: None)
    monkeypatch.setattr(
        Demo,
        "_compare",
        lambda self, chat, number, question, console: asked.append(question),
    )
    monkeypatch.setattr("langchain_ralmspec.cli.demo._report", lambda *args: None)
    result = CliRunner().invoke(app, ["demo", "--limit", "2"])
    assert result.exit_code == 0
    assert asked == QUESTIONS[:2]


def test_without_typer_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "langchain_ralmspec.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    assert "langchain-ralmspec[cli]" in run(monkeypatch, "--help")
