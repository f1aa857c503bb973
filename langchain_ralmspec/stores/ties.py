"""When are two scores too close to trust their order?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_ralmspec.stores.base import Metric

# Encoders give vectors that differ by ~2e-7 per component between batch sizes;
# over a few hundred components a similarity moves by less than this.
BATCH_NOISE = 1e-5


def is_near_tie(
    scores: Sequence[float], depth: int, metric: Metric | None, query_norm: float = 1.0
) -> bool:
    """Whether noise of batched embedding could reorder the best ``depth`` hits.

    A batched query vector is not bit-identical to one computed alone, so hits
    whose scores are closer than that noise may come in another order. A verifier
    then encodes that query again, alone.

    Args:
        scores: of one query's hits, best first, higher is better; at least
            ``depth + 1`` when there are as many: the pair at the cut counts.
        depth: how many of the first hits must be in a trusted order, at least 1.
        metric: of the scores. A squared distance moves twice as much as a similarity
            for the same change of the query.
        query_norm: length of the query vector. The noise grows with it, and with
            that of the documents, taken to be alike.

    Returns:
        True when a neighbouring pair among the first ``depth + 1`` scores differs
        by less than ``1e-5 * max(1, |score|, query_norm²)`` (twice that for squared
        distances; a cosine does not grow with the vectors).
    """
    bound = BATCH_NOISE * (2 if metric == "squared_l2" else 1)
    scale = 1.0 if metric == "cosine" else max(1.0, query_norm**2)
    return any(
        better - worse < bound * max(scale, abs(better))
        for better, worse in pairwise(scores[: depth + 1])
    )
