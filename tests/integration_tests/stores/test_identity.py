"""Speculative against sequential, over stores that are asked in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from langchain_milvus import Milvus
from langchain_postgres import PGVector
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient, models

from langchain_ralmspec import ChatRaLMSpec, RaLMSpecRetriever
from langchain_ralmspec.engine import Model
from tests.integration_tests.conftest import QUESTIONS, Corpus
from tests.integration_tests.test_identity import cells, check, name_of, settings_of

# Of the same protocol as the stores of the large grid, so a small cover will do.
AXES: dict[str, list[Any]] = {
    "store": ["pgvector", "qdrant", "milvus"],
    "speculation_stride": [3, "auto"],
    "prefetch_k": [1, 20],
    "guess_policy": ["lookup", "same"],
    "asynchronous": [False, True],
}


def metadatas(corpus: Corpus) -> list[dict[str, Any]]:
    return [document.metadata for document in corpus.documents]


def pgvector(corpus: Corpus, engine: sqlalchemy.Engine) -> PGVector:
    store = PGVector(corpus.embeddings, connection=engine, collection_name="identity")
    vectors = corpus.vectors.tolist()
    store.add_embeddings(corpus.texts, vectors, metadatas(corpus), corpus.ids)
    return store


def qdrant(corpus: Corpus) -> QdrantVectorStore:
    # Its ids are numbers or UUIDs; an inner product keeps the vectors as they are.
    rows = zip(corpus.documents, corpus.vectors.tolist(), strict=True)
    points = [
        models.PointStruct(
            id=number,
            vector=vector,
            payload={"page_content": each.page_content, "metadata": each.metadata},
        )
        for number, (each, vector) in enumerate(rows)
    ]
    client, distance = QdrantClient(":memory:"), models.Distance.DOT
    size = models.VectorParams(size=corpus.vectors.shape[1], distance=distance)
    client.create_collection("identity", vectors_config=size)
    client.upsert("identity", points)
    return QdrantVectorStore(client, "identity", corpus.embeddings, distance=distance)


def milvus(corpus: Corpus, folder: Path) -> Milvus:
    store = Milvus(
        corpus.embeddings,
        connection_args={"uri": str(folder / "milvus.db")},
        index_params={"index_type": "HNSW", "metric_type": "COSINE"},
    )
    vectors = corpus.vectors.tolist()
    store.add_embeddings(corpus.texts, vectors, metadatas(corpus), ids=corpus.ids)
    return store


@pytest.fixture(scope="module")
def retriever_of(
    corpus: Corpus, tmp_path_factory: pytest.TempPathFactory, postgres: str
) -> Iterator[Callable[[str], RaLMSpecRetriever]]:
    engine = sqlalchemy.create_engine(postgres)
    builders: dict[str, Callable[[], Any]] = {
        "pgvector": lambda: pgvector(corpus, engine),
        "qdrant": lambda: qdrant(corpus),
        "milvus": lambda: milvus(corpus, tmp_path_factory.mktemp("milvus")),
    }

    @cache
    def build(name: str) -> RaLMSpecRetriever:
        return RaLMSpecRetriever(vectorstore=builders[name]())

    yield build
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells(AXES), ids=name_of)
def test_same_tokens_under_the_same_documents(
    cell: dict[str, Any],
    gguf: str,
    model: Model,
    retriever_of: Callable[[str], RaLMSpecRetriever],
) -> None:
    settings = {name: value for name, value in cell.items() if name != "store"}
    settings["retriever"] = retriever_of(cell["store"])
    for number in range(0, len(QUESTIONS), 4):
        more = settings_of(number)
        chat = ChatRaLMSpec(model_path=gguf, **settings, **more)
        assert len(check(chat, number)[1]) > 1, "it never retrieved again"
