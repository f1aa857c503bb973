import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_ralmspec.bench import contest
from langchain_ralmspec.bench.comparison import Answer
from langchain_ralmspec.bench.ralm import benchmark
from langchain_ralmspec.bench.ralm.benchmark import ROWS, USUAL_ROWS, Benchmark
from langchain_ralmspec.bench.ralm.contest import RowContest
from langchain_ralmspec.bench.ralm.report import report
from langchain_ralmspec.bench.ralm.workload import Workload
from tests.unit_tests.bench.test_comparison import FAST, SLOW, STEPS, SUMMARY
from tests.unit_tests.cli.shell import printed
from tests.unit_tests.scripts.cells import cells

QUESTIONS = [f"question {number}" for number in range(9)]


class Asked:
    """Answers at once, and remembers who was asked what."""

    def __init__(self, texts: dict[str, str] | None = None) -> None:
        self.log: list[tuple[str, str]] = []
        self._texts = texts or {}

    def __call__(self, model: Any, question: str) -> Answer:
        self.log.append((model.name, question))
        stats = FAST if model.speculation else SLOW
        text = self._texts.get(model.name, "x")
        return Answer(text, STEPS, stats, stats.seconds, stats.seconds / 4)


def fake_llm(name: str, prefetch_k: int = 20) -> Any:
    return SimpleNamespace(
        name=name,
        speculation=name not in ("sequential", "narrow", "W"),
        asynchronous="A" in name,
        prefetch_k=prefetch_k,
        retriever=SimpleNamespace(replica="R" in name or None),
        engine=SimpleNamespace(flush=lambda: None),
    )


