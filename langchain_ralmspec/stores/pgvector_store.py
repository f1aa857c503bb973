"""Postgres with pgvector, one statement for many queries."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.errors import InvalidValueError, SetupError, StoreError
from langchain_ralmspec.stores.base import Hit, Metric
from langchain_ralmspec.stores.documents import record_named
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.one_call import OneCallStore, ranked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.stores.encoding import Encoding

_METRICS: dict[str, Metric] = {
    "l2": "squared_l2",
    "cosine": "cosine",
    "inner": "inner_product",
}
# A table of this kind, none of whose indexes is of a kind that an extension brought, is
# searched by looking at every row: none of Postgres' own indexes orders vectors.
_IS_SCANNED = """
SELECT t.relkind = 'r' AND NOT t.relhassubclass AND NOT EXISTS (
    SELECT FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am a ON a.oid = c.relam
    WHERE i.indrelid = t.oid
    AND a.amname NOT IN ('btree', 'hash', 'gist', 'spgist', 'gin', 'brin')
)
FROM pg_class t WHERE t.oid = to_regclass(:name)
"""


class PostgresStore(OneCallStore):
    """A LangChain PGVector store, asked many queries in one SQL statement.

    It goes through the store's own sessions, tables, distance and filter. The order is
    Postgres' own, by distance, equal distances by the smaller id.

    Args:
        store: a ``langchain_postgres.PGVector``.
        filter: condition on the metadata, in the language of its
            ``similarity_search``. It is copied: what is done to it later has no effect.
        encoding: how queries are embedded; None takes what is known of the class.

    Attributes:
        metric: from the store's distance strategy. Scores are the negated squared
            distance for ``l2``, the similarity for ``cosine`` and ``inner``.

    Raises:
        InvalidValueError: the store can only be awaited, or it cannot use the filter.
    """

    def __init__(
        self,
        store: Any,
        filter: dict[str, Any] | None = None,  # noqa: A002  (LangChain's name)
        encoding: Encoding | None = None,
    ) -> None:
        name = f"PGVector collection {store.collection_name!r}"
        if store.async_mode:
            raise InvalidValueError(
                f"{name} is in async_mode, so its searches can only be awaited, but "
                "they are called in threads here: make it with async_mode=False, or of "
                "a synchronous engine"
            )
        super().__init__(name, store.embeddings, encoding)
        self._store = store
        self._filter = owned(filter)
        require_clause(store, self._filter)
        self.metric = _METRICS[store._distance_strategy]  # noqa: SLF001 (no public name)

    @cached_property
    def top_k_is_stable(self) -> bool:
        """Whether every row is looked at: an index on the vectors may miss some.

        The database is asked once. After making an index, call
        ``RaLMSpecRetriever.invalidate()``.
        """
        import sqlalchemy as sql

        table = self._store.EmbeddingStore.__table__
        with (
            reported_as_store_error(self._name, "tell its indexes"),
            self._session() as session,
        ):
            preparer = session.get_bind().dialect.identifier_preparer
            name = {"name": preparer.format_table(table)}
            return bool(session.scalar(sql.text(_IS_SCANNED), name))

    def _session(self) -> Any:
        return self._store._make_sync_session()  # noqa: SLF001 (no public name)

    def _ask(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        statement = self._statement(vectors, k, with_vectors=with_vectors)
        hits: list[list[Hit]] = [[] for _ in vectors]
        with self._session() as session:
            rows = session.execute(statement).all()
        if not rows:
            raise StoreError(
                f"{self._name} is not there: it was dropped after the store was made; "
                "call create_collection() of the store, and add documents"
            )
        for row in rows:
            if row.id is not None:
                hits[row.number - 1].append(self._hit(row, with_vectors=with_vectors))
        return [ranked(each) for each in hits]

    def _statement(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> Any:
        """One row a hit; one with nothing but its number where a query finds none.

        No row at all says that the collection is not there.
        """
        import sqlalchemy as sql
        from sqlalchemy.dialects.postgresql import ARRAY

        entry, collection = self._store.EmbeddingStore, self._store.CollectionStore
        kind = entry.embedding.type
        texts = [str(vector.tolist()) for vector in vectors]
        # As an array of vectors, for a cast further in would be made for every row.
        array = sql.cast(sql.cast(texts, ARRAY(sql.Text)), ARRAY(type(kind)()))
        queries = (
            sql.func.unnest(array)
            .table_valued(
                sql.column("vector", type(kind)()),
                with_ordinality="number",
                name="queries",
            )
            .render_derived()
        )
        distance = self._store.distance_strategy(queries.c.vector).label("distance")
        wanted = [entry.id, entry.document, entry.cmetadata, distance]
        wanted += [entry.embedding] * with_vectors
        best = sql.select(*wanted).where(entry.collection_id == collection.uuid)
        if self._filter:
            best = best.where(self._store._create_filter_clause(self._filter))  # noqa: SLF001
        # Of several with one distance, those of the smaller ids, whatever the locale.
        best = best.order_by(distance, sql.collate(entry.id, "C"))
        # Not as a parameter, which a prepared statement would be planned without.
        found = best.limit(sql.literal_column(str(int(k)))).lateral("found")
        return (
            sql.select(queries.c.number, *found.c)
            .select_from(collection)
            .join(queries, sql.true())
            .outerjoin(found, sql.true())
            .where(collection.name == self._store.collection_name)
        )

    def _hit(self, row: Any, *, with_vectors: bool) -> Hit:
        id_, metadata = str(row.id), row.cmetadata or {}
        with record_named(id_, self._name):
            document = Document(id=id_, page_content=row.document, metadata=metadata)
        vector = row.embedding if with_vectors else None
        return Hit(
            str(row.id),
            document,
            self._score(row.distance),
            None if vector is None else np.asarray(vector, np.float32),
        )

    def _score(self, distance: float | None) -> float:
        """Postgres' distance, lower is better, as the metric's own score."""
        if distance is None or math.isnan(
            distance
        ):  # it has no vector, or none to tell
            return -math.inf
        if self.metric == "squared_l2":
            return -(distance**2)
        return -distance if self.metric == "inner_product" else 1.0 - distance

    def _of_collection(self, what: Any) -> Any:
        """Select something of the collection's entries."""
        import sqlalchemy as sql

        entry, collection = self._store.EmbeddingStore, self._store.CollectionStore
        return (
            sql.select(what)
            .select_from(entry)
            .join(collection, entry.collection_id == collection.uuid)
            .where(collection.name == self._store.collection_name)
        )

    def _read_dimension(self) -> int | None:
        import sqlalchemy as sql

        embedding = self._store.EmbeddingStore.embedding
        length = self._of_collection(sql.func.vector_dims(embedding))
        with self._session() as session:
            found = session.scalar(length.where(embedding.is_not(None)).limit(1))
        return None if found is None else int(found)

    def _count(self) -> int:
        import sqlalchemy as sql

        with self._session() as session:
            return int(session.scalar(self._of_collection(sql.func.count())))


def require_clause(store: Any, filter: Any) -> None:  # noqa: A002  (LangChain's name)
    """Refuse what a PGVector store cannot make a condition of, before it is asked.

    Raises:
        SetupError: it cannot.
    """
    if filter is None or filter == {}:  # as in LangChain, nothing is filtered then
        return
    try:
        store._create_filter_clause(filter)  # noqa: SLF001 (no public name)
    except Exception as error:
        raise SetupError(
            f"a filter of PGVector's is a dict such as {{'key': {{'$eq': 'value'}}}}, "
            f"got {filter!r}: {error}"
        ) from error
