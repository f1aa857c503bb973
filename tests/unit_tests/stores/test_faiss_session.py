"""What a session makes of a FAISS store: proofs, look-ups, guesses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.errors import EmptyStoreError
from langchain_ralmspec.ralm import (
    Request,
    RolledBack,
    Session,
    sequential,
    speculative,
)
from langchain_ralmspec.speculation import Plan
from langchain_ralmspec.stores import FaissStore, Hit, Query, faiss_index
from tests.unit_tests.fakes import follow, make_request
from tests.unit_tests.stores.faiss_toys import (
    KINDS,
    N_QUERIES,
    N_ROWS,
    langchain_faiss,
)
from tests.unit_tests.stores.toys import (
    DIMENSION,
    BatchTableEmbeddings,
    some_queries,
    table,
)


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
    assert len(session._memory.cache) > 40
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
    assert len(session._memory.hits) == len(session._memory.cache) > 0
    (truth,) = session.retrieve("q0").truth
    assert [hit.id for hit in truth] == [hit.id for hit in current]
    assert not session.measure(), "the nearest by its vector need not be the first"
    assert Session(FaissStore.from_langchain(langchain_faiss())).measure()


@pytest.mark.parametrize("kind", ["flat_ip", "flat_l2", "ivf", "hnsw"])
@pytest.mark.parametrize("texts", [["q"], ["q", "r"]])
def test_a_filter_that_lets_nothing_pass_is_an_empty_store(
    kind: str, texts: list[str]
) -> None:
    retriever = RaLMSpecRetriever(
        vectorstore=langchain_faiss(kind), filter=lambda _metadata: False
    )
    session = retriever.session()
    with pytest.raises(EmptyStoreError, match="'q'"):
        session.verify(texts)
    assert len(session._session._memory.cache) == 0


def request_over(
    index: Any, vectors: Any, vector_of: Callable[[str], Any], condition: Any = None
) -> Request:
    """A request whose documents are the rows of an index, and its queries' vectors."""
    index.add(vectors)
    texts = [
        Document(page_content=str(row), metadata={"row": row})
        for row in range(len(vectors))
    ]
    store: Any = FaissStore(index, texts, BatchTableEmbeddings(vectors))
    store._accepts = condition
    store.encode = lambda asked: [Query(text, vector_of(text)) for text in asked]
    return make_request(store, max_tokens=80, end_bias=-9, prefetch_k=12)


def committed(events: Any) -> list[Committed]:
    return [event for event in events if isinstance(event, Committed)]


@pytest.mark.parametrize(
    "plan",
    [
        Plan("lookup", 1),
        Plan("lookup", 3),
        Plan("lookup", 2, 2),
        Plan("same", 1),
        Plan("same", 3),
    ],
)
@pytest.mark.parametrize("kind", ["flat_l2", "ivf", "hnsw"])
def test_both_loops_give_the_scores_that_the_store_gave(kind: str, plan: Plan) -> None:
    def vector_of(text: str) -> Any:
        rng = np.random.default_rng(list(text.encode()))
        near = table(N_ROWS)[rng.integers(3)]
        return (near + 0.6 * rng.normal(size=DIMENSION)).astype(np.float32)

    slow, fast = (
        request_over(KINDS[kind][0](), table(N_ROWS), vector_of) for _ in range(2)
    )
    truth = [hit for e in committed(sequential(slow)) for hit in e.hits]
    given = [hit for e in committed(speculative(fast, follow(plan))) for hit in e.hits]
    assert [hit.id for hit in given] == [hit.id for hit in truth]
    searched = [n for n, hit in enumerate(given) if not math.isnan(hit.score)]
    assert [given[n] for n in searched] == [truth[n] for n in searched]
    assert len(given) - len(searched) == fast.stats.proven_guesses
    assert fast.stats.right_guesses > fast.stats.proven_guesses, "or it shows nothing"


@pytest.mark.parametrize("in_flight", [0, 2])
def test_a_query_behind_a_wrong_guess_may_find_nothing(in_flight: int) -> None:
    near, far = table(N_ROWS), table(N_ROWS) + 100
    asked: list[str] = []

    def note(text: str) -> Any:
        asked.append(text)
        return vector_near(text)

    def vector_near(text: str) -> Any:
        return near[np.random.default_rng(list(text.encode())).integers(6)]

    def strange(text: str) -> Any:
        return vector_near(text) + (0 if text in truly_asked else 100)

    def index() -> Any:
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIMENSION), DIMENSION, 2)
        index.train(np.vstack([near, far]))
        return index  # which looks into one of its two lists

    def is_near(metadata: dict[str, Any]) -> bool:
        return bool(metadata["row"] < N_ROWS)

    rows = np.vstack([near, far])
    slow = request_over(index(), rows, note, is_near)
    truth = [(e.tokens, e.hits) for e in committed(sequential(slow))]
    truly_asked = set(asked)
    fast = request_over(index(), rows, strange, is_near)
    empty: list[str] = []
    learn = fast.session.learn

    def learning(answer: Any) -> None:
        pairs = zip(answer.queries, answer.found, strict=True)
        empty.extend(q.text for q, f in pairs if not f.ids)
        learn(answer)

    fast.session.learn = learning  # type: ignore[method-assign]
    events = list(speculative(fast, follow(Plan("lookup", 4, in_flight))))
    assert empty, "the example must contain such a query"
    assert any(isinstance(event, RolledBack) for event in events)
    assert [(e.tokens, e.hits) for e in committed(events)] == truth
