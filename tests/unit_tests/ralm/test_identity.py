"""The headline: speculation changes nothing but the clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.ralm import (
    Asked,
    Event,
    Found,
    Request,
    RolledBack,
    Verified,
    sequential,
    speculative,
)
from langchain_ralmspec.speculation import Estimates, Plan, Scheduler
from langchain_ralmspec.speculation.cache import SessionCache
from langchain_ralmspec.speculation.plan import SEQUENTIAL
from langchain_ralmspec.stores.base import Hit, Query
from tests.unit_tests.fakes import (
    FakeStore,
    Plans,
    always,
    follow,
    make_request,
    samplers,
)


def story(request: Request, events: Iterable[Event]) -> list[Any]:
    """What the caller sees: every token under its documents, and the end."""
    told: list[Any] = []
    for event in events:
        if isinstance(event, Committed):
            ids = tuple(hit.id for hit in event.hits)
            told += [(token, ids) for token in event.tokens]
            told.append(event.text)
    return [*told, request.transcript.finish_reason]


stores = st.fixed_dictionaries(
    {
        "n_documents": st.integers(1, 12),
        "metric": st.sampled_from(["inner_product", "squared_l2", "cosine"]),
        "top_k_is_stable": st.booleans(),
        "tells_max_norm": st.booleans(),
        "seed": st.integers(0, 10_000),
    }
)
requests = st.fixed_dictionaries(
    {
        "question": st.lists(st.integers(1, 15), max_size=4),
        "retrieval": st.sampled_from(["stride", "flare", "iter-retgen"]),
        "threshold": st.sampled_from([0.0, 0.1, 0.3, 1.0]),
        "rounds": st.integers(1, 4),
        "depth": st.integers(1, 3),
        "prefetch_k": st.sampled_from([1, 2, 20, None]),
        "stride": st.integers(1, 6),
        "max_tokens": st.integers(1, 40),
        "window": st.integers(1, 8),
        "stops": st.lists(
            st.text("abcdefghijklmnop", min_size=1, max_size=2), max_size=2
        ),
        "end_bias": st.sampled_from([-9.0, 0.0, 1.0]),
    }
)
plans = st.lists(
    st.one_of(
        st.just(SEQUENTIAL),
        st.builds(
            Plan,
            policy=st.sampled_from(["lookup", "same"]),
            stride=st.integers(1, 9),
            in_flight=st.integers(0, 4),
            trusted=st.one_of(st.none(), st.floats(-3, 3)),
        ),
    ),
    min_size=1,
    max_size=4,
)


def check(
    store: dict[str, Any],
    request: dict[str, Any],
    scheduler: Scheduler,
    *,
    seconds: float = 0.0,
    sampler: Sampler | None = None,
) -> None:
    """Both loops tell one story, when a search takes up to so long."""
    slow = make_request(FakeStore(**store), **request, sampler=sampler)
    fast = make_request(FakeStore(**store, seconds=seconds), **request, sampler=sampler)
    assert story(fast, speculative(fast, scheduler)) == story(slow, sequential(slow))


@settings(max_examples=3000)
@given(stores, requests, samplers, plans)
def test_speculative_tells_the_sequential_story(
    store: dict[str, Any],
    request: dict[str, Any],
    sampler: Sampler,
    given_plans: list[Plan],
) -> None:
    check(store, request, follow(*given_plans), sampler=sampler)


@settings(max_examples=200)
@given(stores, requests, samplers, plans)
def test_and_does_so_whenever_the_answers_come(
    store: dict[str, Any],
    request: dict[str, Any],
    sampler: Sampler,
    given_plans: list[Plan],
) -> None:
    check(store, request, follow(*given_plans), sampler=sampler, seconds=0.002)


class Unreadable(FakeStore):
    """One of its documents fails every search that comes to it, as a filter may."""

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        hits = super()._search(query, k, with_vectors=with_vectors)
        if any(int(hit.id) == self.seed % self.n_documents for hit in hits):
            raise ValueError(self.seed)
        return hits


@settings(max_examples=1000)
@given(stores, requests, plans)
def test_what_only_a_wider_search_comes_to_changes_nothing(
    store: dict[str, Any], request: dict[str, Any], given_plans: list[Plan]
) -> None:
    def told(loop: Callable[[Request], Iterable[Event]]) -> tuple[list[Any], Any]:
        failures: list[str] = []
        built = make_request(Unreadable(**store), **request)

        def events() -> Iterator[Event]:
            try:
                yield from loop(built)
            except StoreError as error:
                failures.append(str(error))

        *seen, end = story(built, events())
        return seen, failures or end

    slow, slow_end = told(sequential)
    fast, fast_end = told(lambda built: speculative(built, follow(*given_plans)))
    assert fast_end == slow_end
    # A failure ends those steps as well that were to be verified in the same call.
    assert fast == (slow[: len(fast)] if isinstance(fast_end, list) else slow)


@settings(max_examples=200)
@given(stores, requests, st.booleans())
def test_whatever_the_scheduler_learns_the_story_is_the_same(
    store: dict[str, Any], request: dict[str, Any], asynchronous: bool
) -> None:
    estimates = Estimates()
    for _ in range(3):
        check(store, request, Scheduler(estimates, asynchronous=asynchronous))


@settings(max_examples=500)
@given(stores, requests, plans)
def test_counts_add_up(
    store: dict[str, Any], request: dict[str, Any], given_plans: list[Plan]
) -> None:
    built = make_request(FakeStore(**store), **request)
    policy: Any = Mock(wraps=built.policy)
    built.policy = policy

    events = list(speculative(built, follow(*given_plans)))

    stats = built.session.stats
    committed = [
        token for e in events if isinstance(e, Committed) for token in e.tokens
    ]
    verified = [e for e in events if isinstance(e, Verified)]
    assert committed == built.writer.transcript.tokens
    assert stats.tokens_kept == len(committed)
    assert stats.tokens_rolled_back == sum(
        e.n_tokens for e in events if isinstance(e, RolledBack)
    )
    assert stats.rounds == len(verified) == len(stats.verifications)
    assert stats.right_guesses == stats.proven_guesses + sum(
        e.n_right for e in verified
    )
    assert stats.right_guesses <= stats.guesses
    longest = max(plan.stride for plan in given_plans)
    assert all(1 <= e.n_guesses <= longest for e in verified)
    # Each stands on the first retrieval, on another one, or on what a guess became.
    n_committed = sum(isinstance(e, Committed) for e in events)
    n_retrieved = 1 + stats.plans.get(SEQUENTIAL.label, 0)
    assert n_committed == n_retrieved + stats.guesses
    assert stats.steps == policy.write.call_count >= n_committed
    # A guess that is counted was asked for; others may be without a query.
    n_verified = stats.guesses - stats.proven_guesses
    assert stats.queries >= n_verified + n_retrieved


def test_a_round_is_one_store_call_for_all_its_guesses() -> None:
    store = FakeStore(n_documents=1)  # every guess is right
    request = make_request(store, max_tokens=32, stride=4, end_bias=-9)

    list(speculative(request, always(3)))

    # 8 strides; the last ends the answer and needs no query: 7 guesses in 3 calls.
    assert store.searches == [1, 3, 3, 1]


def test_the_first_step_which_reads_the_whole_prompt_is_no_measure_of_others() -> None:
    class Telling(Estimates):
        def generated(self, seconds: float, *, changed: bool, overlapped: bool) -> None:
            changes.append(changed)

    changes: list[bool] = []
    store = FakeStore(n_documents=1)  # whose documents never change
    request = make_request(store, max_tokens=32, stride=4, end_bias=-9)
    list(speculative(request, Scheduler(Telling(), stride=2)))
    assert changes == [False] * 7, "of 8"


@pytest.mark.parametrize("in_flight", [0, 2])
@pytest.mark.parametrize("is_near", [True, False])
def test_look_ups_are_judged_while_documents_are_repeated(
    is_near: bool, in_flight: int
) -> None:
    judged: list[bool] = []

    class Telling(Estimates):
        def judged(
            self, policy: str, *, right: bool, margin: float | None = None
        ) -> None:
            if policy == "lookup":
                assert margin is not None
                judged.append(right)

    store = FakeStore(9, metric="squared_l2", jitter=0.2)
    if not is_near:  # filling a cache that nobody may use would cost
        store.is_remote = True  # type: ignore[attr-defined]
    request = make_request(
        store, max_tokens=80, stride=4, end_bias=-9, prefetch_k=9, on_empty="error"
    )
    plans = Plans(Telling(), given=(Plan("same", 2, in_flight),))
    list(speculative(request, plans))
    stats = request.stats
    assert {*stats.plans} == {Plan("same", 2, in_flight).label}
    if is_near:  # all documents are in the cache
        assert judged == [True] * stats.guesses
        assert 0 < stats.right_guesses < stats.guesses
    else:
        assert not judged


@pytest.mark.parametrize("is_near", [True, False])
def test_who_guesses_changes_within_an_answer_where_the_cache_fills_freely(
    is_near: bool,
) -> None:
    noted: list[Sequence[str]] = []

    class Noting(Plans):
        def plan(self) -> Plan:
            noted.append(self.policies)
            return super().plan()

    store = FakeStore(9)
    if not is_near:
        store.is_remote = True  # type: ignore[attr-defined]
    request = make_request(store, max_tokens=40, stride=4, end_bias=-9)
    given = Plan("same", 2), Plan("lookup", 2)
    list(speculative(request, Noting(Estimates(), given=given)))
    first, *others = noted
    assert first == ("lookup", "same")
    assert {len(policies) for policies in others} == {2 if is_near else 1}


class NearQueries(FakeStore):
    """Its queries lie near one another, some of them very near."""

    def _vector(self, text: str, batch: int) -> Any:
        step = random.Random(f"{self.seed} {text}").choice([0.0, 0.01, 0.4, 2.0])  # noqa: S311
        return np.array([1, 1.3, -0.6], np.float32) + step * super()._vector(
            text, batch
        )


class AllDifferent(FakeStore):
    """No two of its documents have the same vector."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.vectors[:, 1:] = [divmod(row, 6) for row in range(self.n_documents)]


