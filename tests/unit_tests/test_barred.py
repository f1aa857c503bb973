"""Folders that may not be entered: whoever names one is told by an error of ours."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_ralmspec.assets.embeddings import embed_cached
from langchain_ralmspec.assets.targets import find_encoder, find_gguf
from langchain_ralmspec.bench.figures import check_file
from langchain_ralmspec.engine.heads import heads_of
from langchain_ralmspec.engine.prefix_folder import PrefixFolder
from langchain_ralmspec.errors import (
    DatastoreError,
    InvalidValueError,
    ModelFileError,
)
from langchain_ralmspec.knnlm import KNNDatastore, datastore
from langchain_ralmspec.knnlm.faiss_index import FaissKeyIndex
from langchain_ralmspec.rapid.drafter_factory import absolute_of, require_known
from tests.unit_tests.cli.shell import run
from tests.unit_tests.knnlm.fakes import FakeReader

LONG = "x" * 300  # for a name; no file system has longer ones


def bar(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the system say of what is in a folder what it says to other users.

    Whoever runs the tests may be root, whom no mode of a folder keeps out.
    """

    def barred(owner: Any, name: str) -> None:
        own = getattr(owner, name)

        def refuse(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if not isinstance(path, int) and folder in Path(path).parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return own(path, *args, **kwargs)

        patch.setattr(owner, name, refuse)

    for name in ("stat", "lstat", "mkdir", "listdir", "scandir", "utime", "open"):
        barred(os, name)
    barred(io, "open")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path in a folder that may not be entered."""
    folder = tmp_path / "barred"
    folder.mkdir()
    bar(folder, monkeypatch)
    return folder / "inside"


def test_a_datastore_is_not_built_there(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastore, "load_reader", lambda *_, **__: FakeReader())
    with pytest.raises(DatastoreError, match=r"inside'.*denied.*may be written to"):
        KNNDatastore.build(["a text"], model_path="m.gguf", path=inside)


def test_a_datastore_is_not_built_where_one_may_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DatastoreError, match=r"denied.*may be written to"):
        KNNDatastore.build(["a text"], model_path="m.gguf", path=tmp_path)


def test_an_index_there_is_not_read(inside: Path) -> None:
    pytest.importorskip("faiss")
    keys = np.eye(4, dtype=np.float16)
    with pytest.raises(DatastoreError, match=r"cannot read .*inside'.*denied"):
        FaissKeyIndex("ivf", keys, inside)


@pytest.mark.parametrize("act", [require_known, absolute_of])
def test_a_drafter_there_is_none(act: Any, inside: Path) -> None:
    for given in (inside, f"text:{inside}", LONG):
        try:
            assert act(given) == given
        except InvalidValueError as error:
            assert "is neither a drafter's name nor a GGUF file" in str(error)  # noqa: PT017


def test_a_model_there_is_none(inside: Path) -> None:
    with pytest.raises(ModelFileError, match=r"inside' may not be read.*denied"):
        find_gguf(str(inside))
    with pytest.raises(ModelFileError, match=r"may not be read.*too long"):
        find_gguf(LONG)
    with pytest.raises(InvalidValueError, match="inside' is neither a folder with a"):
        find_encoder(str(inside))


def test_vectors_are_not_kept_there(inside: Path) -> None:
    embeddings = DeterministicFakeEmbedding(size=2)
    with pytest.warns(UserWarning, match=r"are not kept in .*inside'.*denied"):
        assert embed_cached(["a"], embeddings, "m", inside).shape == (1, 2)


def test_a_folder_of_prefixes_that_was_barred_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = PrefixFolder(tmp_path / "kv", {"model": "m"})
    bar(folder.path, monkeypatch)
    assert not folder.keeps(heads_of([[1, 2]], folder.start))


def test_passages_there_are_not_read(inside: Path, tmp_path: Path) -> None:
    said = run("warm", str(inside), "--kv-cache-dir", str(tmp_path / "kv"))
    assert "inside' cannot be read" in said
    assert "denied" in said


def test_figures_are_not_written_there(inside: Path) -> None:
    with pytest.raises(InvalidValueError, match="cannot be written"):
        check_file(inside / "a.json")
