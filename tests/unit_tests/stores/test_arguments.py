import numpy as np
import pytest

from langchain_ralmspec.errors import DimensionMismatchError
from langchain_ralmspec.stores import Query
from langchain_ralmspec.stores.arguments import query_matrix


def test_queries_of_different_lengths_are_named_where_none_is_known() -> None:
    queries = [Query("a", np.zeros(3, np.float32)), Query("b", np.zeros(4, np.float32))]
    with pytest.raises(
        DimensionMismatchError, match=r"X have shapes \(3,\) and \(4,\)"
    ):
        query_matrix(queries, None, "X")
