"""LangChain's own standard tests."""

from __future__ import annotations

from typing import Any

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_community.vectorstores import FAISS
from langchain_tests.integration_tests import RetrieversIntegrationTests

from langchain_ralmspec import RaLMSpecRetriever
from tests.integration_tests.conftest import make_corpus


class _Standard(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[RaLMSpecRetriever]:
        return RaLMSpecRetriever

    @property
    def retriever_query_example(self) -> str:
        return "How do I read a ZIP archive?"


class TestOverFaiss(_Standard):
    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        corpus = make_corpus()
        pairs = list(zip(corpus.texts, corpus.vectors.tolist(), strict=True))
        return {"vectorstore": FAISS.from_embeddings(pairs, corpus.embeddings)}


class TestOverChroma(_Standard):
    @pytest.fixture(autouse=True)
    def _fill(self) -> None:
        corpus = make_corpus()
        client = chromadb.EphemeralClient()
        collection = client.get_or_create_collection("standard")
        collection.upsert(
            ids=corpus.ids, documents=corpus.texts, embeddings=corpus.vectors
        )
        self._store = Chroma(
            client=client,
            collection_name="standard",
            embedding_function=corpus.embeddings,
        )

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"vectorstore": self._store}


del _Standard  # or pytest would collect it on its own
