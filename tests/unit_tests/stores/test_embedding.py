from __future__ import annotations

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    MissingExtraError,
    ModelFileError,
    StoreError,
)
from langchain_ralmspec.stores import (
    SentenceTransformerEmbeddings,
    encode_queries,
    sentence_encoder,
)
from langchain_ralmspec.stores.embedding import make_queries
from tests.unit_tests.stores.faiss_toys import langchain_faiss
from tests.unit_tests.stores.toys import (
    BatchTableEmbeddings,
    BrokenEmbeddings,
    TableEmbeddings,
    documents,
    table,
)


def langchain_faiss_over(embeddings: Embeddings) -> Any:
    store = langchain_faiss(n_rows=0)
    store.embedding_function = embeddings
    return store


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
    with pytest.raises(
        StoreError, match=r"BrokenEmbeddings .*encoder is down"
    ) as caught:
        make_queries(BrokenEmbeddings(), ["a"])
    assert isinstance(caught.value.__cause__, ConnectionError)


MADE: list[tuple[Any, str]] = [
    ([[1.0, 2.0]], r"shape \(1, 2\) for 2 query texts, such as 'v0'"),
    ([[], []], r"shape \(2, 0\) for 2"),
    ([[1.0], [1.0, 2.0]], "1 numbers for 'v0', and 2 for 'v1'"),
    ([(1.0,), (1.0, 2.0)], "ValueError"),
    ([[1.0, 2.0], [math.nan, 1.0]], "length nan for 'v1'"),
    ([[1.0, 2.0], [1.0, -math.inf]], "length inf for 'v1'"),
    ([[0.0, 0.0], [1.0, 2.0]], "length 0.0 for 'v0'"),
    ([[1e-25, 0.0], [1.0, 2.0]], r"length 1\S*e-25 for 'v0'"),
    ([[1e38, 1e38], [1.0, 2.0]], r"length 1\.4\d*e\+38 for 'v0'"),
    ([[1e300, 1.0], [1.0, 2.0]], "length inf for 'v0'"),
]


class Made(TableEmbeddings):
    """Gives what it is told to."""

    def __init__(self, made: Any) -> None:
        super().__init__(table(1))
        self.made = made

    def embed_queries(self, texts: list[str]) -> Any:
        return self.made


@pytest.mark.parametrize(("made", "message"), MADE)
def test_what_no_search_can_compare_is_refused(made: Any, message: str) -> None:
    with pytest.raises(StoreError, match=f"Made .*{message}"):
        encode_queries(Made(made), ["v0", "v1"])


class Fickle(TableEmbeddings):
    """An encoder that gives vectors of another length after some calls."""

    def embed_query(self, text: str) -> list[float]:
        return super().embed_query(text)[: 3 if len(self.calls) > 6 else None]


@pytest.mark.parametrize("make", [InMemoryVectorStore, langchain_faiss_over])
@pytest.mark.parametrize("policy", ["lookup", "same"])
def test_an_encoder_that_changes_its_dimension_is_the_same_error_for_all(
    policy: str, make: Any
) -> None:
    vectorstore = make(Fickle(table(8)))
    vectorstore.add_documents(documents(5))
    retriever = RaLMSpecRetriever(vectorstore=vectorstore)
    session = retriever.session(k=1, guess_policy=policy)

    def talk() -> None:
        session.verify(["v6"])
        for row in range(9):
            session.speculate(f"v{row % 5}")
            session.verify([f"v{row % 5}"])

    with pytest.raises(DimensionMismatchError, match=r"\(3,\).* 16"):
        talk()
    with pytest.raises(DimensionMismatchError, match=r"\(3,\).* 16"):
        retriever.invoke("v1")


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
        TORCH.used.append(TORCH.n_threads)
        return np.zeros((len(texts), 2), dtype=np.float32)

    def encode_document(self, texts: list[str], **arguments: Any) -> Any:
        self.calls.append(("document", texts, arguments))
        TORCH.used.append(TORCH.n_threads)
        return np.ones((len(texts), 2), dtype=np.float32)


