"""What a session makes of a FAISS store: proofs, look-ups, guesses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_ralmspec.ralm import Session
from langchain_ralmspec.stores import FaissStore, Hit, Query, faiss_index
from tests.unit_tests.stores.faiss_toys import N_QUERIES, N_ROWS, langchain_faiss
from tests.unit_tests.stores.toys import DIMENSION, some_queries, table


@pytest.mark.parametrize("kind", ["flat_ip", "flat_l2"])
def test_no_vector_exceeds_the_max_norm(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "_ROWS_MEASURED", 7)
    vectorstore = langchain_faiss(kind)
    store = FaissStore.from_langchain(vectorstore)
    length = float(np.linalg.norm(table(N_ROWS), axis=1).max())

    def longest() -> float:
        known = store.max_norm()
        assert known is store.max_norm(), "nothing has changed"
        assert known is not None
        return known.longest

    assert length < longest() < 1.001 * length
    before = store.max_norm()

    near = [0.1] * DIMENSION
    vectorstore.add_embeddings([("near", near)], ids=["near"])
    assert longest() < 1.001 * length
    assert store.max_norm() is not before, "there is a new row"
    vectorstore.add_embeddings([("far", [50.0] * DIMENSION)], ids=["far"])
    assert longest() > 50 * DIMENSION**0.5

    vectorstore.delete(["far"])
    assert length < longest() < 1.001 * length

    vectorstore.add_embeddings([("nowhere", [np.nan] * DIMENSION)], ids=["nan"])
    assert store.max_norm() is None


@pytest.mark.parametrize(("kind", "n_rows"), [("hnsw", 9), ("ivf", 9), ("flat_l2", 0)])
def test_where_the_nearest_may_be_missed_there_is_no_max_norm(
    kind: str, n_rows: int
) -> None:
    assert FaissStore.from_langchain(langchain_faiss(kind, n_rows)).max_norm() is None


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["flat_ip", "flat_l2", "normalized_l2"]),
    is_filtered=st.booleans(),
    depth=st.integers(1, 3),
    prefetch_k=st.sampled_from([1, 5, 40, 400]),
    step=st.sampled_from([0.0, 0.02, 0.2]),
    seed=st.integers(0, 999),
)
def test_what_a_session_has_proven_is_what_the_store_says(
    *,
    kind: str,
    is_filtered: bool,
    depth: int,
    prefetch_k: int,
    step: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    condition = (lambda metadata: metadata["row"] % 3 > 0) if is_filtered else None
    store = FaissStore.from_langchain(langchain_faiss(kind), condition)
    session = Session(store, depth=depth, prefetch_k=prefetch_k)
    session.measure()
    vector = table(N_ROWS)[seed % N_ROWS] + 0.1 * rng.normal(size=DIMENSION)

    def encode(texts: Sequence[str]) -> list[Query]:
        units = store._index.normalized(vector[np.newaxis].astype(np.float32))
        mine = units[0] if kind == "normalized_l2" else vector.astype(np.float32)
        return [Query(text, mine) for text in texts]

    store.encode = encode  # type: ignore[method-assign]
    (current,) = session.verify([Query("q")])
    for number in range(12):
        vector = vector + step * rng.normal(size=DIMENSION)
        guess = session.guess("lookup", f"q{number}", current)
        (current,) = session.retrieve(f"q{number}").truth
        if guess.is_proven:
            assert [h.id for h in guess.hits] == [h.id for h in current]
        else:
            (current,) = session.verify([Query(f"q{number}")])


@pytest.mark.parametrize("kind", ["flat_ip", "flat_l2", "normalized_l2"])
def test_a_session_proves_what_it_has_asked(kind: str) -> None:
    store = FaissStore.from_langchain(langchain_faiss(kind))
    store.encode = lambda texts: [some_queries(N_QUERIES)[0] for _ in texts]  # type: ignore[method-assign]
    session = Session(store, prefetch_k=40)
    session.measure()
    (current,) = session.verify([Query("q0")])
    assert session.guess("lookup", "q0", current).is_proven


def session_at_q0(store: Any, *, prefetch_k: int) -> tuple[Session, Any]:
    """A session that looks up ``"q1"`` while ``"q0"``'s documents are shown."""
    vectors = dict(zip(("q0", "q1"), some_queries(2), strict=True))
    store.encode = lambda texts: [vectors[text] for text in texts]
    session = Session(store, prefetch_k=prefetch_k)
    _, current = session.verify([Query("q1"), Query("q0")])
    return session, current


def test_only_documents_that_are_shown_are_looked_up() -> None:
    vectorstore = langchain_faiss()
    asked: list[str] = []
    look_up = vectorstore.docstore.search
    vectorstore.docstore.search = lambda search: asked.append(search) or look_up(search)  # type: ignore[method-assign,func-returns-value]
    store = FaissStore.from_langchain(vectorstore)
    session, current = session_at_q0(store, prefetch_k=40)
    assert len(asked) == 2
    assert len(session._cache) > 40
    (truth,) = session.retrieve("q1").truth
    asked.clear()
    guess = session.guess("lookup", "q1", current)
    assert [hit.document for hit in guess.hits] == [hit.document for hit in truth]
    assert asked == [truth[0].id]


def test_a_guess_shows_what_the_store_has_now() -> None:
    vectorstore = langchain_faiss()
    session, current = session_at_q0(
        FaissStore.from_langchain(vectorstore), prefetch_k=40
    )
    best = session.guess("lookup", "q1", current).hits[0]
    text = best.document.page_content
    vectorstore.delete([best.id])
    guess = session.guess("lookup", "q1", current)
    assert (guess.policy, guess.hits, guess.margin) == ("same", current, None)
    changed = Document(page_content=text, metadata={"is": "new"})
    vectorstore.add_documents([changed], ids=[best.id])
    guess = session.guess("lookup", "q1", current)
    assert guess.hits[0].document.metadata == {"is": "new"}
    assert guess.hits[0].document == session.retrieve("q1").truth[0][0].document


def test_a_search_of_a_subclass_is_not_passed_by() -> None:
    class Reversed(FaissStore):
        def search(
            self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
        ) -> list[list[Hit]]:
            found = super().search(queries, k, with_vectors=with_vectors)
            return [hits[::-1] for hits in found]

    store = Reversed.from_langchain(langchain_faiss())
    (best,) = store.find(some_queries(1), 5, depth=5, with_vectors=False)
    session, current = session_at_q0(store, prefetch_k=5)
    assert [hit.id for hit in current] == [best.ids[-1]]
    assert len(session._hits) == len(session._cache) > 0
