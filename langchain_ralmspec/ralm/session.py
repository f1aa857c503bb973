"""One session's dealings with its store: guess from the cache, verify in batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.errors import EmptyStoreError
from langchain_ralmspec.ralm.writer import ids_of
from langchain_ralmspec.speculation import GUESS_POLICIES, session_cache
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.ties import is_near_tie

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from langchain_ralmspec.stores.base import Extent, Hit, Query, Store

Hits = tuple["Hit", ...]

_CAPACITY = 2048  # documents in a session's cache


@dataclass(frozen=True, slots=True)
class Guess:
    """What a query is thought to find.

    Attributes:
        text: the query.
        policy: by which it was made.
        query: the query, embedded, when the guess needed that.
        hits: the documents guessed.
        current: the documents that the query was written under.
        margin: how far the cache can vouch for the guess
            (:meth:`SessionCache.margin`); None where it cannot tell.
        is_proven: whether the store is bound to give these documents
            (:meth:`SessionCache.proves`).
    """

    text: str
    policy: str
    query: Query | None
    hits: Hits
    current: Hits
    margin: float | None = None
    is_proven: bool = False

    def is_unsure(self, trusted: float | None) -> bool:
        """Whether its margin is less than one that is trusted."""
        if self.margin is None or trusted is None:
            return False
        return self.margin < trusted


@dataclass(slots=True)
class Verification:
    """What the store said to the queries of one verification.

    Attributes:
        truth: for every query the documents that the sequential loop would get.
        found: all that was found for it, for the cache.
        queries: the queries, embedded.
        n_calls: store calls made.
        n_queries: queries sent in those.
        seconds: of all of it, embedding included.
        embedding: seconds of it in the query encoder.
        waiting: seconds of it in which the searching thread had nothing to do.
        extent: of the store, as far as the session knew it when it asked.
    """

    truth: list[Hits]
    found: list[list[Hit]]
    queries: Sequence[Query]
    n_calls: int = 0
    n_queries: int = 0
    seconds: float = 0.0
    embedding: float = 0.0
    waiting: float = 0.0
    extent: Extent | None = None

    def joined(self, other: Verification) -> Verification:
        """Both answers as one."""
        return Verification(
            self.truth + other.truth,
            self.found + other.found,
            [*self.queries, *other.queries],
            self.n_calls + other.n_calls,
            self.n_queries + other.n_queries,
            self.seconds + other.seconds,
            self.embedding + other.embedding,
            self.waiting + other.waiting,
            self.extent,
        )


class Session:
    """A store seen through a cache that no other session shares.

    Only :meth:`ask` may be called from other threads.

    Attributes:
        depth: documents per step; the whole ordered list must match.
        stats: where calls and seconds are counted.
    """

    def __init__(
        self,
        store: Store,
        *,
        depth: int = 1,
        prefetch_k: int | None = None,
        stats: SpeculationStats | None = None,
    ) -> None:
        """Start with an empty cache.

        Args:
            store: answers queries.
            depth: documents per step.
            prefetch_k: hits of every verified query that enter the cache; None takes
                200 where more hits cost next to nothing, in exact local search, and
                20 elsewhere.
            stats: counters to add to; fresh ones when None.
        """
        self.depth = depth
        self.stats = stats or SpeculationStats()
        self._store = store
        if prefetch_k is None:
            prefetch_k = 200 if store.is_nested else 20
        self._prefetch_k = max(prefetch_k, depth)
        self._extent: Extent | None = None
        self._forget()

    def guess(self, policy: str, text: str, current: Hits) -> Guess:
        """Guess the documents for a query from what the session has seen.

        Where the cache does not know the current documents it was not filled lately
        (another policy was followed): then these are the better guess.

        Args:
            policy: a name in ``GUESS_POLICIES``.
            text: the query.
            current: the documents that the query was written under.

        Raises:
            StoreError: the encoder failed.
        """
        needs_vector = GUESS_POLICIES[policy].needs_vector
        if any(hit.id not in self._cache for hit in current):
            policy = "same"
        with self.stats.timing("guessing"):
            query = None
            if needs_vector:  # alone, whatever is made of it, as the other loop does
                with self.stats.timing("embedding"):
                    (query,) = self._encode([text])
            vector = query.vector if query else None
            rule = GUESS_POLICIES[policy]()
            ids = rule.guess(self._cache, vector, ids_of(current))
            margin, is_proven = None, False
            if vector is not None and ids and policy != "same":
                margin = self._cache.margin(vector, ids[-1])
                if self._extent:
                    is_proven = self._cache.proves(vector, ids, self._extent.longest)
        known = {hit.id: hit for hit in current}
        hits = tuple(known.get(i) or self._hits[i] for i in ids)
        return Guess(text, policy, query, hits, current, margin, is_proven)

    def retrieve(self, text: str) -> Verification:
        """Ask the store for one query, as the sequential loop does.

        Raises:
            EmptyStoreError: the store found nothing.
            StoreError: the store or its encoder failed.
        """
        answer = self._ask_alone(text)
        self.count(answer)
        self.stats.spend(answer.seconds, "waiting")
        self.require(text, answer.truth[0])
        return answer

    def verify(
        self,
        texts: Sequence[str],
        queries: Sequence[Query | None],
        *,
        with_vectors: bool = True,
    ) -> list[Hits]:
        """:meth:`ask`, wait and :meth:`learn`.

        Raises:
            EmptyStoreError: the store found nothing for one of the queries.
            StoreError: the store or its encoder failed.
        """
        if len(texts) > 1:
            self.prepare()
        answer = self.ask(texts, queries, with_vectors=with_vectors)
        self.stats.spend(answer.seconds, "waiting")
        self.learn(answer)
        for text, hits in zip(texts, answer.truth, strict=True):
            self.require(text, hits)
        return answer.truth

    def ask(
        self,
        texts: Sequence[str],
        queries: Sequence[Query | None],
        *,
        with_vectors: bool,
    ) -> Verification:
        """Ask the store for many queries in one call; changes nothing here.

        Args:
            texts: the query texts.
            queries: them embedded; those that are None are encoded here, in one
                batch.
            with_vectors: whether the answer is to fill the cache.

        Returns:
            For every query the documents that :meth:`retrieve` would give; none
            where it would raise EmptyStoreError, since a query that was written on
            a wrong guess is nobody's business.

        Raises:
            StoreError: the store or its encoder failed.
        """
        start, extent = time.perf_counter(), self._extent
        missing = [text for text, q in zip(texts, queries, strict=True) if q is None]
        encoded = iter(self._encode(missing) if missing else ())
        ready = [query or next(encoded) for query in queries]
        embedding = time.perf_counter() - start
        # One more than the depth shows whether the last place is a near tie.
        k = self._width if with_vectors else self._k(self.depth + 1)
        found, waiting = self._search(ready, k, with_vectors=with_vectors)
        answer = Verification(
            [], found, ready, n_calls=1, n_queries=len(ready), embedding=embedding
        )
        for query, hits in zip(ready, found, strict=True):
            answer.truth.append(self._settled(query, hits, answer))
        answer.seconds = time.perf_counter() - start
        answer.waiting, answer.extent = waiting, extent
        return answer

    def learn(self, answer: Verification) -> None:
        """Count an answer, and let what it found into the cache."""
        self.count(answer)
        if answer.extent is not self._extent:  # of a store that has changed since
            return
        for query, hits in zip(answer.queries, answer.found, strict=True):
            self._remember(query, hits[: self._prefetch_k])

    def prepare(self) -> None:
        """Tell a store that wants to know that calls of many queries are to come.

        Raises:
            StoreError: it failed.
        """
        prepare = getattr(self._store, "prepare", None)
        if prepare is not None:
            with reported_as_store_error(type(self._store).__name__, "prepare"):
                prepare()

    def measure(self) -> None:
        """Learn what it takes to prove guesses, where the store is an exact one.

        What was seen of it before it changed is forgotten.

        Raises:
            StoreError: it failed.
        """
        extent = getattr(self._store, "extent", None)
        if extent is None or not self._store.is_nested:
            return
        with reported_as_store_error(type(self._store).__name__, "extent"):
            known = extent()
        if known is not self._extent:
            self._extent = known
            self._forget()

    def _forget(self) -> None:
        """Start with an empty cache."""
        capacity = max(_CAPACITY, self._prefetch_k)
        self._cache = session_cache(self._store.metric, capacity)
        self._hits: dict[str, Hit] = {}

    @property
    def can_prove(self) -> bool:
        """Whether guesses may be proven."""
        return self._extent is not None

    def count(self, answer: Verification) -> None:
        """Count an answer's calls and seconds."""
        self.stats.store_calls += answer.n_calls
        self.stats.queries += answer.n_queries
        self.stats.spend(answer.embedding, "embedding")
        self.stats.spend(answer.seconds - answer.embedding, "searching")

    @property
    def reads_shared_memory(self) -> bool:
        """Whether a search reads memory that goes away when documents are added."""
        return getattr(self._store, "reads_shared_memory", False)

    @property
    def _width(self) -> int:
        return max(self._prefetch_k, self.depth + 1)

    def _k(self, wanted: int) -> int:
        """Hits to ask for when ``wanted`` are needed.

        Where a wider search may find other documents, every search of a session
        is as wide as the widest, in the sequential loop too.
        """
        return wanted if self._store.is_nested else self._width

    def _encode(self, texts: Sequence[str]) -> list[Query]:
        with reported_as_store_error(type(self._store).__name__, "encode"):
            return self._store.encode(texts)

    def _search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool
    ) -> tuple[list[list[Hit]], float]:
        """Search; also tells for how many seconds this thread only waited."""
        start, busy = time.perf_counter(), time.thread_time()
        with reported_as_store_error(type(self._store).__name__, "search"):
            found = self._store.search(queries, k, with_vectors=with_vectors)
        seconds, computing = time.perf_counter() - start, time.thread_time() - busy
        return found, max(0.0, seconds - computing)

    def _ask_alone(self, text: str) -> Verification:
        start = time.perf_counter()
        (query,) = self._encode([text])
        embedding = time.perf_counter() - start
        k = self._k(self.depth)
        found, waiting = self._search([query], k, with_vectors=False)
        (hits,) = found
        return Verification(
            [tuple(hits[: self.depth])],
            found,
            [query],
            n_calls=1,
            n_queries=1,
            seconds=time.perf_counter() - start,
            embedding=embedding,
            waiting=waiting,
        )

    def _remember(self, query: Query, hits: Sequence[Hit]) -> None:
        # The best last, so that it is the last to be evicted.
        evicted = self._cache.add(
            (hit.id, hit.vector) for hit in reversed(hits) if hit.vector is not None
        )
        self._hits.update((hit.id, hit) for hit in hits if hit.id in self._cache)
        for document_id in evicted:
            if document_id not in self._cache:  # it may have come in again since
                self._hits.pop(document_id, None)
        entered = bool(hits) and hits[-1].vector is not None
        if query.vector is not None and entered and hits[-1].id in self._cache:
            self._cache.cover(query.vector, hits[-1].id)

    def _settled(self, query: Query, hits: list[Hit], answer: Verification) -> Hits:
        """Top documents; a near tie is decided by the query embedded alone."""
        if not (query.batched and self._is_near_tie(query, hits)):
            return tuple(hits[: self.depth])
        alone = self._ask_alone(query.text)
        answer.n_calls += 1
        answer.n_queries += 1
        answer.embedding += alone.embedding
        return alone.truth[0]

    def _is_near_tie(self, query: Query, hits: list[Hit]) -> bool:
        scores = [hit.score for hit in hits]
        vector: np.ndarray | None = query.vector  # type: ignore[assignment]  # batched
        norm = 1.0 if vector is None else float(vector @ vector) ** 0.5
        return is_near_tie(scores, self.depth, self._store.metric, norm)

    def require(self, text: str, hits: Hits) -> None:
        """Refuse to go on without documents.

        Raises:
            EmptyStoreError: the store found nothing.
        """
        if not hits:
            msg = (
                f"the store found no document for the query {text!r}; add documents "
                "to it, or loosen the filter"
            )
            raise EmptyStoreError(msg)
