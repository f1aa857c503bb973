from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from langchain_ralmspec.scans import product as product_scan
from langchain_ralmspec.scans.product import best_rows, loaded_torch
from tests.unit_tests.stores.toys import table

either_way = pytest.mark.parametrize("module", [torch, None], ids=["torch", "numpy"])


def ranked(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], width: int
) -> list[list[int]]:
    """Rows by exact score, equal ones by the lower row."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return [
        sorted(range(len(vectors)), key=lambda row: (-of_query[row], row))[:width]
        for of_query in scores
    ]


@either_way
@settings(max_examples=300)
@given(data=st.data())
def test_rows_are_those_of_brute_force(module: Any, data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(1, 120))
    n_queries = data.draw(st.integers(1, 33))
    width = data.draw(st.integers(1, n_rows))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    # Small whole numbers: float32 scores are exact, and many are equal.
    shift = data.draw(st.sampled_from([0, -9]))
    numbers = generator.integers(-2, 3, (n_rows + n_queries, 3)).astype(np.float32)
    vectors, queries = numbers[:n_rows] + shift, np.abs(numbers[n_rows:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product_scan, "GROUPS", data.draw(st.integers(1, 40)))
        # Down to blocks of one row, smaller than most widths.
        patch.setattr(product_scan, "SCORES_PER_BLOCK", data.draw(st.integers(1, 4000)))
        best = best_rows(module, vectors, queries, width)
    assert best is not None
    rows, found = best
    assert rows.tolist() == ranked(vectors, queries, width)
    np.testing.assert_array_equal(found, vectors[rows])


@either_way
@pytest.mark.parametrize("n_queries", [2, 3, 8, 9, 64])
def test_rows_of_a_matrix_of_many_groups(module: Any, n_queries: int) -> None:
    vectors, queries = table(3 * product_scan.GROUPS + 5), table(n_queries, seed=1)
    best = best_rows(module, vectors, queries, 30)
    assert best is not None
    assert best[0].tolist() == ranked(vectors, queries, 30)


@either_way
def test_vectors_are_copies(module: Any) -> None:
    vectors = table(20)
    best = best_rows(module, vectors, table(2, seed=1), 3)
    assert best is not None
    assert not np.shares_memory(best[1], vectors)


@either_way
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_left_to_others(
    module: Any, bad: float
) -> None:
    vectors = table(20)
    vectors[7, 0] = bad
    assert best_rows(module, vectors, table(2, seed=1), 3) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_rounded_coarsely_are_refused(dtype: torch.dtype) -> None:
    def multiply(left: Any, right: Any, out: Any) -> None:
        out.copy_(left.to(dtype).float() @ right.to(dtype).float())

    coarse: Any = SimpleNamespace(from_numpy=torch.from_numpy, mm=multiply)
    assert best_rows(coarse, table(200), table(2, seed=1), 3) is None


def test_torch_is_used_where_it_is_loaded_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded_torch() is torch
    monkeypatch.delitem(sys.modules, "torch")
    assert loaded_torch() is None
    assert "torch" not in sys.modules
    monkeypatch.setitem(sys.modules, "torch", None)  # what makes an import fail
    assert loaded_torch() is None
