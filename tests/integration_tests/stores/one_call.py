"""What holds of every store that is asked many queries in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import DimensionMismatchError, InvalidValueError
from langchain_ralmspec.stores import Hit, Query, Store
from tests.unit_tests.stores.toys import BatchTableEmbeddings, table

N_ROWS = 60
N_QUERIES = 6
QUERY_TEXTS = [f"v{N_ROWS + i}" for i in range(N_QUERIES)]


def embeddings() -> BatchTableEmbeddings:
    return BatchTableEmbeddings(table(N_ROWS + N_QUERIES))


def check_it_finds_what_langchain_finds(
    store: Store,
    langchains: Any,
    score: Callable[[float], float],
    k: int = 5,
    **words: Any,
) -> list[list[Hit]]:
    """The same documents in the same order, under scores of the same meaning.

    Args:
        store: of ours.
        langchains: what it was opened of.
        score: makes LangChain's score one of ours.
        k: hits a query.
        **words: of LangChain's search.

    Returns:
        What was found.
    """
    queries = store.encode(QUERY_TEXTS)
    found = store.search(queries, k, with_vectors=True)
    bare = store.search(queries, k)
    for query, hits, others in zip(queries, found, bare, strict=True):
        assert query.vector is not None
        theirs = langchains.similarity_search_with_score_by_vector(
            query.vector.tolist(), k=k, **words
        )
        assert [hit.document for hit in hits] == [document for document, _ in theirs]
        scores = [score(each) for _, each in theirs]
        assert [hit.score for hit in hits] == pytest.approx(scores, rel=1e-6, abs=1e-6)
        assert scores == sorted(scores, reverse=True)
        by_text = langchains.similarity_search(query.text, k=k, **words)
        assert [hit.document for hit in hits] == by_text
        assert [hit.vector for hit in others] == [None] * len(hits)
        check_same(others, hits)
    return found


def check_same(some: list[Hit], others: list[Hit]) -> None:
    """The same documents; of scores the last bits may differ from call to call."""
    assert [hit.id for hit in some] == [hit.id for hit in others]
    assert [hit.document for hit in some] == [hit.document for hit in others]
    scores = [hit.score for hit in others]
    assert [hit.score for hit in some] == pytest.approx(scores, rel=1e-6, abs=1e-6)


def check_vectors(found: list[list[Hit]], *, normalized: bool = False) -> None:
    """They are the stored ones, of the documents whose text is ``v<row>``."""
    rows = table(N_ROWS)
    if normalized:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for hit in (hit for hits in found for hit in hits):
        assert isinstance(hit.vector, np.ndarray)
        assert hit.vector.dtype == np.float32
        expected = rows[int(hit.document.page_content[1:])]
        np.testing.assert_allclose(hit.vector, expected, rtol=1e-5, atol=1e-6)


def check_a_batch_is_one_call(store: Store, calls: list[Any]) -> None:
    """One call for all queries, which answers each as a call for it alone does."""
    queries = store.encode(QUERY_TEXTS)
    calls.clear()
    together = store.search(queries, 3, with_vectors=True)
    assert len(calls) == 1
    for query, hits in zip(queries, together, strict=True):
        check_same(store.search([query], 3)[0], hits)
    assert len(calls) == 1 + N_QUERIES


def check_a_verification_is_one_call(langchains: Any, calls: list[Any]) -> None:
    """One call for each verification, the first one's included."""
    session = RaLMSpecRetriever(vectorstore=langchains).session()
    session.verify(["v0"])
    session.verify(QUERY_TEXTS)
    assert len(calls) == session.stats.store_calls == 2
    assert session.speculate("v0")


def check_equal_scores_fall_to_the_smaller_id(store: Store, ids: list[str]) -> None:
    """Where all documents of the store are equal."""
    for k in (1, 2, len(ids)):
        (hits,) = store.search(store.encode(QUERY_TEXTS[:1]), k)
        assert [hit.id for hit in hits] == sorted(ids)[:k]


def check_refusals(store: Store, dimension: int) -> None:
    with pytest.raises(InvalidValueError, match="got 0"):
        store.search(store.encode(QUERY_TEXTS), 0)
    with pytest.raises(InvalidValueError, match="no vector"):
        store.search([Query("q")], 1)
    for _ in range(2):  # before and after a search that found something
        with pytest.raises(DimensionMismatchError, match=rf"\(3,\).*{dimension}"):
            store.search([Query("q", np.ones(3, np.float32))], 1)
        store.search(store.encode(QUERY_TEXTS), 1)
    assert store.search([], 2) == []
