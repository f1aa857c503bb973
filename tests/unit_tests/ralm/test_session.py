from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from langchain_ralmspec import (
    ChatRaLMSpec,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    SpeculationStats,
)
from langchain_ralmspec.errors import EmptyStoreError
from langchain_ralmspec.ralm import Session, Verified, speculative
from langchain_ralmspec.ralm.flights import Flights
from langchain_ralmspec.ralm.hits import ids_of
from langchain_ralmspec.retrievers import RetrieverSession
from langchain_ralmspec.retrievers.session import documents_of_hits
from langchain_ralmspec.speculation import Plan
from langchain_ralmspec.stores.base import (
    Hit,
    MaxNorm,
    Query,
    Ranked,
    as_array_store,
)
from tests.unit_tests.fakes import FakeStore, always, follow, make_request, wrap

TEXTS = ["a", "b", "c", "d", "e", "f"]
LETTERS = [chr(ord("a") + n) for n in range(26)]


def embedded(store: FakeStore, texts: list[str]) -> list[Query]:
    return [query for text in texts for query in store.encode([text])]


def asking(*texts: str) -> list[Query]:
    """Queries that are not embedded yet."""
    return [Query(text) for text in texts]


def batches_of(store: FakeStore) -> list[int]:
    """How many texts are encoded in each call from now on."""
    batches: list[int] = []
    wrap(store, "encode", lambda texts: batches.append(len(texts)))
    return batches


def widths_of(store: FakeStore) -> list[int]:
    """How many hits are asked for in each search from now on."""
    widths: list[int] = []
    wrap(store, "search", lambda _, k: widths.append(k))
    return widths


def test_verify_gives_what_retrieve_gives() -> None:
    for seed in range(30):
        store = FakeStore(n_documents=9, seed=seed)
        one_by_one = [Session(store, depth=2).retrieve(text).truth[0] for text in TEXTS]
        batch = Session(store, depth=2).verify(asking(*TEXTS), with_vectors=False)
        assert [ids_of(hits) for hits in batch] == [ids_of(h) for h in one_by_one]


def test_same_document_encodes_all_queries_in_one_batch() -> None:
    store = FakeStore(n_documents=9)
    batches = batches_of(store)
    session = Session(store)
    (current,) = session.verify(asking("z"), with_vectors=False)
    batches.clear()
    guesses = [session.guess("same", text, current) for text in TEXTS]
    assert batches == []
    session.verify([guess.query for guess in guesses], with_vectors=False)
    assert batches[0] == len(TEXTS)
    assert set(batches[1:]) <= {1}, "only near ties are encoded again, alone"


def test_look_up_encodes_each_query_once() -> None:
    store = FakeStore(n_documents=9)
    batches = batches_of(store)
    session = Session(store)
    (current,) = session.verify(asking("z"))
    batches.clear()
    store.searches.clear()
    guesses = [session.guess("lookup", text, current) for text in TEXTS]
    session.verify([guess.query for guess in guesses])
    assert batches == [1] * len(TEXTS)
    assert store.searches == [len(TEXTS)]


def test_a_look_up_is_the_less_sure_the_farther_it_leads_away() -> None:
    session = Session(FakeStore(n_documents=40), prefetch_k=20)
    (current,) = session.verify(asking("a"))
    margins: dict[str, float] = {}
    for text in TEXTS:
        guess = session.guess("lookup", text, current)
        assert guess.margin is not None
        margins[text] = guess.margin
        assert not guess.is_unsure(None)
        assert not guess.is_unsure(guess.margin)
        assert guess.is_unsure(guess.margin + 0.01)
    assert max(margins, key=margins.__getitem__) == "a"
    assert session.guess("same", "b", current).margin is None
    assert not session.guess("same", "b", current).is_unsure(9.0)


