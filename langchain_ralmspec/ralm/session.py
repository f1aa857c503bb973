"""One session's dealings with its store: guess from the cache, verify in batches."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial, reduce
from typing import TYPE_CHECKING, Literal

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.arguments import Live
from langchain_ralmspec.errors import (
    DimensionMismatchError,
    EmptyStoreError,
    StoreError,
    StoreTimeoutError,
)
from langchain_ralmspec.ralm.memory import Guess, LookUp, Memory
from langchain_ralmspec.ralm.queries import Queries
from langchain_ralmspec.speculation import NEEDS_VECTOR, REPLICA
from langchain_ralmspec.speculation.costs import Spent, spending
from langchain_ralmspec.stores import base as stores
from langchain_ralmspec.stores.asking import hits_of
from langchain_ralmspec.stores.base import Query, Ranked, as_array_store
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.ties import is_near_tie
from langchain_ralmspec.stores.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.documents import Document

    from langchain_ralmspec.ralm.hits import Hits
    from langchain_ralmspec.stores.base import MaxNorm, Store
    from langchain_ralmspec.stores.replica import Replica

OnEmpty = Literal["answer", "error"]


@dataclass(slots=True)
class Verification:
    """What the store said to the queries of one verification."""

    truth: list[Hits]  # for every query what the sequential loop would get
    found: list[Ranked]  # for every query all that was found, for the cache
    queries: list[Query]  # embedded
    n_calls: int  # to the store
    n_queries: int  # in these calls
    seconds: float  # of the verification, embedding included
    embedding: Spent  # of these, in the query encoder
    searching: Spent  # of these, in the store
    max_norm: MaxNorm | None = None  # as far as the session knew it when it asked

    def joined(self, other: Verification) -> Verification:
        """Both answers as one."""
        names = [each.name for each in fields(self) if each.name != "max_norm"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Verification(**sums, max_norm=self.max_norm)


def text_of(document: Document) -> str:
    """A document's text alone."""
    return document.page_content


