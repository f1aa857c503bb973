"""Milvus: Lite or a server, one request for many queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from langchain_ralmspec.arguments import owned
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.registry import Registry
from langchain_ralmspec.stores.base import Hit, Metric
from langchain_ralmspec.stores.documents import record_named
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.one_call import OneCallStore, in_order, ranked
from langchain_ralmspec.stores.ties import is_near_tie

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.stores.encoding import Encoding

_METRICS: dict[str, Metric] = {
    "L2": "squared_l2",
    "COSINE": "cosine",
    "IP": "inner_product",
}
_indexes: Registry[dict[tuple[str, str], Any]] = Registry(dict)
_WORDS = frozenset({"expr", "param", "timeout", "partition_names"})


def serves(store: Any, words: Mapping[str, Any]) -> bool:
    """Whether one request of many queries can do what a LangChain store does.

    Args:
        store: a ``langchain_milvus.Milvus``. It is to have one field of dense vectors,
            and embeddings of them, and a metric that guesses can be compared by.
        words: arguments of its search that are given, by their names.
    """
    # No public names: one field of vectors, which embeddings make, dense ones.
    is_dense = (
        store._is_embedding_only  # noqa: SLF001
        and not store._is_multi_vector  # noqa: SLF001
        and not store._is_sparse  # noqa: SLF001
    )
    metric = _metric_type(store, words.get("param"))
    return is_dense and metric in _METRICS and _WORDS.issuperset(words)


def _metric_type(store: Any, param: Any = None) -> str:
    """Of a search: that of its parameters, else that of the index."""
    asked, index = store.search_params if param is None else param, None
    if not _named_in(asked) and store.col is not None:
        # No public name; LangChain takes L2 for one that it has not made.
        index = _index_of(store)
    for given in (asked, index, store.index_params):
        if named := _named_in(given):
            return named
    return "L2"  # LangChain's own


def _named_in(given: Any) -> str:
    """The metric that some parameters name; empty where they do not."""
    (first, *_) = (given if isinstance(given, list) else [given]) or [None]
    return str((first or {}).get("metric_type") or "").upper()


def _index_of(store: Any) -> Any:
    """The index of the vectors that are searched, as the collection has it."""
    name, client = store.collection_name, store.client
    field = store._vector_field  # noqa: SLF001 (no public name)
    known = _indexes.of(store)  # it is opened anew for each call with words of its own
    if (name, field) not in known:
        with reported_as_store_error(f"Milvus collection {name!r}", "tell its index"):
            every = (client.describe_index(name, i) for i in client.list_indexes(name))
            found = [each for each in every if each["field_name"] == field]
        known[name, field] = found[0] if found else None
    return known[name, field]


class MilvusStore(OneCallStore):
    """A LangChain Milvus store, asked many queries in one request.

    The order is Milvus' own, by distance, equal distances by the smaller id.

    Args:
        store: a ``langchain_milvus.Milvus`` which :func:`serves` accepts.
        words: ``expr``, ``param`` and ``timeout`` of LangChain's search, and
            ``partition_names`` of its client's. Copied: what is done to them later has
            no effect.
        encoding: how queries are embedded; None takes what is known of the class.

    Attributes:
        top_k_is_stable: False: indexes are searched more widely for more hits, and a
            server may index what was added lately, whatever kind of index it has.

    Raises:
        InvalidValueError: ``expr`` is no text.
    """

    top_k_is_stable = False

    def __init__(
        self,
        store: Any,
        words: Mapping[str, Any] | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        name = f"Milvus collection {store.collection_name!r}"
        super().__init__(name, store.embeddings, encoding)
        words = owned(dict(words or {}))
        self._expr = words.get("expr")
        if not isinstance(self._expr, str | None):
            example = "'key == \"value\"'"
            msg = f"expr of Milvus is text such as {example}, got {self._expr!r}"
            raise InvalidValueError(msg)
        self._param, self._timeout = words.get("param"), words.get("timeout")
        self._partitions = words.get("partition_names")
        self._store, self._metric = store, cast("Metric | None", None)
        # In matrix products, where other queries change the last bits of a score.
        uri = str(store._connection_args.get("uri", ""))  # noqa: SLF001 (no public name)
        self._is_lite = uri.endswith(".db")

    @property
    def metric(self) -> Metric:  # type: ignore[override]  # the first documents make it
        """From the index. Scores are the negated squared distance for ``L2``, the
        similarity for ``COSINE`` and ``IP``.
        """  # noqa: D205
        if self._metric is not None:
            return self._metric
        metric = _METRICS[_metric_type(self._store, self._param)]
        if self._store.col is not None:  # whose index keeps it
            self._metric = metric
        return metric

    def _ask(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        if self._store.col is None:  # as in LangChain, no documents make no collection
            return [[] for _ in vectors]
        found = self._found(vectors, k, with_vectors=with_vectors)
        if self._is_lite and len(vectors) > 1:
            for number, hits in enumerate(found):
                one = vectors[number : number + 1]
                norm = float(np.linalg.norm(one))
                scores = [hit.score for hit in hits]
                if is_near_tie(scores, k, self.metric, norm):
                    (found[number],) = self._found(one, k, with_vectors=with_vectors)
        return [hits[:k] for hits in found]

    def _found(
        self, vectors: NDArray[np.float32], k: int, *, with_vectors: bool
    ) -> list[list[Hit]]:
        """Hits of every row, best first, and some more."""
        store = self._store
        field = store._vector_field  # noqa: SLF001 (no public name)
        given = store.search_params if self._param is None else self._param
        answer = store.client.search(
            store.collection_name,
            data=vectors.tolist(),
            anns_field=field,
            search_params=given[0] if isinstance(given, list) else given,
            limit=int(k) + self._margin,
            filter=self._expr,
            partition_names=self._partitions,
            output_fields=store._get_output_fields() + [field] * with_vectors,  # noqa: SLF001
            timeout=store.timeout or self._timeout,
        )
        found = [list(map(self._hit, each)) for each in answer]
        return [ranked(in_order(hits, self._name, self.metric)) for hits in found]

    def _hit(self, given: Any) -> Hit:
        field = self._store._vector_field  # noqa: SLF001 (no public name)
        fields = dict(given["entity"])
        vector = fields.pop(field, None)
        distance = float(given["distance"])
        with record_named(given.id, self._name):
            document = self._store._parse_document(fields)  # noqa: SLF001 (no public name)
        return Hit(
            str(given.id),
            document,
            -distance if self.metric == "squared_l2" else distance,
            None if vector is None else np.asarray(vector, np.float32),
        )

    def _read_dimension(self) -> int | None:
        store = self._store
        if store.col is None:
            return None
        fields: Sequence[Any] = store.client.describe_collection(store.collection_name)[
            "fields"
        ]
        wanted = store._vector_field  # noqa: SLF001 (no public name)
        (field,) = (each for each in fields if each["name"] == wanted)
        return int(field["params"]["dim"])

    def _count(self) -> int:
        store = self._store
        if store.col is None:
            return 0
        (row,) = store.client.query(
            store.collection_name, filter="", output_fields=["count(*)"]
        )
        return int(row["count(*)"])