@pytest.mark.parametrize("metric", ["inner_product", "squared_l2", "cosine"])
def test_a_guess_is_proven_where_an_exact_store_leaves_no_other(metric: Any) -> None:
    def proven(*, depth: int = 1, **told: Any) -> list[str]:
        store = FakeStore(40, metric, seed=1, jitter=0.2, **told)
        session = Session(store, depth=depth, prefetch_k=20)
        session.measure()
        session.verify(asking("a"))
        current = session.retrieve("a").truth[0]
        guesses = [session.guess("lookup", text, current) for text in LETTERS]
        sure = [guess for guess in guesses if guess.is_proven]
        for guess in sure:
            (truth,) = session.retrieve(guess.query.text).truth
            assert ids_of(guess.hits) == ids_of(truth)
        assert not session.guess("same", "a", current).is_proven
        return [guess.query.text for guess in sure]

    assert 0 < len(proven(tells_max_norm=True)) < len(LETTERS)
    assert 0 < len(proven(tells_max_norm=True, depth=3)) < len(LETTERS)
    assert not proven(), "how long vectors are is not known"
    assert not proven(tells_max_norm=True, top_k_is_stable=False), "it is not exact"


@pytest.mark.parametrize(
    ("is_remote", "is_stable", "n_hits"),
    [(False, True, 200), (False, False, 20), (True, True, 20), (True, False, 20)],
)
def test_fewer_hits_are_asked_for_where_they_come_from_afar(
    is_remote: bool, is_stable: bool, n_hits: int
) -> None:
    store = FakeStore(300, top_k_is_stable=is_stable)
    vars(store)["is_remote"] = is_remote
    (found,) = Session(store).ask(asking("a"), with_vectors=True).found
    assert len(found.ids) == n_hits


def test_what_was_seen_before_the_store_changed_is_forgotten() -> None:
    store = FakeStore(40, "squared_l2", seed=1, tells_max_norm=True)
    session = Session(store, prefetch_k=20)

    def n_proven() -> int:
        current = session.retrieve("a").truth[0]
        return sum(session.guess("lookup", t, current).is_proven for t in LETTERS)

    session.verify(asking("a"))
    assert not n_proven(), "nothing was measured"
    session.measure()
    assert not n_proven(), "it was seen before"
    session.verify(asking("a"))
    assert n_proven()
    session.measure()
    assert n_proven(), "nothing has changed"
    late = session.ask(asking("b"), with_vectors=True)
    store._max_norm = MaxNorm(store._max_norm.longest)
    session.measure()
    assert not n_proven()
    session.learn(late)
    assert not n_proven(), "that was asked before, too"
    current = session.retrieve("a").truth[0]
    assert session.guess("lookup", "b", current).policy == "same", "nothing is cached"


def test_only_what_enters_the_cache_covers_anything() -> None:
    session = Session(FakeStore(n_documents=40), prefetch_k=20)
    (current,) = session.verify(asking("a"))
    margin = session.guess("lookup", "b", current).margin
    session.verify(asking("b"), with_vectors=False)
    assert session.guess("lookup", "b", current).margin == margin
    session.verify(asking("b"))
    assert None not in (margin, session.guess("lookup", "b", current).margin)
    assert session.guess("lookup", "b", current).margin != margin


@pytest.mark.parametrize("in_flight", [0, 2])
def test_a_call_leaves_at_an_unsure_guess(in_flight: int) -> None:
    def sizes(trusted: float | None) -> list[int]:
        request = make_request(FakeStore(n_documents=40), max_tokens=40, end_bias=-9)
        plan = Plan("lookup", 6, in_flight, trusted)
        events = list(speculative(request, follow(plan)))
        return [event.n_guesses for event in events if isinstance(event, Verified)]

    assert max(sizes(None)) > 1
    assert set(sizes(1e9)) == {1}, "all are unsure"
    assert sizes(-1e9) == sizes(None), "none is"


def test_look_up_finds_what_was_verified_without_the_store() -> None:
    store = FakeStore(n_documents=9)
    session = Session(store, prefetch_k=1)
    truth = session.verify(embedded(store, TEXTS))
    calls = len(store.searches)
    for text, hits in zip(TEXTS, truth, strict=True):
        guess = session.guess("lookup", text, truth[0])
        assert ids_of(guess.hits) == ids_of(hits)
    assert len(store.searches) == calls


def test_look_up_stays_where_the_cache_does_not_know_the_current_document() -> None:
    store = FakeStore(n_documents=9)
    session = Session(store, prefetch_k=9)
    session.verify(asking("b"), with_vectors=True)
    for text in TEXTS:
        (current,) = Session(store).verify(asking(text), with_vectors=False)
        stranger = tuple(Hit(f"{h.id}-new", h.document, h.score) for h in current)
        assert session.guess("lookup", text, stranger).hits == stranger


