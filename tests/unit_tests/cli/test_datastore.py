import re
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.cli import datastore as making
from langchain_ralmspec.cli.datastore import datastore
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import DatastoreError, InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore
from tests.unit_tests.bench.knnlm.fakes import fake_model, write_datastore
from tests.unit_tests.cli.shell import run

Seen = pytest.CaptureFixture[str]


class Reading:
    """Takes texts in without a model, one entry for each word but the first."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.settings: dict[str, Any] = {}

    def build(self, texts: list[str], *, path: Path, **settings: Any) -> KNNDatastore:
        self._read(texts, **settings)
        n_entries = sum(len(text.split()) - 1 for text in texts)
        return write_datastore(path, n_entries)

    def append(self, texts: list[str], **settings: Any) -> None:
        self._read(texts, **settings)

    def _read(self, texts: list[str], **settings: Any) -> None:
        self.texts, self.settings = texts, settings
        settings.pop("progress")(len(texts))


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    reading = Reading()
    monkeypatch.setattr(making, "find_gguf", lambda name: f"{name}.gguf")
    monkeypatch.setattr(Model, "load", lambda *_, **__: fake_model())
    monkeypatch.setattr(KNNDatastore, "build", reading.build)
    monkeypatch.setattr(KNNDatastore, "append", reading.append)
    return reading


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text("one two three four", encoding="utf-8")
    files[1].write_text("five six seven", encoding="utf-8")
    return files


def test_every_file_is_a_text(
    reading: Reading, files: list[Path], tmp_path: Path, capsys: Seen
) -> None:
    out = tmp_path / "out"
    datastore(files, out=out, key_type="float32")
    assert reading.texts == ["one two three four", "five six seven"]
    expected = {"index": "flat", "key_type": "float32"}
    assert reading.settings == {"model_path": "smollm2-135m.gguf", **expected}
    read, made, holds = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"flat index made in \d\.\d s", made)
    assert re.fullmatch(r"5 entries read in \d\.\d s \([\d,]+ tokens/s\)", read)
    n_bytes = sum(file.stat().st_size for file in out.iterdir())
    assert holds == f"{out} holds 5 entries, {n_bytes / 1e6:.0f} MB"


@pytest.mark.parametrize(
    ("limit", "texts"),
    [
        (2, [" one two"]),
        (4, [" one two three four"]),
        (5, ["one two three four", " five"]),
        (9, ["one two three four", "five six seven"]),
    ],
)
def test_a_limit_holds_for_all_files_together(
    reading: Reading, files: list[Path], tmp_path: Path, limit: int, texts: list[str]
) -> None:
    datastore(files, out=tmp_path / "out", limit_tokens=limit)
    assert reading.texts == texts


def test_options_of_the_command_reach_what_is_there(
    reading: Reading,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Seen,
) -> None:
    prepared: list[int] = []
    monkeypatch.setattr(
        KNNDatastore, "prepare", lambda store: prepared.append(len(store))
    )
    out = tmp_path / "out"
    write_datastore(out, 30)
    options = ["--out", str(out), "--index", "ivf", "--append", "--limit-tokens", "9"]
    assert not run("datastore", str(files[1]), *options)
    assert reading.texts == ["five six seven"]
    assert reading.settings == {"model_path": "smollm2-135m.gguf"}
    assert prepared == [30]  # nothing was really read
    read, indexed, holds = capsys.readouterr().out.splitlines()
    assert read.startswith("0 entries read in ")
    assert indexed.startswith("ivf index made in ")
    assert holds.startswith(f"{out} holds 30 entries, ")


def test_what_cannot_be_served_is_refused_before_any_work(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "find_gguf", lambda name: pytest.fail("too late"))
    with pytest.raises(InvalidValueError, match="--out"):
        datastore(files)
    with pytest.raises(InvalidValueError, match=r"c\.txt"):
        datastore([*files, tmp_path / "c.txt"], out=tmp_path / "out")
    with pytest.raises(DatastoreError, match="out"):
        datastore(files, out=tmp_path / "out", append=True)
