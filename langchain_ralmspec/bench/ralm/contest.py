"""The rows of RaLMSpec's benchmark, each against the sequential loop it must equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_ralmspec.bench.comparison import (
    Comparison,
    Pair,
    beside_rivals,
    first_text,
    mean_seconds,
)
from langchain_ralmspec.bench.contest import SEQUENTIAL, Contest

if TYPE_CHECKING:
    from collections.abc import Sequence

NARROW = "narrow"
"""The sequential loop with the search width of rows that do not prefetch."""

READ = "W"
"""The sequential loop whose passages were read before: a folder has their KV. So it
has for rows whose name ends so, which are compared with this one."""


class RowContest(Contest):
    """Rows, each against the sequential loop that does without its booster alone."""

    def read(self, questions: Sequence[str]) -> None:
        """Have the folder keep what the answers to these questions are read from."""
        model = self.models[READ]
        Contest({READ: model}).warm_up(questions)
        model.engine.flush()

    def comparisons(self, max_in_flight: int) -> dict[str, Comparison]:
        """Every speculative row against its sequential one; some verify in flight."""
        rows = {
            row: Comparison(
                self._pairs(row),
                max_in_flight if llm.asynchronous else 0,
                has_replica=llm.retriever.replica is not None,
            )
            for row, llm in self.models.items()
            if llm.speculation
        }
        cold = {row: each for row, each in rows.items() if not row.endswith(READ)}
        read = {row: each for row, each in rows.items() if row.endswith(READ)}
        return beside_rivals(cold) | beside_rivals(read)

    def _pairs(self, row: str) -> list[Pair]:
        if row.endswith(READ) and row != READ:
            return [*map(Pair, self.questions, self.answers[READ], self.answers[row])]
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
        compared = Comparison(self._pairs(row))
        return {
            "speedup_quartiles": compared.quartiles,
            "speedup_sums": compared.speedup,
            "n_identical": compared.n_identical,
            **self.times(row),
        }

    def times(self, row: str) -> dict[str, Any]:
        """Mean seconds of a row's answer, in all and by part; when its text begins.

        Where passages were read before, also its speed-up over the loop that reads
        every passage anew, and the tokens that had to be read after all.
        """
        answers, plain = self.answers[row], self.answers[SEQUENTIAL]
        told: dict[str, Any] = {
            "seconds": mean_seconds(answers),
            "first_text": first_text(answers, plain),
        }
        if row.endswith(READ):
            over = Comparison(list(map(Pair, self.questions, plain, answers)))
            told["over_unread"] = {"median": over.quartiles[1], "sums": over.speedup}
            told["read_tokens"] = sum(each.stats.read_tokens for each in answers)
            told["cached_tokens"] = sum(each.stats.cached_tokens for each in answers)
        return told