class Session(Live):
    """A store seen through a cache that no other session shares.

    Only :meth:`asked` may be called from other threads.

    Attributes:
        depth: documents per step; the whole ordered list must match.
        fills_freely: whether the cache can be filled whether or not guesses need it.
        waiting: how long its store is waited for.
        stats: where calls and seconds are counted.
    """

    def __init__(
        self,
        store: Store,
        *,
        depth: int = 1,
        prefetch_k: int | None = None,
        stats: SpeculationStats | None = None,
        render: Callable[[Document], str] = text_of,
        on_empty: OnEmpty = "error",
        replica: Replica | None = None,
        store_timeout: float | None = None,
    ) -> None:
        """Start with an empty cache.

        ``prefetch_k`` hits of every verified query enter it; None takes 200 where more
        hits cost next to nothing, in exact local search, and 20 elsewhere; with 0
        nothing is ever guessed, and searches are no wider than ``depth``. ``render``
        gives a document's text as the model reads it. ``on_empty`` says whether it is
        an ``"error"`` that a query finds nothing, or an ``"answer"``.
        A ``replica`` may be asked for guesses. ``store_timeout`` is how many seconds a
        call of the store may take, its embedding included; None waits for ever.
        """
        self.depth = depth
        self.stats = stats or SpeculationStats()
        self._on_empty = on_empty
        self._replica = replica
        self._store = store
        self._queries = Queries(store)
        self.waiting = Waiting(store, store_timeout)
        is_near = not getattr(store, "is_remote", False)
        self._keeps_order = stores.keeps_order(store)
        is_cheap = is_near and self._keeps_order  # however many hits a search gives
        if prefetch_k is None:
            prefetch_k = 200 if is_cheap else 20
        if store.metric is None:  # there is no cache to be filled
            prefetch_k = 0
        self._prefetch_k = max(prefetch_k, depth) if prefetch_k else 0
        self.fills_freely = is_cheap and prefetch_k > 0
        self._arrays = as_array_store(store)
        self._memory = Memory(store, self._prefetch_k, render, replica)

    def usable(self, policies: Sequence[str]) -> tuple[str, ...]:
        """Guess policies that suit the store: no look-up where there are no vectors.

        A look-up asks a replica, too, where one is ready; it is brought up to date now.
        """
        if self._replica is not None and "lookup" in policies:
            self._replica.prepare()
        if self._replica is not None and self._replica.is_ready:
            policies = [REPLICA if each == "lookup" else each for each in policies]
        if self._store.metric is None:
            policies = [each for each in policies if each != "lookup"]
        return tuple(policies) or ("same",)

    def wait_for_replica(self) -> bool:
        """Have a replica built, wait for it, and tell whether there is one now."""
        if self._replica is None:
            return False
        self._replica.prepare()
        return self._replica.wait()

    def fills_cache(self, policies: Sequence[str]) -> bool:
        """Whether a guess by one of these policies looks into the cache."""
        has_vectors = self._store.metric is not None
        return has_vectors and any(NEEDS_VECTOR[policy] for policy in policies)

    def guess(self, policy: str, text: str, current: Hits | None) -> Guess:
        """Guess the documents for a query from what the session has seen.

        Or, with the policy ``"replica"``, from what a replica finds as well.
        Raises StoreError where the encoder fails.

        Args:
            policy: of guessing.
            text: the query.
            current: the documents under which it was written; None for the first query,
                for which nothing is guessed but by a replica.
        """
        with self.stats.timing("guessing"):
            query = Query(text)
            if self.fills_cache([policy]):  # whatever is made of it
                query, embedding = self.waiting.call(partial(self._embedded, text))
                self.stats.spend(embedding.seconds, "embedding")
                self.stats.spend(embedding.waiting, "embedding_idle")
            n = self.depth if current is None else len(current)
            guess = partial(self._memory.guess, policy, query, current or (), n)
            # Documents that are looked up are tested against the filter.
            return guess() if self._arrays is None else self.waiting.call(guess)

    def look_up(self, query: Query, current: Hits) -> LookUp | None:
        """What a look-up would guess for a query; None where it cannot tell."""
        return self._memory.look_up(query, current)

    def judged(self, guess: Guess, *, right: bool) -> None:
        """Tell the replica what became of a guess that only it could make."""
        if guess.is_new and self._replica is not None:
            self._replica.judged(right=right)

    def retrieve(self, text: str) -> Verification:
        """Ask the store for one query, as the sequential loop does; then count it.

        Raises EmptyStoreError as :meth:`require` does, StoreError where a store fails,
        StoreTimeoutError where it does not answer in time.
        """
        answer = self._asked_alone(text)
        self.count(answer)
        self.stats.spend(answer.seconds, "waiting")
        self.require(text, answer.truth[0])
        return answer

    def verify(
        self, queries: Sequence[Query], *, with_vectors: bool = True
    ) -> list[Hits]:
        """:meth:`ask`, wait and :meth:`learn`; raises as :meth:`retrieve` does.

        An EmptyStoreError wherever a query finds nothing: callers decide what then.
        """
        if len(queries) > 1:
            self.prepare()
        try:
            answer = self.ask(queries, with_vectors=with_vectors)
        except StoreTimeoutError:
            raise
        except StoreError:
            parts = (self.ask_one(q, with_vectors=with_vectors) for q in queries)
            answer = reduce(Verification.joined, parts)
        self.stats.spend(answer.seconds, "waiting")
        self.learn(answer)
        for query, hits in zip(queries, answer.truth, strict=True):
            if not hits:
                raise _empty(query.text)
        return answer.truth

    def ask(self, queries: Sequence[Query], *, with_vectors: bool) -> Verification:
        """Ask the store for many queries in one call, and wait; changes nothing here.

        Queries without a vector are encoded in one batch. The truth of a query are the
        documents that :meth:`retrieve` would give; none where nothing is found, which
        may be an error only if no guess before was wrong.

        Args:
            queries: one at least.
            with_vectors: whether the answer is to fill the cache.

        Raises:
            StoreError: the store or its encoder failed.
            StoreTimeoutError: they do not answer in time.
        """
        ask = partial(self.asked, queries, with_vectors=with_vectors)
        return self.waiting.call(ask)

    def ask_one(self, query: Query, *, with_vectors: bool) -> Verification:
        """:meth:`ask` for one query; where that fails, as :meth:`retrieve` does.

        A wider search may fail on what the sequential loop never comes to, such as a
        document far away that a filter fails on.
        """
        start = time.perf_counter()
        try:
            return self.ask([query], with_vectors=with_vectors)
        except (StoreError, DimensionMismatchError) as error:
            if isinstance(error, StoreTimeoutError) and not self.may_be_sooner(query):
                raise
            lost = time.perf_counter() - start
            answer = self._asked_alone(query.text)
            answer.seconds += lost
            return answer

    def may_be_sooner(self, query: Query) -> bool:
        """Whether a query that was late may be in time in a narrower search.

        Over the network, and where an encoder hangs, whoever asks once more waits as
        long once more.
        """
        is_embedded = query.vector is not None or self._queries.knows(query.text)
        return self.fills_freely and is_embedded

    def _asked_alone(self, text: str) -> Verification:
        return self.waiting.call(partial(self._ask_alone, text))

    def asked(self, queries: Sequence[Query], *, with_vectors: bool) -> Verification:
        """Do as :meth:`ask`, however long it takes."""
        start, max_norm = time.perf_counter(), self._memory.max_norm
        with spending() as embedding:
            missing = [query.text for query in queries if query.vector is None]
            encoded = iter(self._queries.together(missing))
            ready = [next(encoded) if q.vector is None else q for q in queries]
        # One more than the depth shows whether the last place is a near tie.
        k = self._width if with_vectors else self._k(self.depth + 1)
        with spending() as searching:
            found = self._search(ready, k, with_vectors=with_vectors)
        is_split = getattr(self._store, "one_call_a_query", False)
        n_calls = len(ready) if is_split else 1
        answer = Verification(
            [], found, ready, n_calls, len(ready), 0.0, embedding, searching, max_norm
        )
        for query, each in zip(ready, found, strict=True):
            answer.truth.append(self._settled(query, each, answer))
        answer.seconds = time.perf_counter() - start
        return answer

    def learn(self, answer: Verification) -> None:
        """Count an answer, and let what it found into the cache."""
        self.count(answer)
        if answer.max_norm is not self._memory.max_norm:
            return  # of a store that has changed since
        for query, found in zip(answer.queries, answer.found, strict=True):
            self._memory.remember(query, found)

    def prepare(self) -> None:
        """Tell a store that wants to know that calls of many queries are to come."""
        prepare = getattr(self._store, "prepare", None)
        if prepare is not None:
            with (
                reported_as_store_error(type(self._store).__name__, "prepare"),
                suppress(StoreTimeoutError),  # a search will tell
            ):
                self.waiting.call(prepare)

    def measure(self) -> bool:
        """Learn what it takes to prove guesses; tells whether any may be proven.

        What was seen of the store before it changed is forgotten.
        """
        max_norm = stores.of_its_search(self._store, "max_norm")
        if max_norm is None or not self._keeps_order:
            return False
        with reported_as_store_error(type(self._store).__name__, "max_norm"):
            try:
                known = self.waiting.call(max_norm)
            except StoreTimeoutError:  # a change holds it up; a search will tell
                return False
        if known is not self._memory.max_norm:
            self._memory.max_norm = known
            self._memory.forget()
        return known is not None

    def count(self, answer: Verification) -> None:
        """Count an answer's calls and seconds."""
        self.stats.store_calls += answer.n_calls
        self.stats.queries += answer.n_queries
        embedding = answer.embedding.seconds
        self.stats.spend(embedding, "embedding")
        self.stats.spend(answer.seconds - embedding, "searching")
        self.stats.spend(answer.embedding.waiting, "embedding_idle")
        self.stats.spend(answer.searching.waiting, "searching_idle")

    @property
    def reads_shared_memory(self) -> bool:
        """Whether a search reads memory that goes away when documents are added."""
        return getattr(self._store, "reads_shared_memory", False)

    @property
    def _width(self) -> int:
        return max(self._prefetch_k, self.depth + 1) if self._prefetch_k else self.depth

    def _k(self, wanted: int) -> int:
        """Hits to ask for when ``wanted`` are needed.

        Where a wider search may find other documents, every search of a session
        is as wide as the widest, in the sequential loop too.
        """
        return wanted if self._keeps_order else self._width

    def _search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool
    ) -> list[Ranked]:
        if self._arrays is None:
            found = hits_of(self._store, queries, k, with_vectors=with_vectors)
            return [Ranked.of(each) for each in found]
        with reported_as_store_error(type(self._store).__name__, "search"):
            return self._arrays.find(
                queries, k, depth=self.depth, with_vectors=with_vectors
            )

    def _embedded(self, text: str) -> tuple[Query, Spent]:
        with spending() as embedding:  # of the thread that it is called by
            query = self._queries.any(text)
        return query, embedding

    def _ask_alone(self, text: str) -> Verification:
        start = time.perf_counter()
        with spending() as embedding:
            queries = [self._queries.alone(text)]
        k = self._k(self.depth)
        with spending() as searching:
            found = self._search(queries, k, with_vectors=False)
        truth = [tuple(map(self._memory.read, found[0].hits[: self.depth]))]
        seconds = time.perf_counter() - start
        return Verification(truth, found, queries, 1, 1, seconds, embedding, searching)

    def _settled(self, query: Query, found: Ranked, answer: Verification) -> Hits:
        """Top documents; a near tie is decided by the query embedded alone."""
        hits = tuple(map(self._memory.read, found.hits[: self.depth]))
        if not query.batched:
            return hits
        vector, metric = query.vector, self._store.metric
        norm = 1.0 if vector is None else float(vector @ vector) ** 0.5
        if not is_near_tie(found.scores, self.depth, metric, norm):
            return hits
        alone = self._ask_alone(query.text)
        answer.n_calls += 1
        answer.n_queries += 1
        answer.embedding += alone.embedding
        answer.searching += alone.searching
        return alone.truth[0]

    def require(self, text: str, hits: Hits) -> None:
        """Where nothing found is an error, raise it: an EmptyStoreError.

        Else it is an answer like any other: the step is written without documents.
        """
        if not hits and self._on_empty == "error":
            raise _empty(text)


def _empty(text: str) -> EmptyStoreError:
    return EmptyStoreError(
        f"the store found no document for the query {text!r}: it has none, or none "
        "that passes the filter; on_empty='answer' answers without documents"
    )
