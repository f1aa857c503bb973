"""Full and read-only disks, and texts that cannot be read: named, and nothing lost."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_ralmspec.errors import DatastoreError, InvalidValueError
from langchain_ralmspec.knnlm import KNNDatastore, datastore
from tests.unit_tests.knnlm.fakes import FakeReader, write_entries
from tests.unit_tests.knnlm.test_datastore import append, build, contents

resource = pytest.importorskip("resource", reason="files of any size there")

LONG = "abcdefghijklmnop" * 40


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> FakeReader:
    reader = FakeReader()
    monkeypatch.setattr(datastore, "load_reader", lambda *_, **__: reader)
    return reader


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Have the system refuse to write on, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("n_bytes", [0, 200, 1000], ids=["none", "header", "a part"])
def test_a_build_on_a_full_disk_is_named_and_leaves_nothing(
    n_bytes: int, tmp_path: Path
) -> None:
    older = build(tmp_path / "older")
    before = contents(tmp_path)
    with files_of_at_most(n_bytes):
        for path in (tmp_path / "store", older.path):
            with pytest.raises(DatastoreError, match=rf"{path.name}'.*make room"):
                build(path, [LONG])
    assert contents(tmp_path) == before
    assert [*tmp_path.iterdir()] == [older.path]


@pytest.mark.parametrize("n_bytes", [0, 300], ids=["none", "a part"])
def test_an_append_to_a_full_disk_is_named_and_takes_no_room(
    n_bytes: int, tmp_path: Path
) -> None:
    store = build(tmp_path / "store")
    before = contents(tmp_path)
    with (
        files_of_at_most(n_bytes),
        pytest.raises(DatastoreError, match=r"store'.*make room"),
    ):
        append(store, [LONG])
    assert contents(tmp_path) == before
    append(store, ["more"])
    assert len(store) == len(KNNDatastore.load(store.path)) == 17 + 3


@pytest.mark.parametrize("refused", ["mkdir", "rename", "open"])
def test_a_disk_that_is_only_read_is_named(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(tmp_path / "store")
    real, before = Path.open, contents(tmp_path)

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return real(path, mode, *args, **kwargs) if mode in {"r", "rb"} else refuse()

    with monkeypatch.context() as patch:
        patch.setattr(Path, refused, opened if refused == "open" else refuse)
        with pytest.raises(DatastoreError, match=r"store'.*Read-only"):
            build(store.path, ["anew"])
        if refused == "open":
            with pytest.raises(DatastoreError, match=r"store'.*Read-only"):
                append(store, ["more"])
    assert contents(tmp_path) == before


def test_a_place_where_no_folder_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatastoreError, match=r"file/store'.*Not a directory"):
        build(tmp_path / "file" / "store")


def test_what_the_texts_raise_is_theirs(tmp_path: Path) -> None:
    def texts() -> Iterator[str]:
        yield "abc"
        raise FileNotFoundError("corpus.txt")

    with pytest.raises(FileNotFoundError, match=r"corpus\.txt"):
        build(tmp_path / "store", texts())
    assert [*tmp_path.iterdir()] == []


def test_an_index_that_cannot_be_kept_serves_from_memory(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    keys = np.random.default_rng(0).integers(0, 9, (500, 8)).astype(np.float16)
    folder = write_entries(tmp_path / "store", keys)
    before = contents(folder)
    store = KNNDatastore.load(folder, index="ivf")
    query = keys[7:8].astype(np.float32)
    with files_of_at_most(100), pytest.warns(RuntimeWarning, match=r"store/index-ivf"):
        (found,) = store.search(query, 1)
    assert found.distances.tolist() == [0]
    assert contents(folder) == before
    store.search(query, 1)  # warns no more
    KNNDatastore.load(folder, index="ivf").prepare()
    assert len(contents(folder)) == len(before) + 1


BAD = "\N{SNOWMAN}"


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["abc", 7], r"text 1 \(.*got 7"),
        (
            ["abc", Document(page_content=BAD, id="d7")],
            "text 1, .*'d7' .*no let",
        ),
        ([BAD, "abc"], "text 0 .*no let"),
    ],
)
@pytest.mark.parametrize("kind", [list, iter])
def test_a_text_that_cannot_be_read_is_named(
    texts: Any, named: str, kind: Callable[..., Any], reader: FakeReader, tmp_path: Path
) -> None:
    def tokenize(text: str) -> list[int]:
        if text == BAD:
            raise InvalidValueError("that is no letter")
        return [*text.encode()]

    reader.weights.tokenize = tokenize
    with pytest.raises(InvalidValueError, match=named):
        build(tmp_path / "store", kind(texts))
    assert [*tmp_path.iterdir()] == []
    if kind is list:
        assert not reader.calls, "nothing was read in vain"


def test_the_home_folder_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build(Path("~/store")).path == tmp_path / "store"
    assert KNNDatastore.load("~/store").path == tmp_path / "store"
