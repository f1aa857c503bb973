"""Documents behind a FAISS index, in an order that no batch can change."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.errors import InvalidValueError, StoreError
from langchain_ralmspec.scans import ROUNDING
from langchain_ralmspec.stores.arguments import check_k, query_matrix
from langchain_ralmspec.stores.base import Hit, MaxNorm, Metric, Query, Ranked
from langchain_ralmspec.stores.documents import is_accepted
from langchain_ralmspec.stores.embedding import check_encoder, make_queries
from langchain_ralmspec.stores.encoding import Encoder, Encoding, computes_here
from langchain_ralmspec.stores.failures import (
    reported_as_store_error,
    require_comparable,
)
from langchain_ralmspec.stores.faiss_index import FaissIndex
from langchain_ralmspec.stores.faiss_rows import (
    Filter,
    FixedRows,
    LangChainRows,
    Passing,
    Rows,
    condition,
    names_of,
    require_parts,
)
from langchain_ralmspec.stores.sharing import SharedLock, lock_of
from langchain_ralmspec.stores.versions import Version

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# Candidates fetched beyond k: rounding may place a true hit just behind the cut.
MARGIN = 8
# A filter is first tried on so many times the candidates that are wanted, which is
# enough where one document in four passes. Else all rows are tested, which takes as
# long as a search or longer (50k x 384: 15 to 85 ms against 24 ms).
_TRIED_PER_HIT = 4
_MOST_TRIED = 4096  # as the vectors of more would take megabytes a query
# A search is made again while another thread adds or deletes documents: LangChain
# changes index and documents one after the other, in milliseconds at most.
_TRIES, _PAUSE = 100, 0.002
_NAME = "the FAISS index"


class FaissStore:
    """Documents behind a FAISS index.

    FAISS finds candidates; their scores are then computed again in float64, one
    query at a time, and equal scores ordered by the smaller id. So neither the
    number of queries in the call nor the route FAISS takes can change an answer.

    Args:
        index: a FAISS index whose vectors can be reconstructed.
        documents: one per row of the index, in row order, or what else says which
            rows there are.
        embeddings: embeds the queries.
        ids: one per document; the document's own id, else its row number, when None.
        normalize: whether query vectors are scaled to length 1.
        encoding: how queries are embedded; None takes what is known of the class.

    Attributes:
        metric: ``"inner_product"`` or ``"squared_l2"``, from the index. A score
            is the inner product or the negated squared distance.
        dimension: length of the stored vectors.
        top_k_is_stable: True for flat and IVF indexes over whole or scalar-quantised
            vectors; False for HNSW and for indexes that rank by coarser codes.

    Raises:
        MissingExtraError: faiss is not installed.
        InvalidValueError: the ids are not unique, documents and rows differ in number,
            the index has another metric, or an argument is of another kind.
    """

    reads_shared_memory = True
    """FAISS's own, which moves when rows are added."""

    def __init__(
        self,
        index: Any,
        documents: Sequence[Document] | Rows,
        embeddings: Encoder,
        *,
        ids: Sequence[str] | None = None,
        normalize: bool = False,
        encoding: Encoding | None = None,
    ) -> None:
        self._index = FaissIndex(index)
        self._lock, self._version = SharedLock(), Version()
        self._view_of: tuple[Any, Filter | None] | None = None  # LangChain's, filtered
        self._accepts: Callable[[dict[str, Any]], bool] | None = None
        self._is_pure = True  # whether documents alone decide what passes
        self._is_loose = True  # whether what was tried was enough, so far
        self._embeddings = check_encoder(embeddings)
        self._encoding = encoding or Encoding()
        self._normalize = normalize
        self._rows: Rows = (
            FixedRows(documents, ids) if isinstance(documents, Sequence) else documents
        )
        n_documents = len(self._rows.ids())
        if n_documents != self.count():
            raise InvalidValueError(
                f"the index has {self.count()} rows for {n_documents} documents"
            )
        self.metric: Metric = self._index.metric
        self.dimension: int | None = self._index.dimension
        self.top_k_is_stable = self._index.ranks_by_score

    def __reduce__(self) -> tuple[Any, ...]:
        # As its arguments, for what was derived from them holds locks.
        if self._view_of is not None:
            view = partial(type(self).from_langchain, encoding=self._encoding)
            return view, self._view_of
        words: dict[str, Any] = {
            "normalize": self._normalize,
            "encoding": self._encoding,
        }
        make = partial(type(self), **words)
        return make, (self._index.raw, self._rows, self._embeddings)

    @classmethod
    def from_langchain(
        cls,
        store: Any,
        filter: Filter | None = None,  # noqa: A002  (LangChain's name)
        *,
        encoding: Encoding | None = None,
    ) -> FaissStore:
        """Wrap a LangChain FAISS store; later additions and deletions are seen.

        Args:
            store: the LangChain store.
            filter: restricts every search, as in ``store.similarity_search``, by the
                metadata that documents have at that moment. Unlike there, a flat index
                finds the ``k`` best of all documents that pass, however few they are.
                A dict is copied: what is done to it afterwards has no effect.
            encoding: how queries are embedded.

        Raises:
            MissingExtraError: faiss is not installed.
            InvalidValueError: the store cannot use the filter, its index and its
                documents differ in number, or the index has another metric.
        """
        opened = cls(
            store.index,
            LangChainRows(store),
            store.embedding_function,
            normalize=bool(getattr(store, "_normalize_L2", False)),
            encoding=encoding,
        )
        filter = owned(filter)  # noqa: A001
        opened._view_of, opened._lock = (store, filter), lock_of(store)
        if filter is not None:
            opened._accepts = condition(store, filter)
            opened._is_pure = not callable(filter)
        return opened

    @property
    def stays_in_process(self) -> bool:
        """Whether nothing that a search does waits for a service, as a filter may."""
        return self._is_pure and computes_here(self._embeddings)

    @property
    def parts(self) -> tuple[FaissIndex, Rows, SharedLock]:
        """The index, what its rows stand for, and what searches hold."""
        return self._index, self._rows, self._lock

    def encode(self, texts: Sequence[str]) -> list[Query]:
        """Turn query texts into queries, in one batch.

        Raises:
            StoreError: the encoder fails, or gives what is no direction.
            DimensionMismatchError: a vector does not fit the index.
        """
        queries = make_queries(
            self._embeddings,
            texts,
            dimension=self.dimension,
            store=_NAME,
            encoding=self._encoding,
        )
        if not (self._normalize and queries):
            return queries
        units = self._index.normalized(query_matrix(queries, self.dimension, _NAME))
        pairs = zip(queries, units, strict=True)
        return [replace(query, vector=unit) for query, unit in pairs]

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        """Find the ``k`` best documents for every query, as ``Store.search()`` does.

        Fewer come back where an approximate index finds fewer.

        Raises:
            InvalidValueError: ``k`` is below 1, or a query has no vector.
            DimensionMismatchError: a query vector does not fit the index.
            StoreError: FAISS raised, or a row has no document.
        """
        found = self.find(queries, k, depth=k, with_vectors=with_vectors)
        return [_with_vectors(each) for each in found]

    def find(
        self, queries: Sequence[Query], k: int, *, depth: int, with_vectors: bool
    ) -> list[Ranked]:
        """Do as ``search()``, but look up the best ``depth`` documents only."""
        check_k(k)
        if not queries:
            return []
        vectors = query_matrix(queries, self.dimension, _NAME)
        with reported_as_store_error("FAISS", "search"), self._lock.searching():
            self._require_own_parts()
            return self._found(vectors, k, depth=depth, with_vectors=with_vectors)

    def document(self, id_: str) -> Document:
        """The document with that id, as it is now.

        Raises:
            StoreError: there is none, or the filter keeps it back.
        """
        with reported_as_store_error("FAISS", "look up a document"):
            document = self._rows.document(id_)
            if self._accepts is not None and not is_accepted(self._accepts, document):
                raise StoreError(f"the filter keeps the document {id_!r} back")
            return document

    def prepare(self) -> None:
        """Make batches faster: where that pays, by a copy of half the index's size.

        Filtered searches have nothing of it.
        """
        if self._accepts is None:
            with self._lock.searching():
                self._require_own_parts()
                self._index.prepare(self._rows.ids())

    def max_norm(self) -> MaxNorm | None:
        """Bound of the vectors' norms, or None where a search may miss the nearest.

        So it may where the filter is a function, which may heed the clock. Rows that
        are new are read, and all rows after a deletion.
        """
        if not self._is_pure:
            return None
        with self._lock.searching():
            self._require_own_parts()
            return self._index.max_norm(self._rows.ids())

    def count(self) -> int:
        """Number of stored documents, those that a filter hides included."""
        return self._index.n_rows

    def version(self) -> int:
        """Another number once documents were added, deleted or replaced."""
        # LangChain adds to the mapping, and makes another one when it deletes.
        ids, n_rows = self._rows.ids(), self.count()
        return self._version.of((n_rows, len(ids)), [ids])

    def _require_own_parts(self) -> None:
        """Raise a StoreError where LangChain's store has other parts by now."""
        if self._view_of is not None:
            store, own = self._view_of[0], self._index.raw
            require_parts(store, index=own, embedding_function=self._embeddings)

    def _found(
        self, vectors: Floats, k: int, *, depth: int, with_vectors: bool
    ) -> list[Ranked]:
        """What a search finds while no row is added or removed.

        Else a row may stand for another document when it is looked up than when it was
        compared.
        """
        for _ in range(_TRIES):
            ids, n_rows, found = self._rows.ids(), self.count(), None
            failure: Exception | None = None
            try:
                found = [
                    self._top(k, each, depth=depth, with_vectors=with_vectors)
                    for each in self._ranked(vectors, k, ids, n_rows)
                ]
            except Exception as error:  # noqa: BLE001  perhaps for rows that moved
                failure = error
            if self._rows.ids() is ids and self.count() == n_rows == len(ids):
                if found is None:
                    assert failure is not None  # noqa: S101  there is one or the other
                    raise failure
                return found
            time.sleep(_PAUSE)
        raise StoreError(
            f"{_NAME} has {self.count()} rows for {len(self._rows.ids())} documents, "
            "some of which stand for no document, or other threads change them without "
            "a pause; use add_documents() and delete() of the retriever"
        )

    def _top(self, k: int, found: Ranked, *, depth: int, with_vectors: bool) -> Ranked:
        """The best ``k`` of what was found, with the documents of few of them."""
        pairs = list(zip(found.ids[: min(depth, k)], found.scores, strict=False))
        require_comparable(_NAME, pairs)
        hits = [Hit(id_, self._rows.document(id_), score) for id_, score in pairs]
        vectors = None if found.vectors is None else found.vectors[:k]
        kept = vectors if with_vectors else None
        return Ranked(hits, found.ids[:k], found.scores[:k], kept)

    def _ranked(
        self, vectors: Floats, k: int, ids: Mapping[int, str], n_rows: int
    ) -> list[Ranked]:
        """The best ``k`` rows of every query, and more, without their documents."""
        passing = None if self._accepts is None else Passing(self._rows, self._accepts)
        allowed: NDArray[np.bool_] | None = None
        ranked = [Ranked()] * len(vectors)
        pending = list(range(len(vectors))) if n_rows else []
        width = min(k + MARGIN, n_rows)
        if passing and self._may_try(_TRIED_PER_HIT * width):
            width = min(_TRIED_PER_HIT * width, n_rows)
        elif passing:
            allowed = passing.all_rows()
        while pending:
            found = self._index.candidates(vectors[pending], width, allowed, ids)
            undecided = []
            for number, rows, stored in zip(pending, *found, strict=True):
                query, there = vectors[number], rows >= 0
                scored = self._scored(query, rows[there], stored[there], ids)
                best = passing.best(scored, k) if passing else scored
                ranked[number] = best
                is_full = len(scored.ids) == width < n_rows
                if is_full and self._cut_is_open(query, best, k, scored.scores[-1]):
                    undecided.append(number)
            pending, width = undecided, min(4 * width, n_rows)
            if pending and passing and allowed is None:
                self._is_loose = False
                allowed, width = passing.all_rows(), min(k + MARGIN, n_rows)
        return ranked

    def _may_try(self, width: int) -> bool:
        """Whether to search as if there were no filter, and test what is found."""
        return self._is_loose and self._index.ranks_by_score and width <= _MOST_TRIED

    def _scored(
        self,
        query: Floats,
        rows: NDArray[np.int64],
        stored: Floats,
        ids: Mapping[int, str],
    ) -> Ranked:
        """Candidates of one query with their exact scores, best first."""
        missing = [row for row in rows.tolist() if row not in ids]
        if missing:
            raise StoreError(f"the FAISS rows {missing} stand for no document")
        # Element by element and row by row: BLAS would round differently for
        # different numbers of rows.
        if self.metric == "inner_product":
            scores = (stored.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        else:
            apart = stored.astype(np.float64) - query.astype(np.float64)
            scores = -(apart * apart).sum(axis=1)
        candidates = names_of([ids[row] for row in rows.tolist()])
        keys = list(zip((-scores).tolist(), candidates, strict=True))
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return Ranked(
            ids=[candidates[place] for place in order],
            scores=scores[order].tolist(),
            vectors=stored[order],
        )

    def _cut_is_open(self, query: Floats, best: Ranked, k: int, last: float) -> bool:
        """Whether a row that was not fetched may still belong to the best ``k``.

        It may when there are fewer, or the last candidate scores like the k-th: many
        copies of one vector, say. Only indexes that rank by the score can be asked for
        more without changing what they found.
        """
        if not self._index.ranks_by_score:
            return False
        if len(best.ids) < k:
            return True
        assert best.vectors is not None  # noqa: S101  they were scored
        last_in = best.vectors[k - 1]
        lengths = float(query @ query) + float(last_in @ last_in)
        return best.scores[k - 1] - last <= ROUNDING * lengths


def _with_vectors(found: Ranked) -> list[Hit]:
    """Hits that carry their vectors, where these were asked for."""
    if found.vectors is None:
        return list(found.hits)
    # Copies: the vector of one hit must not keep those of all the others alive.
    pairs = zip(found.hits, found.vectors, strict=True)
    return [replace(hit, vector=vector.copy()) for hit, vector in pairs]