def test_callers_go_on_from_their_first_wrong_guess() -> None:
    store = FakeStore(n_documents=9)
    found = {text: Session(store).retrieve(text).truth[0] for text in TEXTS}
    first, *others = TEXTS
    here = ids_of(found[first])
    others.sort(key=lambda text: ids_of(found[text]) != here)  # right ones first
    wrong = next(text for text in others if ids_of(found[text]) != here)
    assert ids_of(found[others[-1]]) != ids_of(found[wrong]), "or it shows nothing"
    for policy in ("lookup", "same"):
        session = RetrieverSession(Session(store), policy)
        assert session.speculate(first) == [], "nothing is known yet"
    session.verify([first])
    for text in others:
        session.speculate(text)
    session.verify(others)
    assert session.speculate(first) == documents_of_hits(found[wrong])
    session.verify(others)  # nothing was guessed of these
    assert session.speculate(first) == documents_of_hits(found[others[-1]])


def test_look_up_embeds_alone_even_where_it_stays() -> None:
    session = Session(FakeStore(n_documents=9), prefetch_k=1)
    (current,) = session.retrieve("a").truth  # which the cache does not learn of
    guess = session.guess("lookup", "b", current)
    assert (guess.policy, guess.hits, guess.margin) == ("same", current, None)
    assert guess.query.vector is not None
    assert not guess.query.batched


def test_two_sessions_share_nothing() -> None:
    store = FakeStore(n_documents=9)
    one, other = Session(store, prefetch_k=1), Session(store, prefetch_k=1)
    (hits,) = one.verify(asking("a"))
    (far,) = other.verify(asking("b"))
    assert hits != far, "the example must tell them apart"
    assert hits[0].id in one._memory.cache
    assert hits[0].id not in other._memory.cache
    assert far[0].id not in one._memory.cache
    assert other.guess("lookup", "a", far).hits == far


def test_asking_changes_nothing_until_it_is_learnt() -> None:
    session = Session(FakeStore(n_documents=9))
    answer = session.ask(asking(*TEXTS), with_vectors=True)
    assert session.stats.store_calls == len(session._memory.cache) == 0
    session.learn(answer)
    assert session.stats.store_calls == answer.n_calls >= 1
    assert len(session._memory.cache) > 0


@pytest.mark.parametrize("is_stable", [True, False])
def test_both_loops_search_alike_where_the_width_matters(is_stable: bool) -> None:
    store = FakeStore(n_documents=40, top_k_is_stable=is_stable)
    widths = widths_of(store)
    Session(store, prefetch_k=20).verify(asking("a", "b"), with_vectors=False)
    Session(store, prefetch_k=20).retrieve("a")
    if is_stable:
        assert widths[-1] == 1, "the sequential loop asks for no more than it needs"
    else:
        assert set(widths) == {20}


@pytest.mark.parametrize(("is_stable", "width"), [(True, 200), (False, 20)])
def test_the_width_depends_on_the_store_unless_it_is_given(
    is_stable: bool, width: int
) -> None:
    store = FakeStore(n_documents=120, top_k_is_stable=is_stable)
    widths = widths_of(store)
    retriever = RaLMSpecRetriever(vectorstore=store)
    Session(store).verify(asking("a"))
    retriever.session().verify(["a"])
    retriever.new_session(k=1).verify(asking("a"))
    Session(store, prefetch_k=7).verify(asking("a"))
    retriever.session(prefetch_k=7).verify(["a"])
    Session(store, depth=width + 1).verify(asking("a"))
    assert widths == [width] * 3 + [7, 7, width + 2]
    for face in (RaLMSpecLLM, ChatRaLMSpec):  # which leave it to the store
        assert face(model_path="m.gguf", retriever=retriever).prefetch_k is None


def test_an_empty_store_is_an_error_that_quotes_the_query() -> None:
    session = Session(FakeStore(n_documents=0))
    with pytest.raises(EmptyStoreError, match="'who'"):
        session.retrieve("who")
    with pytest.raises(EmptyStoreError, match="'who'"):
        session.verify(asking("who"))


