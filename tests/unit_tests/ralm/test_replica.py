"""A replica guesses; whatever it says, the answer is the sequential loop's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.ralm import Request, Session, Verified, sequential, speculative
from langchain_ralmspec.retrievers import RetrieverSession
from langchain_ralmspec.speculation import REPLICA, Estimates, Plan, Scheduler
from langchain_ralmspec.speculation.cache import SessionCache
from langchain_ralmspec.speculation.plan import SEQUENTIAL
from langchain_ralmspec.stores.base import Hit, Query
from langchain_ralmspec.stores.replica import StoreReplica
from tests.unit_tests.fakes import FakeStore, always, follow, random_of, samplers
from tests.unit_tests.ralm.test_identity import NearQueries, requests, stores
from tests.unit_tests.ralm.test_replaced import (
    LONG,
    Blind,
    Replacing,
    Wordy,
    story,
    text_request,
)


@dataclass
class Stale(FakeStore):
    """A copy where of ten documents about one is missing, and one has an old text."""

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        found = super()._search(query, self.n_documents, with_vectors=with_vectors)
        fates = [int(hit.id) * 7 % 10 for hit in found]
        kept = [
            replace(hit, document=Document("an old text")) if fate == 1 else hit
            for hit, fate in zip(found, fates, strict=True)
            if fate != 0
        ]
        return kept[:k]


@dataclass
class Hostile(FakeStore):
    """Finds anything: with vectors of others, huge or no numbers, or none at all."""

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        rng = random_of("hostile", self.seed, query.text)
        if rng.random() < 0.1:
            raise ConnectionError("the replica died")
        ids = rng.integers(0, self.n_documents + 2, int(rng.integers(0, k + 1)))
        scale = rng.choice([1e-3, 1.0, 1e6, np.nan])
        return [
            Hit(f"{id_:03}", Document(f"document {id_}"), 0.0, vector)
            for id_ in dict.fromkeys(ids.tolist())
            if (vector := (scale * rng.normal(size=3)).astype(np.float32)) is not None
        ]


@dataclass
class Unordered(FakeStore):
    """Gives ids alone, the best last."""

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        return super()._search(query, k, with_vectors=False)[::-1]


@dataclass
class Longer(FakeStore):
    """Gives vectors that are one number longer than the queries."""

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        found = super()._search(query, k, with_vectors=with_vectors)
        return [
            hit
            if hit.vector is None
            else replace(hit, vector=np.append(hit.vector, np.float32(0)))
            for hit in found
        ]


REPLICAS = {
    "good": FakeStore,
    "stale": Stale,
    "hostile": Hostile,
    "ids": Unordered,
    "longer": Longer,
}
plans = st.lists(
    st.one_of(
        st.just(SEQUENTIAL),
        st.builds(
            Plan,
            policy=st.sampled_from([REPLICA, REPLICA, REPLICA, "lookup", "same"]),
            stride=st.integers(1, 9),
            in_flight=st.integers(0, 4),
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=700)
@given(
    st.sampled_from([FakeStore, NearQueries, Blind, Wordy, Replacing]),
    st.sampled_from(sorted(REPLICAS)),
    st.sampled_from(["answer", "error"]),
    stores,
    requests,
    samplers,
    plans,
    st.sampled_from([1, 40]),
)
def test_whatever_a_replica_says_the_story_is_the_same(  # noqa: PLR0917
    kind: type[FakeStore],
    replica: str,
    on_empty: Any,
    store: dict[str, Any],
    request: dict[str, Any],
    sampler: Sampler,
    given_plans: list[Plan],
    prefetch_k: int,
) -> None:
    if kind in (Blind, Wordy, Replacing):
        store = store | {"tells_max_norm": False}  # a proven guess makes no query
    options = request | {"on_empty": on_empty, "sampler": sampler}
    options |= {"prefetch_k": prefetch_k}
    slow = text_request(kind(**store), **options)
    copy = StoreReplica(REPLICAS[replica](**store))
    fast = text_request(kind(**store), **options, replica=copy)
    told = story(fast, speculative(fast, follow(*given_plans)))
    assert told == story(slow, sequential(slow))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("replica", sorted(REPLICAS))
def test_whatever_the_scheduler_learns_of_it(
    replica: str,
    asynchronous: bool,
) -> None:
    estimates = Estimates()
    for seed in range(20):
        shape: dict[str, Any] = {"n_documents": 9, "seed": seed}
        slow = text_request(FakeStore(**shape), **LONG)
        copy = StoreReplica(REPLICAS[replica](**shape))
        fast = text_request(FakeStore(**shape, seconds=0.001), **LONG, replica=copy)
        scheduler = Scheduler(estimates, asynchronous=asynchronous)
        told = story(fast, speculative(fast, scheduler))
        assert told == story(slow, sequential(slow))


def run(
    request: Request, stride: int, *, policy: str = REPLICA, in_flight: int = 0
) -> list[Committed]:
    plan = always(stride, policy, in_flight=in_flight)
    events = list(speculative(request, plan))
    return [event for event in events if isinstance(event, Committed)]


@pytest.mark.parametrize(
    ("stride", "in_flight", "calls"),
    [
        (3, 0, [1, 3, 3, 1]),  # the first leaves at once: its text is waited for
        (9, 0, [1, 7]),
        (3, 1, [1, 3, 3, 1]),
    ],
)
def test_the_first_document_is_guessed_too(
    stride: int, in_flight: int, calls: list[int]
) -> None:
    lengths: dict[str, Any] = {"max_tokens": 32, "stride": 4, "end_bias": -9}
    store, copy = FakeStore(40, jitter=0.2), FakeStore(40, jitter=0.2)
    request = text_request(store, **lengths, replica=StoreReplica(copy))

    steps = run(request, stride, in_flight=in_flight)

    assert store.searches == calls
    assert len(steps) == request.stats.guesses == request.stats.right_guesses == 8
    assert len(copy.searches) == 8, "before every guess"


def test_the_first_document_is_guessed_whatever_later_ones_are_guessed_by() -> None:
    copy = FakeStore(40, jitter=0.2)
    replica = StoreReplica(copy)
    request = text_request(FakeStore(40, jitter=0.2), **LONG, replica=replica)
    events = list(speculative(request, always(2, "same", in_flight=1)))
    assert len(copy.searches) == 1, "before the first guess"
    assert {*request.stats.plans} == {"same 2×1"}
    (first, *_) = [event for event in events if isinstance(event, Verified)]
    assert (first.n_guesses, first.n_right) == (1, 1)


@pytest.mark.parametrize(("kind", "is_right"), [(FakeStore, True), (Replacing, False)])
def test_a_right_id_with_an_old_text_is_a_wrong_guess(
    kind: type[FakeStore], is_right: bool
) -> None:
    shape: dict[str, Any] = {"n_documents": 1, "seed": 1}
    options: dict[str, Any] = {"end_bias": -9, "max_tokens": 4, "stride": 4}
    copy = StoreReplica(FakeStore(**shape))
    request = text_request(kind(**shape), **options, replica=copy)
    (step,) = run(request, 1)
    (hit,) = step.hits
    assert (request.stats.guesses, request.stats.right_guesses) == (1, is_right)
    assert hit.id == "000"
    assert (hit.document.page_content == "document 0") is is_right


def test_where_the_cache_knows_more_it_is_believed() -> None:
    class Poor(FakeStore):
        """Knows the worst documents alone."""

        def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
            found = super()._search(query, 40, with_vectors=with_vectors)
            return found[-k:]

    shape: dict[str, Any] = {"n_documents": 40, "metric": "squared_l2", "jitter": 0.2}
    request = text_request(
        FakeStore(**shape), prefetch_k=40, **LONG, replica=StoreReplica(Poor(**shape))
    )
    run(request, 1)
    assert request.stats.guesses - request.stats.right_guesses == 1, "the first"


def test_nothing_of_a_replica_enters_the_cache_or_proves_anything() -> None:
    shape: dict[str, Any] = {"n_documents": 30, "metric": "squared_l2"}
    copy = StoreReplica(FakeStore(**shape, seed=1))
    session = Session(FakeStore(**shape, tells_max_norm=True), replica=copy)
    session.measure()
    guess = session.guess(REPLICA, "a", None)
    assert guess.hits
    assert guess.is_new
    assert not guess.is_proven
    assert len(session._memory.cache) == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_what_is_proven_beside_a_replica_in_its_own_order_is_right(depth: int) -> None:
    shape: dict[str, Any] = {"n_documents": 60, "metric": "squared_l2", "jitter": 0.2}
    n_proven = 0
    for kind in (Unordered, FakeStore):
        copy = StoreReplica(kind(**shape))
        store = FakeStore(**shape, tells_max_norm=True)
        session = Session(store, depth=depth, prefetch_k=40, replica=copy)
        session.measure()
        (current,) = session.verify([Query("a")])
        for text in ("a", "ab", "b", "abc", "c"):
            guess = session.guess(REPLICA, text, current)
            (right,) = session.verify([Query(text)])
            if guess.is_proven:
                n_proven += 1
                assert [hit.id for hit in guess.hits] == [hit.id for hit in right]
    assert n_proven


def test_policies_that_suit_store_and_replica() -> None:
    class Unready(StoreReplica):
        is_ready = False

    good, both = StoreReplica(FakeStore(3)), ("lookup", "same")
    assert Session(FakeStore(3), replica=good).usable(both) == (REPLICA, "same")
    assert Session(FakeStore(3), replica=good).usable(["lookup"]) == (REPLICA,)
    assert Session(FakeStore(3), replica=good).usable(["same"]) == ("same",)
    assert Session(Wordy(3), replica=good).usable(both) == (REPLICA, "same")
    unready = Session(FakeStore(3), replica=Unready(FakeStore(3)))
    assert unready.usable(both) == Session(FakeStore(3)).usable(both) == both


def test_one_that_fails_is_told_of_once_and_not_asked_again() -> None:
    copy = FakeStore(9, fail_after=2)
    replica = StoreReplica(copy)
    run(text_request(FakeStore(9), **LONG, replica=replica), 3)
    assert len(copy.searches) == 3
    with pytest.warns(RuntimeWarning, match="the replica failed: .* died; it is not"):
        replica.prepare()  # as the next answer does
    session = Session(FakeStore(9), replica=replica)
    assert session.usable(["lookup"]) == ("lookup",)
    assert len(copy.searches) == 3


def test_one_of_another_corpus_is_told_of_once() -> None:
    class Other(FakeStore):
        def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
            found = super()._search(query, k, with_vectors=with_vectors)
            return [replace(hit, id=f"9{hit.id}") for hit in found]

    replica = StoreReplica(Other(9))
    lengths: dict[str, Any] = {"max_tokens": 8, "end_bias": -9, "replica": replica}
    for number in range(100):
        if not replica.is_ready:
            break
        question = (number % 15 + 1, number // 15 + 1)
        run(text_request(FakeStore(9), question=question, **lengths), 1)
    with pytest.warns(RuntimeWarning, match="of 64 guesses .* only 0 were right"):
        replica.prepare()
    assert Session(FakeStore(9), replica=replica).usable(["lookup"]) == ("lookup",)


def test_a_session_of_ones_own_guesses_its_first_documents() -> None:
    def opened(**options: Any) -> RetrieverSession:
        store = FakeStore(20, jitter=0.2)
        return RetrieverSession(Session(store, depth=2, **options), "lookup")

    assert opened().speculate("a") == []
    with_replica = opened(replica=StoreReplica(FakeStore(20, jitter=0.2)))
    first = with_replica.speculate("a")
    assert [first] == with_replica.verify(["a"])
    assert [with_replica.speculate("b")] == with_replica.verify(["b"])


metrics = st.sampled_from(["inner_product", "squared_l2", "cosine"])
ids = st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True)


@given(metrics, st.integers(0, 99), ids, st.integers(0, 20), st.integers(1, 6))
def test_documents_beside_the_cache_rank_as_if_they_were_in_it(
    metric: Any, seed: int, rows: Sequence[int], n_cached: int, n: int
) -> None:
    vectors = random_of(seed).normal(size=(31, 3)).astype(np.float32)
    query = vectors[0] + vectors[1]
    names = [f"{row:02}" for row in rows]
    both, whole = SessionCache(metric, 1024), SessionCache(metric, 1024)
    whole.add(names, vectors[list(rows)])
    n_cached = min(n_cached, len(rows))
    if n_cached:
        both.add(names[:n_cached], vectors[list(rows)][:n_cached])
    others = dict(zip(names[n_cached:], vectors[list(rows)][n_cached:], strict=True))
    # What is cached is believed: it was verified.
    lies = dict.fromkeys(names[:n_cached], 100 * query)
    assert both.top(query, n, others | lies) == whole.top(query, n)