def a_contest(*names: str) -> RowContest:
    narrow = ("narrow", "Spec")
    return RowContest(
        {name: fake_llm(name, 1 if name in narrow else 20) for name in names}
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(contest, "ask", asked)
    return asked


def test_every_row_goes_first_as_often(asked: Asked) -> None:
    ring = a_contest("sequential", "Spec", "+PSA")
    for question in QUESTIONS:
        ring.ask(question)
    firsts = Counter(name for name, _ in asked.log[::3])
    assert firsts == {"sequential": 3, "Spec": 3, "+PSA": 3}
    assert set(Counter(name for name, _ in asked.log).values()) == {9}
    # Nobody always comes after the same one.
    neighbours = zip(asked.log, asked.log[1:], strict=False)
    pairs = {(one[0], two[0]) for one, two in neighbours if one[1] == two[1]}
    assert ("sequential", "Spec") in pairs
    assert ("Spec", "sequential") in pairs


def test_warm_up_is_asked_of_all_and_kept_of_none(asked: Asked) -> None:
    ring = a_contest("sequential", "+PSA")
    ring.warm_up(["a", "b"])
    assert Counter(name for name, _ in asked.log) == {"sequential": 2, "+PSA": 2}
    assert (ring.questions, ring.answers, ring.n_warm) == ([], {}, 2)


def test_only_asynchronous_rows_may_have_calls_in_flight(asked: Asked) -> None:
    ring = a_contest("sequential", "Spec", "+PSA")
    ring.ask("q")
    rows = ring.comparisons(max_in_flight=8)
    assert list(rows) == ["Spec", "+PSA"]
    assert (rows["Spec"].max_in_flight, rows["+PSA"].max_in_flight) == (0, 8)


@pytest.mark.parametrize(
    ("texts", "identical"),
    [
        ({}, {"Spec": True, "+PSA": True}),
        ({"narrow": "y", "Spec": "y"}, {"Spec": True, "+PSA": True}),
        ({"narrow": "y"}, {"Spec": False, "+PSA": True}),
        ({"sequential": "y"}, {"Spec": True, "+PSA": False}),
    ],
)
def test_rows_equal_the_sequential_loop_of_their_width(
    monkeypatch: pytest.MonkeyPatch,
    texts: dict[str, str],
    identical: dict[str, bool],
) -> None:
    monkeypatch.setattr(contest, "ask", Asked(texts))
    ring = a_contest("sequential", "narrow", "Spec", "+PSA")
    ring.ask("q")
    rows = ring.comparisons(1)
    assert {name: row.n_identical == 1 for name, row in rows.items()} == identical


def test_seconds_are_means_and_first_texts_medians(asked: Asked) -> None:
    ring = a_contest("sequential", "+PSA")
    ring.ask("q")
    ring.ask("r")
    assert ring.times("sequential") == {
        "seconds": {
            "all": 3.0,
            "generating": 1.0,
            "guessing": 0.0,
            "waiting": 2.0,
            "embedding": 0.5,
            "searching": 1.5,
        },
        "first_text": {"seconds": 0.75, "sooner": 1.0},
    }
    assert ring.times("+PSA")["first_text"] == {"seconds": 0.5, "sooner": 1.5}
    assert ring.last_speedups() == "+PSA 1.50×"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, asked: Asked) -> Benchmark:
    """A benchmark whose models and stores are not there."""

    @contextmanager
    def opened(self: Workload, corpus: Any) -> Any:
        yield "a store"

    def make_llm(**settings: Any) -> Any:
        retriever = settings.pop("retriever")
        assert retriever.store.top_k_is_stable is False
        name = next((n for n, row in ROWS.items() if row.items() <= settings.items()))
        if retriever.replica:
            assert (name, retriever.replica) == ("+PSA", "a copy")
            name = "+PSAR"
        if not settings.get("speculation", True):
            name = "narrow" if settings.get("prefetch_k") == 1 else "sequential"
        if settings.get("kv_cache_dir"):
            assert Path(settings["kv_cache_dir"]).is_dir()
            name = "W" if name == "sequential" else f"{name}W"
        return fake_llm(name, settings.get("prefetch_k", 20))

    def make_retriever(*, vectorstore: Any, replica: Any = None) -> Any:
        assert vectorstore == "a store"
        session = SimpleNamespace(wait_for_replica=lambda: True)
        return SimpleNamespace(
            store=SimpleNamespace(top_k_is_stable=False),
            new_session=lambda **_: session,
            replica=replica,
        )

    corpus = SimpleNamespace(passages=[1, 2, 3])
    monkeypatch.setattr(Workload, "opened", opened)
    monkeypatch.setattr(Workload, "replica", lambda *_: "a copy")
    monkeypatch.setattr(benchmark, "find_gguf", lambda model: "m.gguf")
    monkeypatch.setattr(benchmark, "Corpus", SimpleNamespace(load=lambda *_: corpus))
    monkeypatch.setattr(benchmark, "RaLMSpecRetriever", make_retriever)
    monkeypatch.setattr(benchmark, "RaLMSpecLLM", make_llm)
    monkeypatch.setattr(benchmark, "QUESTIONS", QUESTIONS)
    return Benchmark(store="chroma-http", latency_ms=100, limit=4)


def test_the_figures_say_what_was_measured(
    bench: Benchmark, asked: Asked, tmp_path: Path
) -> None:
    replace(bench, json=tmp_path / "a.json").run()
    figures = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert list(figures["rows"]) == USUAL_ROWS
    assert set(figures["summary"]) == SUMMARY
    assert figures["summary"]["questions"] == 4
    assert figures["summary"]["identical"] is True
    assert figures["retrieval_share"] == pytest.approx(2 / 3)
    expected = {"store": "chroma-http", "latency": 0.1, "passages": 3}
    assert expected.items() <= figures["workload"].items()
    assert figures["workload"]["warm_up_questions"] == 2
    assert figures["provenance"]["machine"]["cores"]
    for row in figures["rows"].values():
        assert len(row["answers"]) == 4
        assert row["seconds"]["all"] == 2.0
        assert row["first_text"] == {"seconds": 0.5, "sooner": 1.5}
    assert figures["sequential"]["first_text"] == {"seconds": 0.75, "sooner": 1.0}
    assert figures["sequential"]["seconds"]["all"] == 3.0
    assert figures["narrow"]["speedup_quartiles"] == [1.0, 1.0, 1.0]
    shown = cells("ralm", figures)  # in the docs
    assert {
        "*a*": "100 ms",
        "*b*": "200 ms",
        "retrieval": "67%",
    }.items() <= shown.items()
    assert shown["speed-up, median (quartiles)"] == "**1.50** (1.50–1.50)"
    assert (shown["right"], shown["of sums"]) == ("75%", "1.50")
    assert cells("boosters", figures)["+A"] == "1.50"
    assert cells("ralm-short", figures)["speed-up"] == "**1.50**"