def test_the_cache_forgets_the_worst_first_and_the_hits_with_it() -> None:
    store = FakeStore(n_documents=9)
    session = Session(store, prefetch_k=9)
    session._memory.cache._capacity = 2
    session.verify(embedded(store, TEXTS))
    assert len(session._memory.cache) == len(session._memory.hits) == 2
    session = Session(store, prefetch_k=9)
    session._memory.cache._capacity = 3
    (hits,) = session.verify(asking("a"))
    assert ids_of(session.guess("lookup", "a", hits).hits) == ids_of(hits)


class ArrayStore(FakeStore):
    """Gives arrays, as FAISS does; they are told from hits by their scores."""

    def find(
        self, queries: Sequence[Query], k: int, *, depth: int, with_vectors: bool
    ) -> list[Ranked]:
        found = super().search(queries, k, with_vectors=with_vectors)
        return [Ranked([Hit(h.id, h.document, 7.0) for h in hits]) for hits in found]

    def document(self, id_: str) -> Any:
        raise AssertionError


class Reordering(ArrayStore):
    """Has a search of its own, and inherits what gives arrays."""

    def search(self, *args: Any, **kwargs: Any) -> list[list[Hit]]:
        return [hits[::-1] for hits in super().search(*args, **kwargs)]


class ReorderingArrays(Reordering):
    """Has a search of its own, and arrays to match."""

    def find(self, *args: Any, **kwargs: Any) -> list[Ranked]:
        return super().find(*args, **kwargs)


def test_arrays_are_asked_for_where_they_are_what_a_search_gives() -> None:
    patched, both = ArrayStore(9), ArrayStore(9)
    patched.search = FakeStore(9).search  # type: ignore[method-assign]
    both.search, both.find = FakeStore(9).search, ArrayStore(9).find  # type: ignore[method-assign]
    lacking: Any = type("Finds", (FakeStore,), {"find": ArrayStore.find})(9)
    for store, has_arrays in (
        *((FakeStore(9), False), (ArrayStore(9), True), (Reordering(9), False)),
        *((ReorderingArrays(9), True), (patched, False), (both, True)),
        (lacking, False),
    ):
        assert as_array_store(store) is (store if has_arrays else None)
        ((hit,),) = Session(store).retrieve("a").truth
        assert (hit.score == 7) == has_arrays


class Narrow(FakeStore):
    """Fails where a search is wide, after a while."""

    clock = 0.0
    top_k_is_stable = True

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        self.clock += 1.0
        if k > 1:
            self.clock += 9.0
            raise ConnectionError
        return super().search(queries, k, with_vectors=with_vectors)


def test_what_fails_in_a_wide_search_is_asked_narrowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Narrow(9)
    monkeypatch.setattr(time, "perf_counter", lambda: store.clock)
    session = Session(store, prefetch_k=4)
    truth = Session(FakeStore(9)).verify(asking("a", "b"))
    assert list(map(ids_of, session.verify(asking("a", "b")))) == [*map(ids_of, truth)]
    store.clock = 0.0
    assert session.ask_one(Query("a"), with_vectors=True).seconds == 11.0, "all of it"
    with Flights(session) as flights:
        guess = session.guess("same", "a", truth[1])
        flights.send([guess, guess], Plan("same", 2), with_vectors=True)
        answer = flights.land().future.result()
    # The call itself, and one or two queries alone, each first widely.
    assert answer.seconds == 10.0 + 11.0 * len(answer.truth)


def test_positional_counts_begin_with_the_steps() -> None:
    stats = SpeculationStats(5, 4, 3)
    assert (stats.steps, stats.guesses, stats.right_guesses) == (5, 4, 3)


def test_a_store_need_not_know_how_to_prepare() -> None:
    class Minimal:
        """What ``open_store`` asks of a store of somebody else's, and no more."""

        metric, dimension, top_k_is_stable = "inner_product", 4, True

        def __init__(self) -> None:
            inner = FakeStore(n_documents=4)
            self.encode, self.search = inner.encode, inner.search
            self.count = inner.count

    minimal: Any = Minimal()
    request = make_request(minimal, max_tokens=30, end_bias=-9)
    assert list(speculative(request, always(3)))
    # Loops of somebody else's prepare with their first batch.
    store = FakeStore(n_documents=4)
    session = Session(store)
    session.verify(asking("a"))
    assert not store.prepared
    session.verify(asking("b", "c"))
    assert store.prepared == [1]
