"""What the texts of kNN-LM loops add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_ralmspec.bench.knnlm.contest import SEQUENTIAL, sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_ralmspec.bench.knnlm.contest import TokenComparison, TokenContest

AUTO = "+S"
"""The row whose figures are quoted, if it is there."""


def figures(contests: Mapping[int, TokenContest]) -> dict[str, Any]:
    """Everything that was measured, by k, for a report and a JSON file."""
    by_k = {k: contest.comparisons() for k, contest in contests.items()}
    first = next(iter(by_k.values()))
    chosen = first[AUTO if AUTO in first else list(first)[-1]]
    identical = all(
        row.n_identical == len(row.pairs)
        for rows in by_k.values()
        for row in rows.values()
    )
    return {
        "summary": {**chosen.summary(), "identical": identical},
        "by_k": {str(k): _of_k(contests[k], rows) for k, rows in by_k.items()},
    }


def _of_k(contest: TokenContest, rows: dict[str, TokenComparison]) -> dict[str, Any]:
    some = next(iter(rows.values()))
    return {
        SEQUENTIAL: sums(contest.answers[SEQUENTIAL]),
        "retrieval_share": some.retrieval_share,
        "ceiling": some.bounds.ceiling,
        "attainable": some.attainable,
        "rows": {name: row.as_dict() for name, row in rows.items()},
    }
