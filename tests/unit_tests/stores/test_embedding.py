from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings

from langchain_ralmspec.errors import InvalidValueError, MissingExtraError, StoreError
from langchain_ralmspec.stores import SentenceTransformerEmbeddings, encode_queries
from langchain_ralmspec.stores.embedding import make_queries
from tests.unit_tests.stores.toys import (
    BatchTableEmbeddings,
    BrokenEmbeddings,
    TableEmbeddings,
    table,
)


class HuggingFaceShaped(Embeddings):
    """Has the parts of langchain-huggingface's class that we rely on."""

    def __init__(self, query_encode_kwargs: dict[str, Any]) -> None:
        self.encode_kwargs = {"prompt": "document"}
        self.query_encode_kwargs = query_encode_kwargs
        self.calls: list[tuple[list[str], dict[str, Any]]] = []

    def _embed(self, texts: list[str], kwargs: dict[str, Any]) -> list[list[float]]:
        self.calls.append((texts, kwargs))
        return [[float(len(text))] for text in texts]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise AssertionError(texts)

    def embed_query(self, text: str) -> list[float]:
        raise AssertionError(text)


def test_own_batch_method_is_one_call() -> None:
    embeddings = BatchTableEmbeddings(table(3))
    vectors = encode_queries(embeddings, ["v2", "v0"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, table(3)[[2, 0]])
    assert embeddings.calls == [["v2", "v0"]]


@pytest.mark.parametrize(
    ("settings", "used"),
    [({"prompt": "query"}, {"prompt": "query"}), ({}, {"prompt": "document"})],
)
def test_huggingface_is_one_call_with_the_query_settings(
    settings: dict[str, Any], used: dict[str, Any]
) -> None:
    embeddings = HuggingFaceShaped(settings)
    vectors = encode_queries(embeddings, ["a", "bcd"])
    np.testing.assert_array_equal(vectors, [[1.0], [3.0]])
    assert embeddings.calls == [(["a", "bcd"], used)]


def test_other_embeddings_are_asked_one_query_at_a_time() -> None:
    embeddings = TableEmbeddings(table(3))
    np.testing.assert_array_equal(
        encode_queries(embeddings, ["v1", "v2"]), table(3)[1:]
    )
    assert embeddings.calls == [["v1"], ["v2"]]


def test_plain_function_is_accepted() -> None:
    vectors = encode_queries(lambda text: [float(len(text)), 1.0], ["a", "bc"])
    np.testing.assert_array_equal(vectors, [[1.0, 1.0], [2.0, 1.0]])


@pytest.mark.parametrize(
    ("embeddings", "n_texts", "batched"),
    [
        (BatchTableEmbeddings(table(3)), 2, True),
        (BatchTableEmbeddings(table(3)), 1, False),
        (TableEmbeddings(table(3)), 2, False),
        (HuggingFaceShaped({}), 2, True),
    ],
)
def test_queries_say_whether_they_came_from_a_batch(
    embeddings: Embeddings, n_texts: int, batched: bool
) -> None:
    queries = make_queries(embeddings, ["v0", "v1"][:n_texts])
    assert [query.batched for query in queries] == [batched] * n_texts


def test_failing_encoder_keeps_its_cause() -> None:
    with pytest.raises(StoreError, match="BrokenEmbeddings") as caught:
        encode_queries(BrokenEmbeddings(), ["a"])
    assert isinstance(caught.value.__cause__, ConnectionError)


class TooFew(BatchTableEmbeddings):
    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        return super().embed_queries(texts)[:-1]


def test_wrong_number_of_vectors_is_refused() -> None:
    with pytest.raises(StoreError, match=r"shape \(1, 16\) for 2 query texts"):
        encode_queries(TooFew(table(2)), ["v0", "v1"])


def test_importing_and_constructing_loads_no_model() -> None:
    embeddings = SentenceTransformerEmbeddings("/no/such/folder")
    assert embeddings.embed_queries([]) == []
    assert embeddings.embed_documents([]) == []


@pytest.mark.parametrize("argument", ["batch_size", "n_threads"])
def test_impossible_numbers_are_refused(argument: str) -> None:
    arguments: dict[str, Any] = {argument: 0}
    with pytest.raises(InvalidValueError, match=f"{argument} must be .* got 0"):
        SentenceTransformerEmbeddings("model", **arguments)


class FakeModel:
    """Stands in for sentence_transformers.SentenceTransformer."""

    def __init__(self, path: str, **arguments: Any) -> None:
        self.made_with = (path, arguments)
        self.calls: list[tuple[str, list[str], dict[str, Any]]] = []
        MODELS.append(self)

    def encode_query(self, texts: list[str], **arguments: Any) -> Any:
        self.calls.append(("query", texts, arguments))
        return np.zeros((len(texts), 2), dtype=np.float32)

    def encode_document(self, texts: list[str], **arguments: Any) -> Any:
        self.calls.append(("document", texts, arguments))
        return np.ones((len(texts), 2), dtype=np.float32)


MODELS: list[FakeModel] = []


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[FakeModel]:
    module = SimpleNamespace(SentenceTransformer=FakeModel)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    MODELS.clear()
    return MODELS


def test_model_is_loaded_once_at_the_first_use(
    models: list[FakeModel], tmp_path: Path
) -> None:
    embeddings = SentenceTransformerEmbeddings(tmp_path, device="cuda")
    assert models == []
    embeddings.embed_query("a")
    embeddings.embed_query("b")
    arguments = {"device": "cuda", "local_files_only": True}
    assert [model.made_with for model in models] == [(str(tmp_path), arguments)]
    SentenceTransformerEmbeddings("hub/name").embed_query("a")
    arguments = {"device": "cpu", "local_files_only": False}
    assert models[1].made_with == ("hub/name", arguments)


def test_queries_and_documents_go_their_own_ways(models: list[FakeModel]) -> None:
    embeddings = SentenceTransformerEmbeddings("m", batch_size=7, normalize=False)
    assert embeddings.embed_queries(["a", "b"]) == [[0.0, 0.0], [0.0, 0.0]]
    assert embeddings.embed_query("c") == [0.0, 0.0]
    assert embeddings.embed_documents(["d"]) == [[1.0, 1.0]]
    calls = models[0].calls
    assert [call[:2] for call in calls] == [
        ("query", ["a", "b"]),
        ("query", ["c"]),
        ("document", ["d"]),
    ]
    assert all(call[2]["batch_size"] == 7 for call in calls)
    assert all(call[2]["normalize_embeddings"] is False for call in calls)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"langchain-ralmspec\[embeddings\]"):
        SentenceTransformerEmbeddings("model").embed_query("a")
