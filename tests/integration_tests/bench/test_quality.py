"""The whole command, over a few passages; what it finds is nobody's promise."""

import json
from pathlib import Path

import pytest

from langchain_ralmspec.assets.corpus import stdlib_passages
from langchain_ralmspec.bench.quality.policies import POLICIES
from tests.unit_tests.cli.shell import run

PASSAGES = {
    "Herman Melville published Moby Dick in London in 1851.": (
        "Who published Moby Dick?", "Herman Melville",
    ),
    "The lighthouse of Rubjerg was moved seventy metres inland in 2019.": (
        "How far was the lighthouse of Rubjerg moved?", "seventy metres",
    ),
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options that name two questions, and a text of some long lines."""
    questions, text = tmp_path / "questions.jsonl", tmp_path / "text.txt"
    records = (
        {"question": question, "answers": [answer], "context": context}
        for context, (question, answer) in PASSAGES.items()
    )
    questions.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    long = [each.text for each in stdlib_passages() if len(each.text.split()) > 110]
    lines = (" ".join(each.split()) for each in long[:12])
    text.write_text("\n".join(lines), encoding="utf-8")
    return ["--questions", str(questions), "--text", str(text)]


@pytest.mark.slow
def test_every_policy_answers_and_a_text_is_scored(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    lengths = ["--max-tokens", "12", "--perplexity-tokens", "128"]
    assert not run("bench", "quality", *files, *lengths, "--json", str(file))
    out, err = capsys.readouterr()
    assert "128 tokens were scored, in 1 paragraphs" in out
    assert "1. Who published Moby Dick?" in err
    figures = json.loads(file.read_text(encoding="utf-8"))
    rows = figures["rows"]
    assert list(rows) == list(POLICIES)
    for row, asked in rows.items():
        assert asked["found"]["mean"] == (row != "none")  # there are but two passages
        assert 0 < asked["tokens"]["mean"] <= 12
    means = {row: asked["lookups"]["mean"] for row, asked in rows.items()}
    assert (means["none"], means["once k=1"], means["once k=4"]) == (0, 1, 1)
    assert means["iter-retgen"] == 2
    assert means["stride 4"] >= means["stride 8"] >= means["stride 16"] == 1
    assert rows["once k=4"]["documents"]["mean"] == 2
    # Nothing that is looked up again is another document, in time for these tokens.
    assert (
        rows["stride 16"]["by_question"]["f1"] == rows["once k=1"]["by_question"]["f1"]
    )
    scored = figures["perplexity"]["rows"]
    assert scored["none"]["to_none"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert len({row["perplexity"]["mean"] for row in scored.values()}) > 1
    assert all(1 < row["perplexity"]["mean"] < 1000 for row in scored.values())
