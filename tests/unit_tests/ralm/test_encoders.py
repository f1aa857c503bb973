"""However queries are embedded, speculation changes nothing but the clock."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.ralm import Request, sequential, speculative
from langchain_ralmspec.speculation import Plan
from langchain_ralmspec.stores import Query, open_store
from langchain_ralmspec.stores.concurrency import THREADS
from tests.unit_tests.fakes import FakeStore, always, follow, make_request, samplers
from tests.unit_tests.ralm.test_identity import plans, requests, story
from tests.unit_tests.ralm.test_identity import stores as worlds


class Encoder(Embeddings):
    """The fake store's vectors; those of a batch differ in their last bits."""

    def __init__(self, of: FakeStore) -> None:
        self._of = of

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._of._vector(text, len(texts)).tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        vector: list[float] = self._of._vector(text, 1).tolist()
        return vector


class BatchEncoder(Encoder):
    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        return self.embed_documents(texts)


class Hosted(VectorStore):
    """Searches by vector, and tells neither scores nor vectors."""

    def __init__(self, of: FakeStore, embeddings: Embeddings) -> None:
        self._of, self._embeddings = of, embeddings

    @property
    def embeddings(self) -> Embeddings:
        return self._embeddings

    def similarity_search(self, query: str, k: int = 4, **_: Any) -> list[Document]:
        return self.similarity_search_by_vector(self._embeddings.embed_query(query), k)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **_: Any
    ) -> list[Document]:
        vector = np.asarray(embedding, np.float32)
        (hits,) = self._of.search([Query("", vector)], k)
        return [hit.document.model_copy(update={"id": hit.id}) for hit in hits]

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> Hosted:
        raise NotImplementedError


def in_memory(of: FakeStore, embeddings: Embeddings) -> InMemoryVectorStore:
    store = InMemoryVectorStore(embeddings)
    for row, vector in enumerate(of.vectors):
        said = {"text": f"document {row}", "metadata": {}}
        store.store[f"{row:03}"] = {"id": f"{row:03}", "vector": vector, **said}
    return store


@settings(max_examples=300)
@given(
    worlds,
    requests,
    samplers,
    plans,
    st.tuples(
        st.sampled_from([in_memory, Hosted]), st.sampled_from([Encoder, BatchEncoder])
    ),
    st.fixed_dictionaries(
        {
            "symmetric_embeddings": st.sampled_from([None, True]),
            "embed_found_documents": st.booleans(),
        }
    ),
)
def test_however_queries_are_embedded_the_story_is_the_same(  # noqa: PLR0917  as drawn
    store: dict[str, Any],
    request: dict[str, Any],
    sampler: Sampler,
    given_plans: list[Plan],
    kinds: tuple[Any, Any],
    words: dict[str, Any],
) -> None:
    over, encoder = kinds

    def make() -> Request:
        fake = FakeStore(**store)
        opened: Any = open_store(over(fake, encoder(fake)), **words)
        return make_request(opened, **request, sampler=sampler)

    slow, fast = make(), make()
    scheduler = follow(*given_plans)
    assert story(fast, speculative(fast, scheduler)) == story(slow, sequential(slow))
    assert not [t for t in threading.enumerate() if t.name.startswith(THREADS)]


@pytest.mark.parametrize(
    ("over", "encoder", "symmetric"),
    [
        (in_memory, BatchEncoder, None),
        (in_memory, Encoder, True),
        (Hosted, BatchEncoder, None),
        (Hosted, Encoder, True),
    ],
)
def test_batches_change_no_answer_among_documents_as_near(
    over: Any, encoder: Any, symmetric: bool | None
) -> None:
    for seed in range(60):
        fake = FakeStore(12, "cosine", seed=seed)
        slow, fast = (
            make_request(
                open_store(over(fake, encoder(fake)), symmetric_embeddings=symmetric),  # type: ignore[arg-type]
                max_tokens=40,
                end_bias=-9,
            )
            for _ in range(2)
        )
        told = story(fast, speculative(fast, always(4, "same")))
        assert told == story(slow, sequential(slow))
