import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.bench import contest
from langchain_ralmspec.bench.comparison import Answer
from langchain_ralmspec.bench.quality import benchmark
from langchain_ralmspec.bench.quality.benchmark import Benchmark
from langchain_ralmspec.bench.quality.policies import POLICIES
from langchain_ralmspec.bench.quality.report import report
from langchain_ralmspec.bench.ralm.workload import Corpus, Workload
from langchain_ralmspec.errors import InvalidValueError
from tests.unit_tests.cli.shell import printed
from tests.unit_tests.scripts.cells import cells

N_QUESTIONS = 4
STRIDES = [f"stride {n}" for n in (16, 8, 4)]
SCORED = {
    "tokens": 256,
    "pieces": 2,
    "rows": {
        row: {
            "perplexity": {"mean": 20.0, "low": 18.5, "high": 22.25},
            "to_none": {"mean": 0.9, "low": 0.8125, "high": 1.0},
        }
        for row in ("none", "once", "every 64", "every 16", "every 4")
    },
}


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Of each the answer is its number, in the passage of its number."""
    file = tmp_path / "questions.jsonl"
    records = (
        {
            "question": f"question {n}",
            "answers": [f"number{n}"],
            "context": f"It is number{n}.",
        }
        for n in range(N_QUESTIONS)
    )
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return file


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Settings of the models, which need no file; strides are right, others not."""
    made: list[dict[str, Any]] = []

    def chat(**settings: Any) -> Any:
        made.append(settings)
        return SimpleNamespace(settings=settings, warm_up=lambda: None)

    def ask(model: Any, question: str) -> Answer:
        n, settings = question.split()[1], model.settings
        steps: list[dict[str, Any]] = [{"tokens": [1], "documents": [n]}] * 2
        if settings["retriever"] != "a store":
            steps = [{"tokens": [1]}]
        right = "retrieval_stride" in settings
        text = f"number{n}" if right else f"It was number{n} or not"
        return Answer(text, steps, SpeculationStats(), 1.0, 0.5)

    @contextmanager
    def opened(self: Workload, corpus: Corpus) -> Iterator[Any]:
        yield "a store"

    monkeypatch.setattr(benchmark, "ChatRaLMSpec", chat)
    monkeypatch.setattr(contest, "ask", ask)
    monkeypatch.setattr(Workload, "opened", opened)
    monkeypatch.setattr(
        benchmark,
        "Corpus",
        SimpleNamespace(of=lambda passages, _: SimpleNamespace(passages=passages)),
    )
    monkeypatch.setattr(benchmark, "find_gguf", lambda model: "m.gguf")
    model = SimpleNamespace(load=lambda gguf: SimpleNamespace(weights=None))
    monkeypatch.setattr(benchmark, "Model", model)
    return made


def test_the_figures_say_what_answers_are_worth_and_keep_none(
    questions: Path, made: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    Benchmark(questions=questions, perplexity_tokens=0, limit=3, json=file).run()
    text = file.read_text(encoding="utf-8")
    assert "number1" not in text
    assert "question 1" not in text
    figures = json.loads(text)
    assert figures["workload"].items() >= {"asked": 3, "passages": 4}.items()
    assert figures["perplexity"] is None
    assert figures["provenance"]["machine"]["cores"]
    rows = figures["rows"]
    assert list(rows) == list(POLICIES)
    for row in POLICIES:
        right = row in STRIDES
        assert rows[row]["exact"]["mean"] == right
        assert rows[row]["contains"]["mean"] == 1
        # "It", "was", "or" and "not" are no content.
        assert rows[row]["faithful"]["mean"] == 1
        assert rows[row]["found"]["mean"] == (row != "none")
        is_often = not (row == "none" or row.startswith("once"))
        assert rows[row]["lookups"]["mean"] == (0 if row == "none" else 1 + is_often)
        assert (rows[row]["to_once"]["f1"]["mean"] > 0) is right
    # All are told the same, and are greedy.
    (told,) = {settings["system_prompt"] for settings in made}
    assert figures["workload"]["instruction"] == told
    for setting, value in {"temperature": 0.0, "max_document_tokens": 256}.items():
        assert {settings[setting] for settings in made} == {value}
    assert [settings["documents_per_step"] for settings in made] == [
        1, 1, 4, 1, 1, 1, 1, 1,
    ]  # fmt: skip


def test_the_report_and_the_pages_show_them(
    questions: Path, made: list[dict[str, Any]]
) -> None:
    figures = Benchmark(questions=questions, perplexity_tokens=0).run()
    said = printed(report, figures)
    assert "…" not in said  # nothing is cut off in a usual terminal
    assert "4 questions about 4 passages" in said
    assert "perplexity" not in said
    for row in POLICIES:
        assert said.count(f" {row} ") == 3 - (row == "once k=1")
    figures["perplexity"] = SCORED | {"passages": 1234}
    said = printed(report, figures)
    assert "256 tokens were scored, in 2 paragraphs" in said
    assert "18.50 to 22.25" in said
    assert "0.812 to 1.000" in said
    shown = cells("lookup-quality", figures, "stride 4")
    assert shown["exact match"] == "100%"
    assert shown["F1"] == "**1.00** (1.00 to 1.00)"
    assert (shown["look-ups"], shown["documents"]) == ("2.0", "1.0")
    assert cells("lookup-gain", figures, "none")["F1"] == "**+0.00** (+0.00 to +0.00)"
    assert cells("lookup-perplexity", figures, "every 4") == {
        "perplexity": "**20.00** (18.50 to 22.25)",
        "÷ that of never": "**0.900** (0.812 to 1.000)",
    }


def test_without_the_row_to_compare_with_nothing_is_compared(
    questions: Path, made: list[dict[str, Any]]
) -> None:
    bench = Benchmark(questions=questions, perplexity_tokens=0, rows="flare,none")
    figures = bench.run()
    assert list(figures["rows"]) == ["flare", "none"]
    assert figures["rows"]["flare"]["to_once"] is None
    assert "more than" not in printed(report, figures)


def test_what_was_asked_is_kept_when_it_is_interrupted(
    questions: Path, made: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask: Callable[[Any, str], Answer] = vars(contest)["ask"]  # the one that pretends

    def interrupted(model: Any, question: str) -> Answer:
        # The third question, which some rows have answered by then.
        if question == "question 2" and model.settings.get("retrieval_stride") == 8:
            signal.raise_signal(signal.SIGTERM)
        return ask(model, question)

    monkeypatch.setattr(contest, "ask", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    figures = Benchmark(questions=questions, perplexity_tokens=0).run()
    assert signal.getsignal(signal.SIGTERM) == before
    assert figures["workload"]["asked"] == 2
    for row in figures["rows"].values():
        assert len(row["by_question"]["f1"]) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": "once"}, "'once'"),
        ({"questions": Path("nowhere.jsonl")}, r"nowhere\.jsonl"),
        ({"text": Path("nowhere.txt")}, r"nowhere\.txt"),
        ({"json": Path("nowhere/a.json")}, "nowhere"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    questions: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(benchmark, "find_gguf", lambda model: pytest.fail("too late"))
    with pytest.raises(InvalidValueError, match=said):
        Benchmark(**{"questions": questions} | given).run()
