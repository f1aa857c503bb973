"""What was embedded once is not embedded again in one session."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import InvalidValueError, StoreError
from langchain_ralmspec.ralm import Session, queries, sequential, speculative
from langchain_ralmspec.ralm.queries import Queries
from langchain_ralmspec.stores.base import Hit, Query
from tests.unit_tests.fakes import FakeStore, always, make_request, wrap


def batches_of(store: FakeStore) -> list[list[str]]:
    """The texts that are encoded in each call from now on."""
    batches: list[list[str]] = []
    wrap(store, "encode", lambda texts: batches.append(list(texts)))
    return batches


def test_a_text_is_embedded_once_and_what_is_made_alone_serves_all() -> None:
    store = FakeStore(n_documents=3)
    batches, known = batches_of(store), Queries(store)
    alone = known.alone("a")
    assert known.alone("a") is known.any("a") is alone
    together = known.together(["b", "a", "c", "b"])
    assert [query.text for query in together] == ["b", "a", "c", "b"]
    assert together[1] is alone
    assert known.together(["c", "b"]) == [together[2], together[0]]
    assert batches == [["a"], ["b", "c"]]


def test_a_vector_of_a_batch_is_none_that_the_other_loop_would_make() -> None:
    store = FakeStore(n_documents=3)
    batches, known = batches_of(store), Queries(store)
    known.together(["a", "b"])
    assert known.any("a").batched
    assert not known.alone("a").batched
    assert not known.any("a").batched, "the better one is kept"
    assert batches == [["a", "b"], ["a"]]


def test_a_guess_on_a_vector_of_a_batch_is_not_proven() -> None:
    store = FakeStore(40, "squared_l2", seed=1, jitter=0.2, tells_max_norm=True)
    session = Session(store, prefetch_k=20)
    session.measure()
    texts = [chr(ord("a") + n) for n in range(26)]
    hits = session.verify([Query("a")])[0]
    proven = [t for t in texts if session.guess("lookup", t, hits).is_proven]
    assert proven
    session = Session(store, prefetch_k=20)
    session.measure()
    hits = session.verify(list(map(Query, texts)))[0]
    assert not any(
        session.guess("lookup", text, hits).is_proven
        for text in texts
        if session._queries.any(text).batched
    )


def test_no_more_is_remembered_than_an_answer_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queries, "_CAPACITY", 2)
    store = FakeStore(n_documents=3)
    batches, known = batches_of(store), Queries(store)
    assert [query.text for query in known.together(["a", "b", "c"])] == ["a", "b", "c"]
    known.alone("c")
    known.any("b")
    known.any("a")
    assert batches == [["a", "b", "c"], ["c"], ["a"]]


class Refusing(FakeStore):
    """Fails where it is asked several queries, as a service with a limit may."""

    def search(
        self, queries: Sequence[Query], *args: Any, **kwargs: Any
    ) -> list[list[Hit]]:
        if len(queries) > 1:
            raise ConnectionError
        return super().search(queries, *args, **kwargs)


@pytest.mark.parametrize("in_flight", [0, 2])
def test_a_call_that_is_made_again_embeds_nothing_again(in_flight: int) -> None:
    store = Refusing(n_documents=1)
    batches = batches_of(store)
    request = make_request(store, max_tokens=40, end_bias=-9)
    list(speculative(request, always(3, "same", in_flight)))
    texts = [text for batch in batches for text in batch]
    assert max(map(len, batches)) == 3
    # A near tie is decided by a vector of its own; one document has none beside it.
    assert len(texts) == len(set(texts))


def test_an_answer_that_repeats_itself_embeds_its_queries_once() -> None:
    store = FakeStore(n_documents=3)
    batches = batches_of(store)
    request = make_request(store, retrieval="iter-retgen", rounds=4, end_bias=9)
    list(sequential(request))
    texts = [text for batch in batches for text in batch]
    assert request.session.stats.queries > len(texts) == len(set(texts))


@pytest.mark.parametrize("method", ["encode", "search"])
@pytest.mark.parametrize("given", [[], [None], None])
def test_a_store_that_miscounts_is_a_store_error(method: str, given: Any) -> None:
    """Stores of one's own may; the loops would wait for what never comes."""
    store = FakeStore(n_documents=3)
    setattr(store, method, lambda *_, **__: given)
    for loop in (sequential, partial(speculative, scheduler=always(3))):
        with pytest.raises(StoreError, match=rf"FakeStore failed to {method}"):
            list(loop(make_request(store)))


@pytest.mark.parametrize("metadata", ["a", [1]])
def test_a_found_document_without_metadata_of_its_kind_is_named(metadata: Any) -> None:
    store = FakeStore(n_documents=3)
    broken = Document.model_construct(page_content="x", id="id7", metadata=metadata)
    store.search = lambda queries, *_, **__: [[Hit("id7", broken, 0.0)]] * len(queries)  # type: ignore[method-assign]
    for loop in (sequential, partial(speculative, scheduler=always(3))):
        with pytest.raises(InvalidValueError, match="in the document 'id7'"):
            list(loop(make_request(store)))


@pytest.mark.parametrize(
    "made",
    [
        [1.0, 2.0],
        Query("a", [1.0, 2.0]),  # type: ignore[arg-type]
        Query("a", np.zeros((1, 2), np.float32)),
    ],
)
def test_what_is_no_query_is_an_error_of_the_store(made: Any) -> None:
    store = FakeStore(n_documents=3)
    store.encode = lambda texts: [made for _ in texts]  # type: ignore[method-assign]
    with pytest.raises(StoreError, match=r"FakeStore failed to encode.*one dimension"):
        Session(store).retrieve("a")


@pytest.mark.parametrize(
    "hit",
    [
        Hit(7, Document("x"), 1.0),  # type: ignore[arg-type]
        Hit("7", "x", 1.0),  # type: ignore[arg-type]
        Hit("7", Document("x"), None),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_hit_is_an_error_of_the_store(hit: Hit) -> None:
    store = FakeStore(n_documents=3)
    store.search = lambda queries, *_, **__: [[hit] for _ in queries]  # type: ignore[method-assign]
    retriever = RaLMSpecRetriever(vectorstore=store)
    for ask in (Session(store).retrieve, retriever.invoke):
        with pytest.raises(StoreError, match=r"FakeStore failed to search.*no Hit"):
            ask("a")