@pytest.mark.parametrize("in_flight", [0, 1, 3])
@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize(
    ("metric", "depth"),
    [("squared_l2", 1), ("inner_product", 1), ("cosine", 1), ("squared_l2", 2)],
)
def test_proven_guesses_are_not_verified(
    metric: str, depth: int, stride: int, in_flight: int
) -> None:
    n_proven = n_mixed = 0
    for seed in range(30):
        settings: dict[str, Any] = {"n_documents": 30, "seed": seed}
        settings["metric"] = metric
        lengths: dict[str, Any] = {"max_tokens": 48, "end_bias": -9}
        lengths |= {"prefetch_k": 12, "depth": depth}
        slow = make_request(NearQueries(**settings), **lengths)
        dawdling = 0.001 * (in_flight > 0)
        store = NearQueries(**settings, tells_max_norm=True, seconds=dawdling)
        fast = make_request(store, **lengths)
        events = list(speculative(fast, always(stride, in_flight=in_flight)))
        assert story(fast, events) == story(slow, sequential(slow))
        stats = fast.session.stats
        n_steps = sum(isinstance(event, Committed) for event in events)
        assert n_steps == 1 + stats.guesses, "no step stands on two of them"
        n_proven += stats.proven_guesses
        n_mixed += 0 < stats.proven_guesses < stats.right_guesses
        if stride == 1 and not in_flight:  # else wrong guesses are followed by others
            n_verified = stats.guesses - stats.proven_guesses
            assert sum(store.searches) == 1 + n_verified
    assert n_proven > 30
    assert n_mixed > 5, "proven guesses between others"


