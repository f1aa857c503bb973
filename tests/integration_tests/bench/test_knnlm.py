"""Both commands, over some of Python's documentation, with a real model."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.assets.corpus import stdlib_passages
from tests.unit_tests.cli.shell import run as ralmspec

N_TOKENS = 2000

Seen = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What is read into the datastore, and what is held out."""
    folder = tmp_path_factory.mktemp("texts")
    passages = [passage.text for passage in stdlib_passages()]
    seen, held_out = folder / "seen.txt", folder / "held_out.txt.gz"
    seen.write_text("\n\n".join(passages[:400:2]), encoding="utf-8")
    lines = (" ".join(text.split()) for text in passages[1:400:2])
    held_out.write_bytes(gzip.compress("\n\n".join(lines).encode()))
    return seen, held_out


@pytest.fixture(scope="module")
def datastore(
    texts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("datastore") / "store"
    limit = str(N_TOKENS)
    command = ("datastore", str(texts[0]), "--out", str(folder))
    assert not ralmspec(*command, "--limit-tokens", limit)
    return folder


def bench(
    datastore: Path, texts: tuple[Path, Path], tmp_path: Path, *options: str
) -> dict[str, Any]:
    file = tmp_path / "figures.json"
    where = ("--datastore", str(datastore), "--text", str(texts[1]))
    lengths = ("--limit", "3", "--prompt-tokens", "24", "--max-tokens", "16")
    written = ("--json", str(file))
    assert not ralmspec("bench", "knnlm", *where, *lengths, *written, *options)
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return figures


def test_speculation_writes_the_sequential_tokens(
    datastore: Path,
    texts: tuple[Path, Path],
    tmp_path: Path,
    capsys: Seen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langchain_ralmspec.knnlm.datastore.PROBED_FROM", 1)
    before = {file: file.read_bytes() for file in datastore.iterdir()}
    figures = bench(
        datastore, texts, tmp_path,
        "--k", "1", "--k", "8", "--entries", "9000", "--perplexity-tokens", "64",
    )  # fmt: skip
    assert capsys.readouterr().out.endswith("identical: yes\n")
    assert figures["summary"]["identical"] is True
    assert figures["summary"]["questions"] == 3
    n_real = figures["workload"]["real_entries"]
    assert abs(n_real - N_TOKENS) < 9  # a cut text may have other tokens at its end
    assert figures["workload"]["distractors"] == 9000 - n_real
    for of_k in figures["by_k"].values():
        slow, fast = of_k["sequential"]["counts"], of_k["rows"]["Spec"]["counts"]
        assert fast["tokens_kept"] == slow["tokens_kept"]
        assert fast["store_calls"] < slow["store_calls"]
        assert set(of_k["rows"]["Spec"]["plans"]) == {"lookup 3"}
    # The model alone is the same whatever is asked of the datastore.
    alone = {
        row["perplexity"]
        for row in figures["perplexity"]["rows"]
        if not row["interpolation"]
    }
    assert len(alone) == 1
    assert 1 < alone.pop() < 1000
    assert {file: file.read_bytes() for file in datastore.iterdir()} == before
    assert list(datastore.parent.iterdir()) == [datastore]


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_approximate_indexes_change_nothing_about_that(
    datastore: Path, texts: tuple[Path, Path], tmp_path: Path, index: str
) -> None:
    figures = bench(
        datastore, texts, tmp_path,
        "--index", index, "--k", "4", "--rows", "Spec", "--perplexity-tokens", "0",
    )  # fmt: skip
    assert figures["summary"]["identical"] is True
    assert list(figures["by_k"]["4"]["rows"]) == ["Spec"]
    assert figures["perplexity"] is None


def test_texts_are_added(
    datastore: Path, texts: tuple[Path, Path], tmp_path: Path, capsys: Seen
) -> None:
    """Last: the others count what is there."""
    n_bytes = (datastore / "keys.npy").stat().st_size
    added = ("--append", "--limit-tokens", "40")
    assert not ralmspec("datastore", str(texts[1]), "--out", str(datastore), *added)
    assert (datastore / "keys.npy").stat().st_size > n_bytes
    assert "entries read in" in capsys.readouterr().out
