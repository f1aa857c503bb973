"""One session's dealings with its store: guess from the cache, verify in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_ralmspec.errors import EmptyStoreError
from langchain_ralmspec.ralm.writer import ids_of
from langchain_ralmspec.speculation import Lookup, SessionCache, SpeculationStats
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.ties import is_near_tie

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.speculation import GuessPolicy
    from langchain_ralmspec.stores.base import Hit, Query, Store

Hits = tuple["Hit", ...]

_CAPACITY = 1024  # documents in a session's cache


class Session:
    """A store seen through a cache that no other session shares.

    Attributes:
        depth: documents per step; the whole ordered list must match.
        stats: where calls and seconds are counted.
    """

    def __init__(
        self,
        store: Store,
        policy: GuessPolicy | None = None,
        *,
        depth: int = 1,
        prefetch_k: int = 20,
        stats: SpeculationStats | None = None,
    ) -> None:
        """Start with an empty cache.

        Args:
            store: answers queries.
            policy: how documents are guessed; by look-up when None.
            depth: documents per step.
            prefetch_k: hits of every verified query that enter the cache.
            stats: counters to add to; fresh ones when None.
        """
        self.depth = depth
        self.stats = stats or SpeculationStats()
        self._store = store
        self._policy = policy or Lookup()
        self._prefetch_k = max(prefetch_k, depth)
        self._cache = SessionCache(store.metric, max(_CAPACITY, self._prefetch_k))
        self._hits: dict[str, Hit] = {}

    def encode(self, text: str) -> Query | None:
        """Embed one query now, if the guess is going to look at its vector."""
        if not self._policy.needs_vector:
            return None
        return self._encode([text])[0]

    def guess(self, query: Query | None, current: Hits) -> Hits:
        """Guess the documents for a query from what the session has seen."""
        vector = query.vector if query else None
        ids = self._policy.guess(self._cache, vector, ids_of(current))
        known = {hit.id: hit for hit in current}
        return tuple(known.get(i) or self._hits[i] for i in ids)

    def retrieve(self, text: str) -> Hits:
        """Ask the store for one query, as the sequential loop does.

        Raises:
            EmptyStoreError: the store found nothing.
            StoreError: the store or its encoder failed.
        """
        with self.stats.timing("waiting"):
            (query,) = self._encode([text])
        (hits,) = self._search([query], self._k(self.depth), with_vectors=False)
        return self._top(text, hits)

    def verify(
        self, texts: Sequence[str], queries: Sequence[Query | None]
    ) -> list[Hits]:
        """Ask the store for many queries in one call, and learn from the answer.

        Args:
            texts: the query texts.
            queries: what :meth:`encode` gave for each; where that was None, all are
                encoded here in one batch.

        Returns:
            For every query the documents that :meth:`retrieve` would give.

        Raises:
            EmptyStoreError: the store found nothing.
            StoreError: the store or its encoder failed.
        """
        ready = [query for query in queries if query is not None]
        if len(ready) < len(texts):
            with self.stats.timing("waiting"):
                ready = self._encode(texts)
        looks_up = self._policy.needs_vector
        # One more than the depth shows whether the last place is a near tie.
        k = self._width if looks_up else self._k(self.depth + 1)
        found = self._search(ready, k, with_vectors=looks_up)
        for hits in found:
            self._remember(hits[: self._prefetch_k])
        return [
            self._settled(query, hits) for query, hits in zip(ready, found, strict=True)
        ]

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
        with (
            self.stats.timing("embedding"),
            reported_as_store_error(type(self._store).__name__, "encode"),
        ):
            return self._store.encode(texts)

    def _search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        self.stats.store_calls += 1
        self.stats.queries += len(queries)
        with (
            self.stats.timing("searching", "waiting"),
            reported_as_store_error(type(self._store).__name__, "search"),
        ):
            return self._store.search(queries, k, with_vectors=with_vectors)

    def _remember(self, hits: Sequence[Hit]) -> None:
        # The best last, so that it is the last to be evicted.
        evicted = self._cache.add(
            (hit.id, hit.vector) for hit in reversed(hits) if hit.vector is not None
        )
        self._hits.update((hit.id, hit) for hit in hits if hit.id in self._cache)
        for document_id in evicted:
            if document_id not in self._cache:  # it may have come in again since
                self._hits.pop(document_id, None)

    def _settled(self, query: Query, hits: list[Hit]) -> Hits:
        """Top documents; a near tie is decided by the query embedded alone."""
        if query.batched and self._is_near_tie(query, hits):
            return self.retrieve(query.text)
        return self._top(query.text, hits)

    def _is_near_tie(self, query: Query, hits: list[Hit]) -> bool:
        scores = [hit.score for hit in hits]
        vector = query.vector
        norm = 1.0 if vector is None else float(vector @ vector) ** 0.5
        return is_near_tie(scores, self.depth, self._store.metric, norm)

    def _top(self, text: str, hits: Sequence[Hit]) -> Hits:
        if not hits:
            msg = (
                f"the store found no document for the query {text!r}; add documents "
                "to it, or loosen the filter"
            )
            raise EmptyStoreError(msg)
        return tuple(hits[: self.depth])
