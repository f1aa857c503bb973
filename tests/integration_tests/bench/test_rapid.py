"""The whole command, on short texts; what it measures is nobody's promise."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec import RapidChain
from langchain_ralmspec.bench.rapid.documents import python_samples
from langchain_ralmspec.engine.prefix_folder import PrefixFolder
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


def test_a_folder_that_keeps_nothing_is_an_error_of_preload(
    tmp_path: Path, gguf: str, capsys: Any
) -> None:
    file, kv = tmp_path / "text.txt", tmp_path / "kv"
    file.write_text("Moby Dick is a novel by Herman Melville.", encoding="utf-8")
    kv.mkdir()
    (kv / "README").write_text("for everybody")
    kv.chmod(0o777)
    options = ("--n-ctx", "1024", "--kv-cache-dir", str(kv), "--target", gguf)
    with pytest.warns(RuntimeWarning, match="others can put files there"):
        said = run("preload", str(file), *options)
    assert "kv' has not kept anything; the warning above" in said
    assert "ready" not in capsys.readouterr().out
    assert [each.name for each in kv.iterdir()] == ["README"]


def test_a_disk_that_is_full_is_an_error_of_preload(
    tmp_path: Path, gguf: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = tmp_path / "kv"
    options = ("--n-ctx", "1024", "--target", gguf, "--kv-cache-dir", str(kv))
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"The {name} text.", encoding="utf-8")
    assert not run("preload", str(tmp_path / "first"), *options)
    assert "ready" in capsys.readouterr().out

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PrefixFolder, "_write", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        said = run("preload", str(tmp_path / "second"), *options)
    assert re.search("kv' has not kept the KV of .*second', .* the warning above", said)
    assert "ready" not in capsys.readouterr().out
