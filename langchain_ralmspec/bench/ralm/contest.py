"""The rows of RaLMSpec's benchmark, each against the sequential loop it must equal."""

from __future__ import annotations

from typing import Any

from langchain_ralmspec.bench.comparison import (
    Comparison,
    Pair,
    beside_rivals,
    first_text,
    mean_seconds,
)
from langchain_ralmspec.bench.contest import SEQUENTIAL, Contest

NARROW = "narrow"
"""The sequential loop with the search width of rows that do not prefetch."""


class WidthContest(Contest):
    """Rows that search as widely as the sequential loop, or as narrowly as another."""

    def comparisons(self, max_in_flight: int) -> dict[str, Comparison]:
        """Every speculative row against the sequential one; some verify in flight."""
        rows = {
            row: Comparison(
                self._pairs(row),
                max_in_flight if llm.asynchronous else 0,
                has_replica=llm.retriever.replica is not None,
            )
            for row, llm in self.models.items()
            if llm.speculation
        }
        return beside_rivals(rows)

    def _pairs(self, row: str) -> list[Pair]:
        # A store whose hits depend on how many are asked for may give the narrow
        # sequential loop other documents. The rows that search as narrowly must then
        # equal that one; the time to beat is always that of the defaults.
        narrow = NARROW in self.models and self.models[row].prefetch_k == 1
        answers = (
            self.answers[name]
            for name in (SEQUENTIAL, row, NARROW if narrow else SEQUENTIAL)
        )
        return list(map(Pair, self.questions, *answers))

    def sequential(self, row: str) -> dict[str, Any]:
        """Figures of a sequential loop: its seconds, its time against the other's."""
        speedups = Comparison(self._pairs(row)).quartiles
        return {"speedup_quartiles": speedups, **self.times(row)}

    def times(self, row: str) -> dict[str, Any]:
        """Mean seconds of a row's answer, in all and by part; when its text begins."""
        answers = self.answers[row]
        return {
            "seconds": mean_seconds(answers),
            "first_text": first_text(answers, self.answers[SEQUENTIAL]),
        }
