"""The headline: speculation changes nothing but the clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.engine import Sampler
from langchain_ralmspec.ralm import (
    Committed,
    Event,
    Finished,
    RolledBack,
    Verified,
    sequential,
    speculative,
)
from langchain_ralmspec.speculation import Estimates, Plan, StrideScheduler
from langchain_ralmspec.speculation.stride import SEQUENTIAL
from tests.unit_tests.fakes import FakeStore, always, follow, make_request


def story(events: Iterable[Event]) -> list[Any]:
    """What the caller sees: every token under its documents, and the end."""
    told: list[Any] = []
    for event in events:
        if isinstance(event, Committed):
            ids = tuple(hit.id for hit in event.hits)
            told += [(token, ids) for token in event.tokens]
            told.append(event.text)
        elif isinstance(event, Finished):
            told.append(event.reason)
    return told


stores = st.fixed_dictionaries(
    {
        "n_documents": st.integers(1, 12),
        "metric": st.sampled_from(["inner_product", "squared_l2", "cosine"]),
        "is_nested": st.booleans(),
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
samplers = st.builds(
    Sampler,
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    top_k=st.integers(0, 5),
    top_p=st.sampled_from([0.5, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 100),
)


@settings(max_examples=3000, deadline=None)
@given(stores, requests, samplers, plans)
def test_speculative_tells_the_sequential_story(
    store: dict[str, Any],
    request: dict[str, Any],
    sampler: Sampler,
    given_plans: list[Plan],
) -> None:
    slow = make_request(FakeStore(**store), **request, sampler=sampler)
    fast = make_request(FakeStore(**store), **request, sampler=sampler)

    assert story(speculative(fast, follow(*given_plans))) == story(sequential(slow))


@settings(max_examples=200, deadline=None)
@given(stores, requests, samplers, plans)
def test_and_does_so_whenever_the_answers_come(
    store: dict[str, Any],
    request: dict[str, Any],
    sampler: Sampler,
    given_plans: list[Plan],
) -> None:
    slow = make_request(FakeStore(**store), **request, sampler=sampler)
    dawdling = FakeStore(**store, seconds=0.002)
    fast = make_request(dawdling, **request, sampler=sampler)

    assert story(speculative(fast, follow(*given_plans))) == story(sequential(slow))


@settings(max_examples=200, deadline=None)
@given(stores, requests, st.booleans())
def test_whatever_the_scheduler_learns_the_story_is_the_same(
    store: dict[str, Any], request: dict[str, Any], asynchronous: bool
) -> None:
    estimates = Estimates()
    for _ in range(3):
        slow = make_request(FakeStore(**store), **request)
        fast = make_request(FakeStore(**store), **request)
        scheduler = StrideScheduler(estimates, asynchronous=asynchronous)
        assert story(speculative(fast, scheduler)) == story(sequential(slow))


@settings(max_examples=500, deadline=None)
@given(stores, requests, plans)
def test_counts_add_up(
    store: dict[str, Any], request: dict[str, Any], given_plans: list[Plan]
) -> None:
    built = make_request(FakeStore(**store), **request)

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
    assert stats.right_guesses == sum(e.n_right for e in verified)
    assert stats.right_guesses <= stats.guesses
    longest = max(plan.stride for plan in given_plans)
    assert all(1 <= e.n_guesses <= longest for e in verified)
    generated = [span for span in built.spans if span.kind == "generating"]
    n_committed = sum(isinstance(e, Committed) for e in events)
    assert sum(span.kept for span in generated) == n_committed
    assert len(generated) == stats.steps
    verifying = [span for span in built.spans if span.kind == "verifying"]
    assert all(span.start <= span.end for span in built.spans)
    # What a wrong guess had made useless may not even have started.
    assert sum(span.queries for span in verifying) >= stats.guesses + 1


def test_a_round_is_one_store_call_for_all_its_guesses() -> None:
    store = FakeStore(n_documents=1)  # every guess is right
    request = make_request(store, max_tokens=32, stride=4, end_bias=-9)

    list(speculative(request, always(3)))

    # 8 strides; the last ends the answer and needs no query: 7 guesses in 3 calls.
    assert store.searches == [1, 3, 3, 1]


def test_the_first_stride_of_a_round_is_told_before_its_verification() -> None:
    request = make_request(FakeStore(n_documents=4), max_tokens=32, end_bias=-9)

    kinds = [type(event) for event in speculative(request, always(3))]

    assert kinds[:2] == [Committed, Verified]


def test_what_was_told_is_never_taken_back() -> None:
    request = make_request(FakeStore(n_documents=9), max_tokens=40, end_bias=-9)
    told: list[int] = []
    rolled_back = 0
    for event in speculative(request, always(5)):
        if isinstance(event, Committed):
            told += event.tokens
        rolled_back += isinstance(event, RolledBack)
        assert request.writer.transcript.tokens[: len(told)] == told
    assert rolled_back, "the example must contain a wrong guess"