def test_a_guess_does_not_wait_for_ever_behind_proven_ones() -> None:
    class Distant(AllDifferent):
        """The second query is far from all others."""

        def __post_init__(self) -> None:
            super().__post_init__()
            self.order: dict[str, int] = {}

        def _vector(self, text: str, batch: int) -> Any:
            seen = self.order.setdefault(text, len(self.order))
            return np.array([1, -2.1 if seen == 1 else 1.3, 0.9], np.float32)

    store = Distant(n_documents=36, metric="squared_l2", tells_max_norm=True)
    lengths: dict[str, Any] = {"max_tokens": 400, "end_bias": -9, "prefetch_k": 12}
    request = make_request(store, **lengths)
    verified_at = [
        request.session.stats.steps
        for event in speculative(request, always(3))
        if isinstance(event, Verified)
    ]
    assert verified_at == [13], "3 guesses to a call, 4 steps to each of them"


def test_calls_are_filled_however_many_are_out() -> None:
    store = FakeStore(n_documents=1, seconds=0.02)
    request = make_request(store, max_tokens=200, end_bias=-9)
    events = speculative(request, always(2, "same", in_flight=8))
    sizes = [event.n_guesses for event in events if isinstance(event, Verified)]
    assert len(sizes) > 10
    assert set(sizes[:-1]) == {2}


def test_an_answer_that_stays_where_it_began_asks_the_store_once() -> None:
    class Still(AllDifferent):
        def _vector(self, text: str, batch: int) -> Any:
            return np.array([1, 1.3, 0.9], np.float32)

    for plan in (Plan("lookup", 1), Plan("lookup", 4), Plan("lookup", 2, 2)):
        store = Still(n_documents=30, metric="squared_l2", tells_max_norm=True)
        request = make_request(store, max_tokens=32, end_bias=-9, prefetch_k=12)
        events = list(speculative(request, follow(plan)))
        stats = request.session.stats
        assert store.searches == [1]
        assert stats.guesses == stats.right_guesses == stats.proven_guesses == 7
        assert stats.rounds == 0
        assert {type(event) for event in events} == {Asked, Found, Committed}


def test_a_proof_that_is_none_is_seen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionCache, "proves", lambda *_: True)
    are_equal = []
    for question in itertools.permutations((3, 4, 5)):
        slow, fast = (
            make_request(
                NearQueries(30, tells_max_norm=True), question=question, max_tokens=48
            )
            for _ in range(2)
        )
        told = story(fast, speculative(fast, always(3)))
        are_equal.append(told == story(slow, sequential(slow)))
    assert not all(are_equal)


def test_what_was_told_is_never_taken_back() -> None:
    request = make_request(FakeStore(n_documents=9), max_tokens=40, end_bias=-9)
    told: list[int] = []
    kinds = []
    for event in speculative(request, always(5)):
        kinds.append(type(event))
        if isinstance(event, Committed):
            told += event.tokens
        assert request.writer.transcript.tokens[: len(told)] == told
    assert RolledBack in kinds, "the example must contain a wrong guess"
    before = kinds[: kinds.index(Verified)]
    assert before == [Asked, Found, Committed, Asked], "told before it is verified"
