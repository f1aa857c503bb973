"""Which rows of a matrix score best for some queries, by a matrix product."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

Metric = Literal["inner_product", "squared_l2", "cosine", "sparse"]

# Scores held at a time: 16 MB, which malloc hands out again for the next block.
# Blocks from a quarter to four times as large took the same time within noise.
SCORES_PER_BLOCK = 1 << 22
# Groups of rows whose maxima bound the best scores from below. A block of 500k rows
# then looks at some 7000 scores a query instead of all; 8192 groups were no faster.
GROUPS = 2048
# How far a float32 score, a product's here or FAISS's own, may be from the true one,
# relative to the squared lengths of its two vectors: FAISS's BLAS route subtracts
# numbers of that size. A product stays below a quarter of it.
ROUNDING = 1e-6


class Found(NamedTuple):
    """Rows per query and their vectors; row -1 means there were no more."""

    rows: NDArray[np.int64]  # (queries, width)
    vectors: NDArray[np.float32]  # (queries, width, dimension)


class _Best(NamedTuple):
    """The best rows of a block: higher scores first, among equal ones lower rows."""

    scores: NDArray[np.float32]  # (queries, kept)
    rows: NDArray[np.int64]  # (queries, kept)


def loaded_torch() -> ModuleType | None:
    """Torch where the process has imported it already, as local embeddings do.

    We do not import it for a search: that takes 2 seconds, and a second OpenMP
    runtime beside FAISS's can crash on macOS (faiss-wheels issue 73).
    """
    if sys.modules.get("torch") is None:
        return None
    import torch  # waits for a thread that is still importing it

    return torch


def best_rows(
    torch: ModuleType | None,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    width: int,
) -> Found | None:
    """Find the rows with the largest inner products.

    It runs on as many threads as torch is set to. Fewer gain nothing: beside a busy
    core, one took mostly 1.1 to 1.4 times as long as two for 2 to 8 queries.

    Args:
        torch: the module; None multiplies in numpy.
        vectors: the rows, shape ``(n_rows, dimension)``.
        queries: shape ``(n_queries, dimension)``.
        width: rows per query, from 1 to ``n_rows``.

    Returns:
        Rows of shape ``(n_queries, width)``, best first, equal scores by the lower
        row, and their vectors, copied. None where float32 scores cannot be had:
        some are not finite, or torch multiplies in less than float32.
    """
    step = max(1, SCORES_PER_BLOCK // len(queries))
    blocks: list[_Best] = []
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        grouped = _grouped_scores(torch, block, queries, width)
        best = _best_of_block(grouped, min(width, len(block)))
        if best is None:
            return None
        blocks.append(_Best(best.scores, best.rows + start))
    scores = np.concatenate([best.scores for best in blocks], axis=1)
    rows = np.concatenate([best.rows for best in blocks], axis=1)
    # Blocks come in row order, so a stable sort leaves equal scores in row order.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    rows = np.take_along_axis(rows, order, axis=1)
    found = vectors[rows]
    if not _is_float32(np.take_along_axis(scores, order, axis=1), found, queries):
        return None
    return Found(rows, found)


def _grouped_scores(
    torch: ModuleType | None,
    block: NDArray[np.float32],
    queries: NDArray[np.float32],
    width: int,
) -> NDArray[np.float32]:
    """Scores of a block of rows, in groups that each hold a row or more.

    Returns:
        Shape ``(rows per group, groups, queries)``, with at least as many groups as
        rows are wanted. Row ``i`` is number ``i // groups`` in group ``i % groups``:
        numpy takes maxima over the first axis ten times as fast as over the second.
    """
    n_groups = min(len(block), max(GROUPS, width))
    per_group = -(-len(block) // n_groups)
    n_queries = len(queries)
    scores = np.empty((per_group * n_groups, n_queries), dtype=np.float32)
    scores[len(block) :] = -np.inf
    filled = scores[: len(block)]
    # X @ Q.T with Q.T a view: 1.4 to 5 times as fast as with its copy.
    if torch is None:
        with np.errstate(all="ignore"):  # what is not finite is noticed later
            np.matmul(block, queries.T, out=filled)
    else:
        out = torch.from_numpy(filled)
        torch.mm(torch.from_numpy(block), torch.from_numpy(queries).T, out=out)
    return scores.reshape(per_group, n_groups, n_queries)


def _best_of_block(scores: NDArray[np.float32], kept: int) -> _Best | None:
    """The best ``kept`` rows per query; None where a maximum is not finite.

    ``kept`` groups hold a score of at least the ``kept``-th largest maximum, so
    every row among the best ``kept`` scores that much too.
    """
    per_group, n_groups, n_queries = scores.shape
    maxima = scores.max(axis=0)
    if not np.isfinite(maxima).all():
        return None
    bounds = np.partition(maxima, n_groups - kept, axis=0)[n_groups - kept]
    best = _Best(
        np.empty((n_queries, kept), dtype=np.float32),
        np.empty((n_queries, kept), dtype=np.int64),
    )
    firsts = np.arange(per_group)[:, np.newaxis] * n_groups
    for query, bound in enumerate(bounds):
        groups = np.flatnonzero(maxima[:, query] >= bound)
        of_groups = scores[:, groups, query].reshape(-1)
        enough = np.flatnonzero(of_groups >= bound)
        rows = (firsts + groups).reshape(-1)[enough]  # ascending
        order = np.argsort(-of_groups[enough], kind="stable")[:kept]
        best.scores[query] = of_groups[enough][order]
        best.rows[query] = rows[order]
    return best


def _is_float32(
    scores: NDArray[np.float32],
    found: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> bool:
    """Whether scores are as near the true ones as float32 gets.

    A process may let torch round to bfloat16 or TF32, in several ways that no one
    function of torch reports (``set_float32_matmul_precision`` is one).
    """
    exact = np.einsum("qwd,qd->qw", found, queries, dtype=np.float64)
    lengths = np.einsum("qwd,qwd->qw", found, found, dtype=np.float64)
    lengths += np.einsum("qd,qd->q", queries, queries, dtype=np.float64)[:, np.newaxis]
    return bool((np.abs(scores - exact) <= ROUNDING * lengths).all())