class FakeTorch(ModuleType):
    """A number of threads, who changed it, and what it was during each call."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.reset()

    def reset(self) -> None:
        self.n_threads = 8
        self.set: list[int] = []
        self.used: list[int] = []

    def get_num_threads(self) -> int:
        return self.n_threads

    def set_num_threads(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.set.append(n_threads)


MODELS: list[FakeModel] = []
TORCH = FakeTorch()


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[FakeModel]:
    module = SimpleNamespace(SentenceTransformer=FakeModel)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setitem(sys.modules, "torch", TORCH)
    monkeypatch.setattr(
        sentence_encoder, "_no_progress_bar", nullcontext
    )  # transformers'
    monkeypatch.setattr(sentence_encoder, "cores", lambda: 6)
    TORCH.reset()
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


@pytest.mark.parametrize(
    ("n_cores", "given", "torchs", "used"),
    [
        (6, None, 8, [3, 3, 8]),
        (6, None, 2, [2, 2, 2]),  # set to fewer already
        (6, None, 3, [3, 3, 3]),  # as another thread's call had it, which began first
        (1, None, 8, [1, 1, 8]),
        (6, 5, 8, [5, 5, 5]),
        (6, 12, 8, [12, 12, 12]),
    ],
)
def test_queries_leave_half_of_the_cores_to_the_model(
    *,
    n_cores: int,
    given: int | None,
    torchs: int,
    used: list[int],
    models: list[FakeModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sentence_encoder, "cores", lambda: n_cores)
    TORCH.n_threads = torchs
    embeddings = SentenceTransformerEmbeddings("m", n_threads=given)
    embeddings.embed_query("a")
    embeddings.embed_queries(["a", "b"])
    embeddings.embed_documents(["c"])
    assert TORCH.used == used
    assert TORCH.n_threads == torchs
    # What is set last is what new threads begin with, so it is not set for nothing.
    assert TORCH.set == [n for each in used if each != torchs for n in (each, torchs)]


def test_threads_are_restored_after_a_failure(
    models: list[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        assert TORCH.n_threads == 3
        raise ConnectionError

    monkeypatch.setattr(FakeModel, "encode_query", fail)
    with pytest.raises(ConnectionError):
        SentenceTransformerEmbeddings("m").embed_query("a")
    assert TORCH.n_threads == 8


def test_the_number_of_threads_changes_only_between_calls(
    models: list[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = SentenceTransformerEmbeddings("m")
    embeddings.embed_query("load")
    changed_during_a_call: list[list[int]] = []

    def slow(self: FakeModel, texts: list[str], **arguments: Any) -> Any:
        before = TORCH.set.copy()
        time.sleep(0.01)
        changed_during_a_call.append(TORCH.set[len(before) :])
        return np.zeros((len(texts), 2), dtype=np.float32)

    monkeypatch.setattr(FakeModel, "encode_query", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(embeddings.embed_query, "abcdefgh"))
    assert changed_during_a_call == [[]] * 8
    assert TORCH.n_threads == 8


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"langchain-ralmspec\[embeddings\]"):
        SentenceTransformerEmbeddings("model").embed_query("a")


def test_a_model_that_is_not_there_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub.\nAnd more.")

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", missing)
    told = r"'no/model': .*connect to the hub\. Give the path"
    with pytest.raises(ModelFileError, match=told):
        SentenceTransformerEmbeddings("no/model").embed_query("a")


def test_vectors_of_several_lengths_are_told_by_their_texts() -> None:
    class Uneven(Embeddings):
        def embed_query(self, text: str) -> list[float]:
            return [1.0] * len(text)

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

    with pytest.raises(
        StoreError, match="Uneven gave 2 numbers for 'ab', and 3 for 'abc'"
    ):
        encode_queries(Uneven(), ["ab", "cd", "abc"])
