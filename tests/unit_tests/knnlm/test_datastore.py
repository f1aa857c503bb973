"""Building, adding and opening: all of it or nothing, and nothing of others."""

from __future__ import annotations

import importlib
import json
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_ralmspec import KNNLMSpecLLM
from langchain_ralmspec.engine import Model
from langchain_ralmspec.errors import (
    DatastoreError,
    InvalidValueError,
    MissingExtraError,
)
from langchain_ralmspec.knnlm import KNNDatastore, datastore
from langchain_ralmspec.knnlm.entries import EntryWriter, Manifest
from langchain_ralmspec.knnlm.keys import typical_distance
from langchain_ralmspec.registry import _renewed
from tests.unit_tests.knnlm.fakes import FakeReader, write_entries

TEXTS = ["abcdefghijklmnop", "xyz", "a", ""]


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> FakeReader:
    reader = FakeReader()
    monkeypatch.setattr(datastore, "load_reader", lambda *_, **__: reader)
    return reader


@pytest.fixture
def store(reader: FakeReader, tmp_path: Path) -> KNNDatastore:
    return build(tmp_path / "store")


def build(path: Path, texts: Any = TEXTS, **settings: Any) -> KNNDatastore:
    return KNNDatastore.build(texts, model_path="tiny.gguf", path=path, **settings)


def append(store: KNNDatastore, texts: Any) -> None:
    store.append(texts, model_path="tiny.gguf")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def files_of(store: KNNDatastore) -> dict[str, Any]:
    """All that is in its files, but for what is of one build only."""
    manifest = json.loads((store.path / "datastore.json").read_text())
    del manifest["typical_distance"], manifest["id"]
    return {
        "keys": np.load(store.path / "keys.npy").tolist(),
        "tokens": np.load(store.path / "tokens.npy").tolist(),
        "manifest": manifest,
    }


def interrupted(*texts: str) -> Iterator[str]:
    yield from texts
    raise KeyboardInterrupt


def test_entries_are_in_the_order_of_the_texts(store: KNNDatastore) -> None:
    assert len(store) == 15 + 2
    keys, tokens = store.read(np.arange(len(store)))
    assert bytes(keys[:, 0].astype(np.uint8)) == b"abcdefghijklmno" + b"xy"
    assert bytes(tokens.astype(np.uint8)) == b"bcdefghijklmnop" + b"yz"
    assert store.dimension == 3
    assert store.typical_distance > 0
    assert repr(store) == f"<KNNDatastore {str(store.path)!r}: 17 entries of tiny>"


