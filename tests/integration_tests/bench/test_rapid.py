"""The whole command, on short texts; what it measures is nobody's promise."""

import json
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec import RapidChain
from langchain_ralmspec.bench.rapid.documents import python_samples
from tests.unit_tests.bench.rapid.test_benchmark import SUMMARY
from tests.unit_tests.cli.shell import run

_LETTERS = 1100  # about 300 tokens


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Two questions about one short text."""
    file = tmp_path / "documents.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for sample in python_samples()[12:14]:
            record = {
                "context": sample.context[:_LETTERS],
                "question": sample.question,
                "answers": list(sample.answers),
            }
            lines.write(json.dumps(record) + "\n")
    return file


def test_all_rows_answer_and_all_is_written(tmp_path: Path, documents: Path) -> None:
    written, kv = tmp_path / "a.json", tmp_path / "kv"
    assert not run(
        "bench", "rapid", "--documents", str(documents),
        "--n-ctx", "1024", "--max-tokens", "16", "--exact-batches",
        "--drafter", "self", "--draft-length", "3", "--n-threads", "1",
        "--kv-cache-dir", str(kv), "--json", str(written),
    )  # fmt: skip
    figures: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    summary = figures["summary"]
    assert set(summary) == SUMMARY
    assert summary["questions"] == 2
    assert summary["identical"] is True  # or the command would have failed
    assert 0 < summary["acceptance"] <= 1
    assert summary["attainable"] >= 1
    assert list(figures["rows"]) == ["plain", "rag", "SD", "RAPID η=5"]
    first, second = figures["samples"]
    assert (first["is_first"], second["is_first"]) == (True, False)
    assert first["first_ttft"] == second["first_ttft"]
    assert first["ttft_from_disk"] > 0
    for sample in (first, second):
        for row in ("plain", "SD"):
            stats = sample["rows"][row]["stats"]
            assert 0 < stats["cached_tokens"] < stats["prompt_tokens"]
    assert list(kv.iterdir()) == []


def test_what_was_preloaded_is_there_for_a_chain(
    tmp_path: Path, gguf: str, capsys: Any
) -> None:
    file, kv = tmp_path / "text.txt", tmp_path / "kv"
    text = python_samples()[12].context[:_LETTERS]
    file.write_text(text, encoding="utf-8")
    options = ("--n-ctx", "1024", "--kv-cache-dir", str(kv))
    assert not run("preload", str(file), *options)
    assert "tokens are ready after" in capsys.readouterr().out
    chain = RapidChain(model_path=gguf, n_ctx=1024, kv_cache_dir=str(kv), max_tokens=2)
    said = chain.invoke({"question": "What is it?", "context": text})
    assert said["speculation"]["cached_tokens"] > 0
