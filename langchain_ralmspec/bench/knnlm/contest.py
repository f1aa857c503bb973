"""The rows of kNN-LM's benchmark, and what their texts add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_ralmspec.bench.bounds import Bounds
from langchain_ralmspec.bench.comparison import (
    Answer,
    Comparison,
    Pair,
    beside_rivals,
    mean_seconds,
)
from langchain_ralmspec.bench.contest import SEQUENTIAL, Contest
from langchain_ralmspec.speculation.costs import fitted

AUTO = "+S"
"""The row whose figures are quoted, if it is there."""

_COUNTS = ("store_calls", "queries", "rounds", "tokens_kept", "tokens_rolled_back")


@dataclass(frozen=True)  # no slots, for super() to work
class TokenComparison(Comparison):
    """All prompts, by the sequential loop and one that guesses tokens.

    Attributes:
        measured: queries and seconds of verifications by *all* rows: one whose
            stride is fixed says nothing about others.
    """

    measured: tuple[tuple[int, float], ...] = ()

    @property
    def bounds(self) -> Bounds:
        """The costs measured in this run."""
        bounds, points = super().bounds, self.verifications
        n_guesses = sum(n for n, _ in points)
        return replace(
            bounds,
            guess=self.total("seconds_guessing") / n_guesses if n_guesses else 0.0,
            verification=fitted(self.measured or points or [(1, bounds.retrieval)]),
        )

    @property
    def attainable(self) -> float:
        """What a perfect scheduler would reach with the costs of this run.

        Every token of a text is guessed, the first one too.
        """
        return self.attainable_endless

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return super().as_dict() | sums([pair.speculative for pair in self.pairs])


def sums(answers: list[Answer]) -> dict[str, dict[str, float]]:
    """What some answers did together, and the mean seconds of one."""
    counts = {name: sum(getattr(a.stats, name) for a in answers) for name in _COUNTS}
    return {"seconds": mean_seconds(answers), "counts": counts}


class TokenContest(Contest):
    """All rows of one k."""

    def comparisons(self) -> dict[str, TokenComparison]:
        """Every speculative row against the sequential one."""
        slow = self.answers[SEQUENTIAL]
        rows = {
            row: TokenComparison(
                list(map(Pair, self.questions, slow, self.answers[row]))
            )
            for row in self.models
            if row != SEQUENTIAL
        }
        points = tuple(p for row in rows.values() for p in row.verifications)
        rows = {name: replace(row, measured=points) for name, row in rows.items()}
        return beside_rivals(rows)


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
    sequential = sums(contest.answers[SEQUENTIAL])
    seconds = sequential["seconds"]
    return {
        SEQUENTIAL: sequential,
        "retrieval_share": some.retrieval_share,
        "search_share": seconds["searching"] / seconds["all"],
        "ceiling": some.bounds.ceiling,
        "attainable": some.attainable,
        "rows": {name: row.as_dict() for name, row in rows.items()},
    }