def test_a_text_is_tokenised_once(
    reader: FakeReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    tokenize = reader.weights.tokenize
    counting = lambda text: seen.append(text) or tokenize(text)  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(reader.weights, "tokenize", counting)
    store = build(tmp_path / "counted", ["abc", "de"])
    store.append(iter(["fgh"]), model_path="m")
    assert seen == ["abc", "de", "fgh"]
    assert len(store) == 5


def test_a_text_begins_as_the_model_wants_it(
    reader: FakeReader, tmp_path: Path
) -> None:
    reader.weights.text_start = (1,)
    store = build(tmp_path / "store", ["ab", Document(page_content="c"), ""])
    keys, tokens = store.read(np.arange(3))
    assert keys[:, 0].tolist() == [1, ord("a"), 1]
    assert bytes(tokens.astype(np.uint8)) == b"abc"


def test_it_pickles_as_its_folder(store: KNNDatastore) -> None:
    other = pickle.loads(pickle.dumps(store))  # noqa: S301  our own
    assert (other.id, other.path, other.index_kind) == (store.id, store.path, "flat")
    assert len(other) == len(store)


def test_documents_are_texts(store: KNNDatastore, tmp_path: Path) -> None:
    documents = [Document(page_content=text) for text in TEXTS]
    assert files_of(build(tmp_path / "other", documents)) == files_of(store)


def test_progress_counts_the_entries(tmp_path: Path) -> None:
    told: list[int] = []
    store = build(tmp_path / "store", progress=told.append)
    assert sum(told) == len(store)
    assert len(told) > 1


@pytest.mark.parametrize("key_type", ["float16", "float32"])
def test_appending_is_building_with_both(key_type: str, tmp_path: Path) -> None:
    both = build(tmp_path / "both", [*TEXTS, "more", "and more"], key_type=key_type)
    grown = build(tmp_path / "grown", key_type=key_type)
    built = grown.typical_distance
    append(grown, ["more"])
    append(grown, iter(["and more"]))
    assert files_of(grown) == files_of(both)
    assert grown.typical_distance == built, "what settings mean does not change"
    query = np.array([[109, 0, 0]], np.float32)  # m
    (near,) = grown.search(query, len(both))
    assert near.rows.tolist() == both.search(query, len(both))[0].rows.tolist()


def test_who_has_it_open_sees_what_was_there(store: KNNDatastore) -> None:
    other = KNNDatastore.load(store.path)
    query = np.array([[ord("m"), 0, 0]], np.float32)
    before = other.search(query, 17)
    append(store, ["mmmmm"])
    assert len(store) == len(KNNDatastore.load(store.path)) == 21
    assert len(other) == 17
    after = other.search(query, 17)
    assert after[0].rows.tolist() == before[0].rows.tolist()
    assert store.search(query, 1)[0].rows.tolist() == [17]


def test_an_interrupted_append_leaves_what_was_there(store: KNNDatastore) -> None:
    before = contents(store.path)
    with pytest.raises(KeyboardInterrupt):
        append(store, interrupted("something long", "else"))
    assert contents(store.path) == before


def test_what_a_killed_append_left_is_not_seen_and_overwritten(
    store: KNNDatastore, tmp_path: Path
) -> None:
    writer = EntryWriter(store.path, Manifest.read(store.path))
    writer.add(np.ones((9, 3), np.float32), np.arange(9, dtype=np.int32))
    writer.close()
    assert len(np.load(store.path / "tokens.npy")) > len(store) == 17
    assert len(KNNDatastore.load(store.path)) == 17
    append(store, ["more"])
    append(KNNDatastore.load(store.path), ["and more"])
    both = build(tmp_path / "both", [*TEXTS, "more", "and more"])
    assert files_of(KNNDatastore.load(store.path)) == files_of(both)


def test_an_append_goes_on_from_what_others_have_appended(
    store: KNNDatastore, tmp_path: Path
) -> None:
    other = KNNDatastore.load(store.path)
    append(other, ["more"])
    append(store, ["and more"])
    append(other, ["once again"])
    texts = [*TEXTS, "more", "and more", "once again"]
    assert files_of(other) == files_of(build(tmp_path / "all", texts))
    assert len(store) == 17 + 3 + 7


def test_one_reads_into_a_datastore_at_a_time(store: KNNDatastore) -> None:
    busy = r"somebody else writes.*store'"

    def meanwhile(text: str) -> Iterator[str]:
        yield text
        with pytest.raises(DatastoreError, match=busy):
            append(KNNDatastore.load(store.path), ["and more"])
        with pytest.raises(DatastoreError, match=busy):
            build(store.path, ["anew"])
        assert len(KNNDatastore.load(store.path)) == n_before

    n_before = 17
    append(store, meanwhile("more"))
    assert len(store) == len(KNNDatastore.load(store.path)) == 20
    n_before = 20
    build(store.path, meanwhile("anew"))
    assert len(KNNDatastore.load(store.path)) == 3


def test_what_was_built_anew_is_not_appended_to_by_who_has_the_old_one(
    store: KNNDatastore, tmp_path: Path
) -> None:
    new = build(store.path, ["another text"])
    before = contents(tmp_path)
    with pytest.raises(DatastoreError, match=r"store' was built anew.*load it again"):
        append(store, ["more"])
    assert contents(tmp_path) == before
    append(new, ["more"])
    assert len(KNNDatastore.load(store.path)) == 11 + 3


@pytest.mark.parametrize("name", ["keys.npy", "tokens.npy"])
def test_a_file_that_was_cut_is_not_appended_to(name: str, store: KNNDatastore) -> None:
    (store.path / name).write_bytes(b"")
    with pytest.raises(DatastoreError, match=rf"store/{name}"):
        append(store, ["more"])
    assert (store.path / name).read_bytes() == b""


def test_an_append_of_another_model_is_refused(
    reader: FakeReader, store: KNNDatastore
) -> None:
    before = contents(store.path)
    reader.weights.sha256 = "1" * 64
    with pytest.raises(DatastoreError, match=r"store.*tiny.*000000.*111111"):
        append(store, ["more"])
    assert contents(store.path) == before


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ("some text", "list of strings.*'some text'"),
        ([], "no two tokens"),
        (["", "a"], "no two tokens"),
        (["abc", 7], "7"),
    ],
    ids=["one string", "no texts", "texts of nothing", "a number"],
)
def test_refused_texts_leave_nothing(
    texts: Any, reason: str, store: KNNDatastore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        build(tmp_path / "new" / "store", texts)
    assert [*(tmp_path / "new").iterdir()] == []

    before = contents(tmp_path)
    with pytest.raises(InvalidValueError, match=reason):
        build(store.path, texts)
    assert contents(tmp_path) == before
    with pytest.raises(InvalidValueError, match=reason):
        append(store, texts)
    assert len(KNNDatastore.load(store.path)) == len(store) == 17


def test_an_interrupted_build_leaves_the_older_one(
    store: KNNDatastore, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build(store.path, interrupted("abc"))
    assert contents(tmp_path) == before
    assert [*tmp_path.iterdir()] == [store.path]


def test_a_build_replaces_an_older_one_and_its_indexes(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    old = build(tmp_path / "store", index="hnsw")
    old.prepare()
    (index,) = old.path.glob("index-hnsw-*.faiss")
    new = build(tmp_path / "store", ["another text"], index="hnsw")
    assert len(KNNDatastore.load(tmp_path / "store")) == len(new) == 11
    assert not index.exists()
    # The older one is gone from the disk, but whoever has it open can use it.
    keys, tokens = old.read(np.array([12]))
    assert old.search(keys, 1)[0].tokens.tolist() == tokens.tolist() == [ord("n")]


@pytest.mark.parametrize("name", ["notes.txt", "datastore.json", "keys.npy"])
def test_a_folder_of_something_else_is_refused_and_left(
    name: str, reader: FakeReader, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    (folder / name).write_text('{"mine": true}')
    (folder / "sub" / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    for path in (folder, folder / name):  # a file is no folder
        with pytest.raises(InvalidValueError, match=rf"{path}' holds something else"):
            build(path)
    assert contents(tmp_path) == before
    assert not reader.calls, "nothing was read before the refusal"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"index": "annoy"}, "flat, ivf, hnsw.*'annoy'"),
        ({"key_type": "float8"}, "'float16' or 'float32'.*'float8'"),
    ],
)
def test_a_setting_that_there_is_not_is_refused_before_anything_is_read(
    setting: dict[str, Any], reason: str, reader: FakeReader, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        build(tmp_path / "store", **setting)
    assert not reader.calls
    assert not [*tmp_path.iterdir()]


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert len(build(tmp_path)) == len(KNNDatastore.load(tmp_path)) == 17


@pytest.mark.parametrize("k", [0, -1, 18])
def test_more_neighbours_than_entries(k: int, store: KNNDatastore) -> None:
    with pytest.raises(InvalidValueError, match=rf"17 entries.*store'.*got {k}"):
        store.search(np.zeros((1, 3), np.float32), k)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_without_faiss(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entries(tmp_path, np.eye(9, dtype=np.float16))
    monkeypatch.setitem(sys.modules, "faiss", None)
    store = KNNDatastore.load(tmp_path, index=kind)
    with pytest.raises(MissingExtraError, match=r"langchain-ralmspec\[faiss\]"):
        store.prepare()
    flat = KNNDatastore.load(tmp_path)
    assert flat.search(np.eye(1, 9, dtype=np.float32), 1)[0].rows.tolist() == [0]


def test_where_only_faiss_is_missing_for_guesses_it_is_said_once(
    reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entries(tmp_path, np.eye(20, dtype=np.float16))
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(Model, "load", lambda **_: reader)

    def warned(**settings: Any) -> list[str]:
        given: dict[str, Any] = {"model_path": "tiny.gguf", "datastore": tmp_path}
        llm = KNNLMSpecLLM(**given | settings)
        with warnings.catch_warnings(record=True, action="always") as caught:
            assert llm.engine is llm.engine
        assert all(one.category is RuntimeWarning for one in caught)
        return [str(one.message) for one in caught]

    assert not warned(), "few entries are searched as soon"
    monkeypatch.setattr(datastore, "PROBED_FROM", 20)
    (message,) = warned()
    assert "pip install 'langchain-ralmspec[faiss]'" in message
    assert not warned(speculation=False)
    assert not warned(datastore=KNNDatastore.load(tmp_path, index="ivf"))
    monkeypatch.setitem(sys.modules, "faiss", importlib.import_module("json"))
    assert not warned()


def test_typical_distance_is_of_the_nearest_key_elsewhere() -> None:
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((256, 5)).astype(np.float16)
    keys[::9] = keys[0]  # the same again says nothing of how far others are
    wide = keys.astype(np.float64)
    distances = ((wide[:, np.newaxis] - wide) ** 2).sum(axis=2)
    rows = np.arange(256)
    distances[np.abs(rows[:, np.newaxis] - rows) <= 64] = np.inf
    nearest = distances.min(axis=1)
    expected = np.median(nearest[nearest > 0])
    assert typical_distance(keys) == pytest.approx(expected, rel=1e-4)
    # That of a short text, which has no other place, is its length.
    assert typical_distance(np.full((3, 4), 2, np.float16)) == pytest.approx(16)


def test_typical_distance_is_told_by_a_part_of_many_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = np.random.default_rng(0).standard_normal((9000, 5)).astype(np.float16)
    of_all = typical_distance(keys)
    monkeypatch.setattr("langchain_ralmspec.knnlm.keys._CALIBRATED_AMONG", 3000)
    assert of_all < typical_distance(keys) < 2 * of_all
    assert typical_distance(keys[::3]) == pytest.approx(typical_distance(keys), 0.1)


def test_a_forked_process_may_use_a_datastore_that_another_thread_was_at(
    store: KNNDatastore,
) -> None:
    with store._indexing:
        store.renew_locks()  # as after a fork
        store.prepare()
    assert store in _renewed
