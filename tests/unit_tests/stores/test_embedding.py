from __future__ import annotations

import sys
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


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"langchain-ralmspec\[embeddings\]"):
        SentenceTransformerEmbeddings("model").embed_query("a")
