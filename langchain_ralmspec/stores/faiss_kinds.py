"""Which FAISS indexes are searched here, and how they compare vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_ralmspec.errors import InvalidValueError

if TYPE_CHECKING:
    from types import ModuleType

    from langchain_ralmspec.scans import Metric

_SERVED = frozenset(
    {
        *("IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexScalarQuantizer"),
        *("IndexHNSWFlat", "IndexHNSWSQ", "IndexHNSWPQ"),
        *("IndexIVFFlat", "IndexIVFScalarQuantizer", "IndexIVFPQ"),
    }
)
"""Of others FAISS gives no vectors, searches none with a filter, or finds other rows
for a query in company than alone: transforms, refinements, fast scans and the like."""


def serves(index: object) -> bool:
    """Whether such an index is searched here, and not as LangChain searches it."""
    kinds = (kind for kind in type(index).__mro__ if kind.__module__[:5] == "faiss")
    return next(kinds, object).__name__ in _SERVED


def metric_of(faiss: ModuleType, index: Any) -> Metric:
    """How an index compares vectors.

    Raises:
        InvalidValueError: it is no index, or none that is searched here.
    """
    kind = type(index).__name__
    if not isinstance(index, faiss.Index):
        raise InvalidValueError(f"index must be a FAISS index, got a {kind}")
    if not serves(index):
        raise InvalidValueError(
            f"a FaissStore does not search a {kind}; give the LangChain store to "
            "RaLMSpecRetriever, which searches it as LangChain does"
        )
    if index.metric_type == faiss.METRIC_INNER_PRODUCT:
        return "inner_product"
    if index.metric_type == faiss.METRIC_L2:
        return "squared_l2"
    raise InvalidValueError(
        f"the FAISS index has metric_type {index.metric_type}; "
        "use one built for the inner product or the L2 distance"
    )
