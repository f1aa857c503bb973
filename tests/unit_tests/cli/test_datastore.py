from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from langchain_ralmspec.cli import datastore as making
from langchain_ralmspec.cli.app import app
from langchain_ralmspec.cli.datastore import Built, make
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import DatastoreError, InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore
from tests.unit_tests.bench.knnlm.fakes import fake_model, write_datastore


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
    monkeypatch.setattr(making, "find_target", lambda name: f"{name}.gguf")
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
    reading: Reading, files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = make(files, out, key_type="float32")
    assert reading.texts == ["one two three four", "five six seven"]
    assert reading.settings == {
        "model_path": "smollm2-135m.gguf",
        "index": "flat",
        "key_type": "float32",
    }
    assert (done.added, done.entries, done.index_seconds) == (5, 5, 0.0)
    assert done.folder_bytes == sum(file.stat().st_size for file in out.iterdir())
    assert done.seconds > 0


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
    make(files, tmp_path / "out", limit_tokens=limit)
    assert reading.texts == texts


def test_texts_are_added_to_what_is_there(
    reading: Reading, files: list[Path], tmp_path: Path
) -> None:
    write_datastore(tmp_path / "out", 30)
    done = make(files[1:], tmp_path / "out", append=True)
    assert reading.texts == ["five six seven"]
    assert (done.added, done.entries) == (0, 30)  # nothing was really read


def test_an_approximate_index_is_made_at_once(
    reading: Reading,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared: list[int] = []
    monkeypatch.setattr(
        KNNDatastore, "prepare", lambda store: prepared.append(len(store))
    )
    assert make(files, tmp_path / "out", index="ivf").index_seconds > 0
    assert prepared == [5]


def test_what_cannot_be_served_is_refused_before_any_work(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "find_target", lambda name: pytest.fail("too late"))
    with pytest.raises(InvalidValueError, match="--out"):
        make(files, None)
    with pytest.raises(InvalidValueError, match=r"c\.txt"):
        make([*files, tmp_path / "c.txt"], tmp_path / "out")
    with pytest.raises(DatastoreError, match="out"):
        make(files, tmp_path / "out", append=True)


def test_the_command_says_what_was_read(
    monkeypatch: pytest.MonkeyPatch, files: list[Path]
) -> None:
    given: dict[str, Any] = {}

    def made(texts: Any, out: Any, **settings: Any) -> Built:
        given.update(settings, files=texts, out=out)
        return Built(3000, 4000, 5_000_000, 2.0, 1.5)

    monkeypatch.setattr(making, "make", made)
    options = ["--out", "o", "--index", "ivf", "--append", "--limit-tokens", "9"]
    result = CliRunner().invoke(app, ["datastore", *map(str, files), *options])
    assert result.exit_code == 0
    assert result.stdout == (
        "3,000 entries read in 2.0 s (1,500 tokens/s)\n"
        "ivf index made in 1.5 s\n"
        "o holds 4,000 entries, 5 MB\n"
    )
    assert given == {
        "files": files,
        "out": Path("o"),
        "model": "smollm2-135m",
        "index": "ivf",
        "key_type": "float16",
        "append": True,
        "limit_tokens": 9,
    }
