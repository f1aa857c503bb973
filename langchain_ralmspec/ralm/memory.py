"""What a session remembers of its store's answers, and guesses from that."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langchain_ralmspec.errors import StoreError
from langchain_ralmspec.ralm.hits import Hits, ids_of, keys_of
from langchain_ralmspec.speculation import GUESS_POLICIES, REPLICA, SessionCache
from langchain_ralmspec.stores.base import Hit, Query, Ranked, as_array_store
from langchain_ralmspec.stores.documents import checked_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.documents import Document

    from langchain_ralmspec.stores.base import MaxNorm, Store
    from langchain_ralmspec.stores.replica import Replica

LookUp = tuple[tuple[str, ...], float]
"""Ids of the nearest documents in the cache, and how well it covers them."""

_CAPACITY = 2048  # documents in a session's cache
# Hits of a replica beyond those wanted, as it ranks by rounded vectors, and may know
# documents that were deleted.
_SPARE = 8


@dataclass(frozen=True, slots=True)
class Guess:
    """What a query is thought to find."""

    policy: str  # name of the guess policy that made it
    query: Query  # embedded when the policy needs that
    hits: Hits
    current: Hits  # the documents that the query was written under; none for the first
    margin: float | None = None  # of the cache; None where it cannot tell
    is_proven: bool = False  # whether the store is bound to give these documents
    is_new: bool = False  # whether a replica alone knows of one of the documents

    def is_right(self, truth: Hits) -> bool:
        """Whether the model cannot tell its documents from those that are found."""
        return keys_of(self.hits) == keys_of(truth)

    def is_unsure(self, trusted: float | None) -> bool:
        """Whether its margin is less than one that is trusted."""
        if self.margin is None or trusted is None:
            return False
        return self.margin < trusted


class Memory:
    """The documents that a session has seen, and a replica that it may ask beside.

    Attributes:
        cache: vectors of documents.
        hits: the documents, where the store cannot give one by its id.
        max_norm: what it takes to prove guesses; None where none can be.
    """

    def __init__(
        self,
        store: Store,
        prefetch_k: int,
        render: Callable[[Document], str],
        replica: Replica | None,
    ) -> None:
        """Start empty; ``prefetch_k`` hits of an answered query are remembered."""
        self.max_norm: MaxNorm | None = None
        self._metric, self._prefetch_k = store.metric, prefetch_k
        self._arrays = as_array_store(store)
        self._render, self._replica = render, replica
        self.forget()

    def forget(self) -> None:
        """Start anew."""
        capacity = max(_CAPACITY, self._prefetch_k)
        self.cache = SessionCache(self._metric, capacity)
        self.hits: dict[str, Hit] = {}

    def remember(self, query: Query, found: Ranked) -> None:
        """Take in what the store found for a query."""
        # A filter, or a search that misses rows, may leave nothing to remember.
        if found.vectors is not None and len(found.vectors):
            vectors = found.vectors[: self._prefetch_k]
            ids = found.ids[: len(vectors)]
            for evicted in self.cache.add(ids, vectors):
                self.hits.pop(evicted, None)
            if query.vector is not None and ids[-1] in self.cache:
                self.cache.add_ball(query.vector, ids[-1])
        if self._arrays is None:
            hits = ((hit.id, hit) for hit in found.hits if hit.id in self.cache)
            self.hits.update(hits)

    def read(self, hit: Hit) -> Hit:
        """The hit as it is now, whatever the store does to its document later."""
        document = checked_document(hit.document)
        metadata = dict(document.metadata or {})
        document = document.model_copy(update={"metadata": metadata})
        text = None
        with suppress(Exception):  # raised again if the model is to read it
            text = self._render(document)
        return replace(hit, document=document, text=text)

    def guess(self, policy: str, query: Query, current: Hits, n: int) -> Guess:
        """Guess ``n`` documents for a query that was written under ``current`` ones.

        Where the cache does not know these, it was not filled lately (another policy
        was followed): then they are the better guess, unless a replica has one.
        """
        near = self._near(query, n) if policy == REPLICA and n else Ranked()
        is_filled = self._is_filled(current)
        ids: tuple[str, ...] = ()  # nothing is guessed only where nothing was found
        if n and (near.ids or is_filled):
            ids = self._best(policy, query, ids_of(current), near, n)
        if not ids:
            policy, ids = "same", ids_of(current)
        try:
            hits = self._hits_of(ids, current, near, policy)
        except StoreError:  # it was deleted since
            policy, ids, hits = "same", ids_of(current), current
        is_known = all(id_ in self.cache for id_ in ids)
        margin, is_proven = None, False
        if query.vector is not None and ids and is_known and policy != "same":
            if policy != REPLICA:  # which is asked where the cache is unsure, too
                margin = self.cache.margin(query.vector, ids[-1])
            # A proof takes the vector that the other loop makes, to the bit, and the
            # nearest documents: a replica may have its own order.
            if self.max_norm and not query.batched:
                is_top = policy != REPLICA or ids == self.cache.top(query.vector, n)
                longest = self.max_norm.longest
                is_proven = is_top and self.cache.proves(query.vector, ids, longest)
        is_new = policy == REPLICA and not is_known
        return Guess(policy, query, hits, current, margin, is_proven, is_new)

    def look_up(self, query: Query, current: Hits) -> LookUp | None:
        """What a look-up would guess; None where the cache was not filled lately."""
        if query.vector is None or not (current and self._is_filled(current)):
            return None
        ids = self.cache.top(query.vector, len(current))
        margin = self.cache.margin(query.vector, ids[-1]) if ids else None
        return None if margin is None else (ids, margin)

    def _is_filled(self, current: Hits) -> bool:
        """Whether the cache knows the documents of now."""
        return all(hit.id in self.cache for hit in current)

    def _near(self, query: Query, n: int) -> Ranked:
        """What the replica finds; of documents that the store has, if it can tell."""
        assert self._replica is not None  # noqa: S101  the policy is only usable then
        found = self._replica.near(query, n + _SPARE)
        vectors = found.vectors if query.vector is not None else None
        ids = found.ids if vectors is None else found.ids[: len(vectors)]
        there = [place for place, id_ in enumerate(ids) if self._has(id_)]
        vectors = None if vectors is None else vectors[there]
        return Ranked(found.hits, [ids[place] for place in there], vectors=vectors)

    def _has(self, id_: str) -> bool:
        """Whether the store has a document, as far as it can be told."""
        with suppress(StoreError):
            return self._arrays is None or bool(self._arrays.document(id_))
        return False

    def _best(
        self,
        policy: str,
        query: Query,
        current: tuple[str, ...],
        near: Ranked,
        n: int,
    ) -> tuple[str, ...]:
        """The ids that a policy guesses."""
        if policy != REPLICA:
            return GUESS_POLICIES[policy](self.cache, query.vector, current)
        if query.vector is None or (near.ids and near.vectors is None):
            return tuple(near.ids[:n])  # there is nothing to compare them by
        vectors = () if near.vectors is None else near.vectors
        return self.cache.top(
            query.vector, n, dict(zip(near.ids, vectors, strict=True))
        )

    def _hits_of(
        self, ids: tuple[str, ...], current: Hits, near: Ranked, policy: str
    ) -> Hits:
        """The documents with these ids, as who is most to be believed has them."""
        known = {hit.id: hit for hit in (*near.hits, *current)}
        if policy == "same":
            return tuple(known[id_] for id_ in ids)
        if self._arrays is not None:
            hits = (Hit(id_, self._arrays.document(id_), math.nan) for id_ in ids)
        else:
            hits = (self.hits.get(id_) or known[id_] for id_ in ids)
        return tuple(map(self.read, hits))
