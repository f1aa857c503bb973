"""Documents replaced under their ids, and queries that find nothing, mid-answer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import EmptyStoreError, RaLMSpecRetriever
from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.ralm import (
    Branch,
    Event,
    Request,
    Session,
    sequential,
    speculative,
)
from langchain_ralmspec.ralm.run import RetrievalRun
from langchain_ralmspec.speculation import Plan
from langchain_ralmspec.stores.base import Hit, Query
from tests.unit_tests.fakes import FakePath, FakeStore, always, follow, make_request
from tests.unit_tests.ralm.test_identity import plans, requests, stores


def _draw(text: str, n: int) -> int:
    return zlib.crc32(text.encode()) % n


class Replacing(FakeStore):
    """Its documents are replaced at some queries: the text found depends on these."""

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        found = super()._search(query, k, with_vectors=with_vectors)
        version = _draw(query.text, 3)
        return [
            replace(hit, document=Document(f"{hit.id} of version {version}"))
            for hit in found
        ]


class Blind(FakeStore):
    """Some queries get no vector, and find nothing."""

    def _vector(self, text: str, batch: int) -> Any:
        vector = super()._vector(text, batch)
        return vector if _draw(text, 4) else np.full_like(vector, np.nan)

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        is_blind = np.isnan(np.asarray(query.vector)).any()
        return [] if is_blind else super()._search(query, k, with_vectors=with_vectors)


class Wordy(FakeStore):
    """A store without vectors, where some queries have no word that is stored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.metric = None  # type: ignore[assignment]  # of stores like this

    def encode(self, texts: Sequence[str]) -> list[Query]:
        return [Query(text) for text in texts]

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        if not _draw(query.text, 4):
            return []
        return super()._search(
            replace(query, vector=self._vector(query.text, 1)), k, with_vectors=False
        )


def text_request(store: FakeStore, **options: Any) -> Request:
    """A request whose model reads the documents' texts, not only their ids."""
    request = make_request(store, **options)

    def open_branch(hits: Sequence[Hit]) -> Branch:
        texts = "\n".join(hit.document.page_content for hit in hits)
        path = FakePath((zlib.crc32(texts.encode()),), options.get("end_bias", 0.0))
        return Branch(path)

    request.writer.open_branch = open_branch
    return request


def story(request: Request, events: Iterable[Event]) -> list[Any]:
    """Every token under its documents' ids and texts, and how it ended."""
    told: list[Any] = []
    try:
        for event in events:
            if isinstance(event, Committed):
                under = [(hit.id, hit.document.page_content) for hit in event.hits]
                told += [(token, under) for token in event.tokens]
    except EmptyStoreError as error:
        told.append(str(error))
    return [*told, request.transcript.finish_reason]


@settings(max_examples=500)
@given(
    st.sampled_from([Replacing, Blind, Wordy]),
    st.sampled_from(["answer", "error"]),
    stores,
    requests,
    plans,
)
def test_both_loops_read_what_the_store_has_now(
    kind: Callable[..., FakeStore],
    on_empty: str,
    store: dict[str, Any],
    request: dict[str, Any],
    given_plans: list[Plan],
) -> None:
    store = store | {"tells_max_norm": False}  # a proven guess makes no query
    request = request | {"on_empty": on_empty}
    slow, fast = (text_request(kind(**store), **request) for _ in range(2))
    guessed = story(fast, speculative(fast, follow(*given_plans)))
    assert guessed == story(slow, sequential(slow))


LONG: dict[str, Any] = {"max_tokens": 60, "stride": 2, "end_bias": -9}


@pytest.mark.parametrize("policy", ["same", "lookup"])
def test_new_texts_are_read_and_told(policy: str) -> None:
    request = text_request(Replacing(3, seed=1), **LONG)
    run = RetrievalRun(speculative(request, always(3, policy)), request)
    assert "".join(run)
    texts = [document.page_content for document in run.documents]
    assert len(texts) == len(set(texts)) > 3, "more texts than ids"


def events_of(request: Request, loop: str) -> Generator[Event]:
    if loop == "sequential":
        return sequential(request)
    return speculative(request, always(3, loop))


LOOPS: list[tuple[str, type[FakeStore]]]
LOOPS = [("sequential", Blind), ("same", Blind), ("lookup", Blind)]
LOOPS += [("sequential", Wordy), ("same", Wordy)]


@pytest.mark.parametrize(("loop", "kind"), LOOPS)
def test_where_it_is_an_error_no_step_is_told_without_documents(
    loop: str, kind: Any
) -> None:
    n_refused = 0
    for seed in range(20):
        question = (seed % 15 + 1,)
        request = text_request(
            kind(5, seed=seed), **LONG, question=question, on_empty="error"
        )
        events = events_of(request, loop)
        try:
            assert all(e.hits for e in events if isinstance(e, Committed))
        except EmptyStoreError:
            n_refused += 1
    assert n_refused, "or it shows nothing"


@pytest.mark.parametrize(("loop", "kind"), LOOPS)
def test_where_nothing_is_found_a_step_is_written_without_documents(
    loop: str, kind: Any
) -> None:
    request = text_request(kind(5, seed=1), **LONG)
    events = events_of(request, loop)
    found = [bool(event.hits) for event in events if isinstance(event, Committed)]
    assert len(found) == 30
    assert set(found) == {True, False}


@pytest.mark.parametrize("policy", ["same", "lookup"])
def test_nothing_guessed_where_nothing_is_found_is_right(policy: str) -> None:
    request = text_request(FakeStore(0), **LONG)
    list(speculative(request, always(3, policy)))
    assert request.stats.right_guesses == request.stats.guesses == 29


@pytest.mark.parametrize("by", ["retrieve", "verify"])
def test_hits_stay_what_they_were_when_found(by: str) -> None:
    document = Document("old", id="1", metadata={"title": "old"})

    class Live(FakeStore):
        def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
            found = super()._search(query, k, with_vectors=with_vectors)
            return [replace(hit, document=document) for hit in found]

    session = Session(Live(1))
    if by == "retrieve":
        ((hit,),) = session.retrieve("a").truth
    else:
        ((hit,),) = session.verify([Query("a")])
    document.page_content = document.metadata["title"] = "new"
    assert hit.document.page_content == hit.document.metadata["title"] == hit.text
    assert hit.text == "old"


def test_only_what_the_model_reads_makes_a_guess_wrong() -> None:
    class Scoring(FakeStore):
        """Writes into a document's metadata how it was found, as some stores do."""

        def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
            found = super()._search(query, k, with_vectors=with_vectors)
            told = {"score": np.array([hash(query.text)])}
            return [
                replace(hit, document=Document("a text", metadata=told))
                for hit in found
            ]

    request = make_request(Scoring(1), max_tokens=32, end_bias=-9)
    list(speculative(request, always(3, "same")))
    assert request.stats.right_guesses == request.stats.guesses == 7


def test_a_session_of_ones_own_goes_on_under_the_new_text() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document("old", id="1")])
    session = RaLMSpecRetriever(vectorstore=store, k=1).session(guess_policy="same")
    session.verify(["a"])
    store.add_documents([Document("new", id="1")])
    (guess,) = session.speculate("b")
    assert guess.page_content == "old"
    session.verify(["b", "c"])
    (guess,) = session.speculate("d")
    assert guess.page_content == "new"