def test_the_warm_up_takes_other_questions_where_there_are_any(
    bench: Benchmark, asked: Asked, capsys: Any
) -> None:
    bench.run()
    assert {name for name, _ in asked.log} == {"sequential", "narrow", *USUAL_ROWS}
    n_rows = 2 + len(USUAL_ROWS)
    warm = {question for _, question in asked.log[: 2 * n_rows]}
    timed = {question for _, question in asked.log[2 * n_rows :]}
    # The prompt of a plain completion; the lines of progress leave it out.
    assert timed == {f"Question: question {n}\nAnswer:" for n in range(4)}
    assert warm == {f"Question: question {n}\nAnswer:" for n in (4, 5)}
    progress = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in progress] == [
        f"{n + 1}. question {n}" for n in range(4)
    ]


def test_rows_whose_passages_were_read_are_over_a_loop_of_that_kind(
    bench: Benchmark, asked: Asked
) -> None:
    figures = replace(bench, rows="+PSA,+PSAW,+PSARW").run()
    assert list(figures["rows"]) == ["+PSA", "+PSAW", "+PSARW"]
    read = [question for name, question in asked.log if name == "W"]
    assert len(read) == 4 + 2 + 4, "once to have them read, to warm up, and timed"
    assert asked.log[:4] == [("W", question) for question in read[:4]]
    assert read[:4] == read[6:]
    assert figures["W"]["over_unread"] == {"median": 1.0, "sums": 1.0}
    assert figures["rows"]["+PSARW"]["over_unread"] == {"median": 1.5, "sums": 1.5}
    assert "over_unread" not in figures["rows"]["+PSA"]
    assert "Over 'sequential' they are: W 1.00×, +PSAW 1.50×" in " ".join(
        printed(report, figures, width=200).split()
    )


@pytest.mark.parametrize("row", ["+S", "W", "+PSAW"])
def test_one_answer_that_differs_is_said(
    bench: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys: Any, row: str
) -> None:
    monkeypatch.setattr(contest, "ask", Asked({row: "other"}))
    figures = replace(bench, rows=f"+S{',+PSAW' if 'W' in row else ''}").run()
    assert figures["summary"]["identical"] is False
    assert capsys.readouterr().out.endswith("identical: NO\n")


def test_the_report_names_every_row_and_reads_without_colours(
    bench: Benchmark,
) -> None:
    figures = bench.run()
    said = printed(report, figures, width=80)
    assert "…" not in said, "a table is too wide for a terminal"
    for row in ("sequential", "narrow", *USUAL_ROWS):
        assert f" {row} " in said
    assert " ".join(said.split()).count("+PSA 0.500 1.50×") == 1
    assert "100 ms away each way" in said
    assert "embedded by a server" not in said
    assert "lookup 4 75%, lookup 2 25%" in said
    assert "4 of 4" in said
    assert said.endswith("identical: yes\n")
    figures["workload"] |= {"distractors": 1_000_000, "embedding_server": 0.15}
    said = printed(report, figures, width=100)
    assert "1,000,000 distractors are random unit vectors" in said
    assert "queries embedded by a server at a round trip of 150 ms" in said
