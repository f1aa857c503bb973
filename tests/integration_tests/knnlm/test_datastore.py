"""Datastores that a real model has read, and those that a kNN-LM refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from pydantic import ValidationError

from langchain_ralmspec import (
    DatastoreError,
    KNNDatastore,
    ModelFileError,
)
from langchain_ralmspec.engine import Model


def test_every_token_but_a_text_s_last_is_an_entry(
    folder: Path, model: Model, texts: list[str]
) -> None:
    tokenized = [model.weights.tokenize(text) for text in texts]
    head = len(model.weights.text_start)
    store = KNNDatastore.load(folder)
    assert len(store) == sum(len(tokens) - 1 + head for tokens in tokenized)
    _, following = store.read(np.arange(len(store)))
    assert following.tolist() == [t for tokens in tokenized for t in tokens[1 - head :]]
    keys, _ = store.read(np.arange(99))
    assert store.dimension == model.weights.n_embd == keys.shape[1]
    norms = (keys**2).sum(axis=1)
    assert 0.01 * norms.mean() < store.typical_distance < 2 * norms.mean()


def test_a_key_finds_itself_and_what_followed_it(
    store_of: Callable[[str], KNNDatastore],
) -> None:
    store = store_of("flat")
    rows = np.arange(5, len(store), 997)
    keys, tokens = store.read(rows)
    found = store.search(keys, 3)
    assert [near.distances[0] for near in found] == [0.0] * len(rows)
    # An equal beginning of two texts has equal keys; the first one is found.
    assert [near.tokens[0] for near in found] == tokens.tolist()
    assert all(near.rows[0] <= row for near, row in zip(found, rows, strict=True))


def test_appending_is_building_with_both(
    gguf: str, reader: Model, texts: list[str], tmp_path: Path
) -> None:
    build = KNNDatastore.build
    both = build(texts[:6], model_path=gguf, path=tmp_path / "both")
    grown = build(texts[:3], model_path=gguf, path=tmp_path / "grown")
    documents = [Document(page_content=text) for text in texts[3:6]]
    told: list[int] = []
    n_before = len(grown)
    grown.append(documents, model_path=gguf, progress=told.append)
    assert sum(told) == len(grown) - n_before > 0
    assert len(both) == len(grown) == len(KNNDatastore.load(grown.path))
    for name in ("keys.npy", "tokens.npy"):
        ours = (grown.path / name).read_bytes()
        assert ours == (both.path / name).read_bytes()


# Bad input


def test_a_datastore_of_another_model(
    make: Any, folder: Path, templateless_gguf: str, texts: list[str]
) -> None:
    llm = make(model_path=templateless_gguf)  # loading is lazy
    for _ in range(2):
        with pytest.raises(DatastoreError, match=r"store' was made by SmolLM2.*templ"):
            llm.invoke("Once")
    copy = KNNDatastore.load(folder)
    with pytest.raises(DatastoreError, match=r"not by templateless"):
        copy.append(texts[:1], model_path=templateless_gguf)
    assert len(KNNDatastore.load(folder)) == len(copy)
    assert make().invoke("Once")


def test_no_datastore(make: Any, tmp_path: Path) -> None:
    with pytest.raises(DatastoreError, match=rf"{tmp_path}.*KNNDatastore\.build"):
        make(datastore=tmp_path)
    with pytest.raises(ValidationError, match="dict"):
        make(datastore={"not": "a store"})
    (tmp_path / "datastore.json").write_text('{"name": "mine"}')
    with pytest.raises(DatastoreError, match=r"datastore\.json"):
        make(datastore=tmp_path)


def test_more_neighbours_than_entries(
    make: Any, store_of: Callable[[str], KNNDatastore]
) -> None:
    n = len(store_of("flat"))
    assert make(k=n, max_tokens=2).invoke("Once")
    with pytest.raises(ValidationError, match=rf"the {n} entries.*got {n + 1}"):
        make(k=n + 1)


def test_missing_model_file(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"/no/such/model\.gguf"):
        make(model_path="/no/such/model.gguf")
    with pytest.raises(ModelFileError, match=r"/no/such/model\.gguf"):
        KNNDatastore.build(["a b c"], model_path="/no/such/model.gguf", path=tmp_path)
    assert not [*tmp_path.iterdir()]
