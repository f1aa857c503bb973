"""The whole command, over a small corpus; what it measures is nobody's promise."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.assets.cache import cache_dir
from langchain_ralmspec.assets.corpus import stdlib_passages
from tests.unit_tests.cli.shell import run

N_PASSAGES = 60
QUESTIONS = ["How do I parse arguments?", "How do I read a ZIP archive?"]

Command = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a small corpus, its questions, and few tokens."""
    folder = tmp_path_factory.mktemp("bench")
    corpus, questions = folder / "passages.jsonl", folder / "questions.jsonl"
    passages = stdlib_passages()
    with corpus.open("w", encoding="utf-8") as file:
        for each in passages[:: len(passages) // N_PASSAGES][:N_PASSAGES]:
            record = {"id": each.id, "title": each.title, "text": each.text}
            file.write(json.dumps(record) + "\n")
    lines = (json.dumps({"question": question}) for question in QUESTIONS)
    questions.write_text("\n".join(lines), encoding="utf-8")
    return ["--corpus", str(corpus), "--questions", str(questions)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[str], cache: Path
) -> Command:
    """Runs ``ralmspec`` with these and other options; gives what it wrote."""
    usual = cache_dir()
    monkeypatch.setenv("RALMSPEC_CACHE", str(cache))
    written = tmp_path / "figures.json"
    # Models were checked and requantised before; doing it again takes long.
    monkeypatch.setattr("langchain_ralmspec.assets.models.cache_dir", lambda: usual)

    def ask(*options: str) -> dict[str, Any]:
        assert not run(*options, *files, "--json", str(written))
        figures: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return figures

    return ask


def test_every_booster_gives_the_sequential_answers(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = command("bench", "ralm", "--distractors", "12000", "--max-tokens", "9")
    assert capsys.readouterr().out.endswith("identical: yes\n")
    assert figures["summary"]["identical"] is True
    assert figures["summary"]["questions"] == len(QUESTIONS)
    assert figures["workload"]["passages"] == N_PASSAGES
    assert figures["narrow"] is None  # exact search needs no other reference
    assert list(figures["rows"]) == ["Spec", "+P", "+S", "+A", "+PS", "+PSA", "+PSAR"]
    answers = {
        row: [answer["answer"] for answer in figures["rows"][row]["answers"]]
        for row in figures["rows"]
    }
    assert all(each == answers["Spec"] for each in answers.values())
    assert all(answers["Spec"])
    plain = figures["rows"]["Spec"]["answers"][0]
    assert set(plain["speculative"]["plans"]) == {"lookup 3"}
    assert plain["sequential"]["queries"] == 3  # nine tokens, four at a time


def test_passages_that_were_read_before_come_from_a_folder(command: Command) -> None:
    figures = command("bench", "ralm", "--rows", "+PSAW", "--max-tokens", "9")
    assert figures["summary"]["identical"] is True
    for row in (figures["W"], figures["rows"]["+PSAW"]):
        assert row["read_tokens"] == 0
        assert row["cached_tokens"] > 0


def test_a_server_at_a_distance_is_asked_through_the_relay(
    command: Command, cache: Path
) -> None:
    figures = command(
        "bench", "ralm", "--store", "chroma-http", "--latency-ms", "10",
        "--rows", "Spec,+PSA", "--max-tokens", "8",
    )  # fmt: skip
    assert figures["summary"]["identical"] is True
    assert list(figures["rows"]) == ["Spec", "+PSA"]
    assert figures["narrow"]["seconds"]["all"] > 0
    # Both ways, so no search can have been shorter. Never more: clocks are shared.
    sequential = figures["rows"]["+PSA"]["answers"][0]["sequential"]
    assert sequential["seconds_searching"] >= 0.02 * sequential["store_calls"]
    # Filled once, found again by its content.
    (folder,) = (cache / "chroma").iterdir()
    assert (folder / "chroma.sqlite3").is_file()


def test_a_hosted_encoder_is_asked_for_queries_and_changes_no_answer(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("bench", "ralm", "--rows", "+PSA", "--limit", "1", "--max-tokens", "9")
    figures = command(*options, "--embedding-server", "20")
    assert "embedded by a server at a round trip of 20 ms" in capsys.readouterr().out
    assert figures["summary"]["identical"] is True
    assert figures["workload"]["embedding_server"] == 0.02
    near = command(*options)
    answers = [each["rows"]["+PSA"]["answers"][0] for each in (figures, near)]
    assert answers[0]["answer"] == answers[1]["answer"]
    slow = answers[0]["sequential"]
    # A request for each query; never less than the distance, more where clocks are.
    assert slow["seconds_embedding"] >= 0.02 * slow["queries"]
    assert 0 < slow["seconds_embedding_idle"] <= slow["seconds_embedding"]
    assert 0 < slow["first_text"] < slow["seconds_on_the_wall"]


@pytest.mark.parametrize("store", ["bm25", "chroma", "faiss-hnsw"])
def test_other_stores_hold_the_corpus(command: Command, store: str) -> None:
    figures = command(
        "bench", "ralm", "--store", store, "--rows",
        "+PSA" if store == "bm25" else "+PSA,+PSAR",
        "--limit", "1", "--max-tokens", "8",
    )  # fmt: skip
    assert figures["summary"]["identical"] is True
    assert figures["workload"]["store"] == store


def test_the_demo_asks_all_three_stacks(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = command("demo", "--limit", "1", "--max-tokens", "8")
    assert capsys.readouterr().out.endswith("identical: yes\n")
    for key, part, distance in (
        ("near", "searching", 0.0),
        ("remote", "searching", 0.05),
        ("hosted", "embedding", 0.15),
    ):
        assert figures[key]["summary"]["identical"] is True
        assert figures[key]["read_before"]["identical"] is True
        (answer,) = figures[key]["answers"]
        slow = answer["sequential"]
        assert slow[f"seconds_{part}"] >= distance * slow["store_calls"]
