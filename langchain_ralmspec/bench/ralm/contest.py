"""Several loops answer the same questions in turn, so that their times compare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.bench.comparison import PARTS, Answer, Comparison, Pair, ask

if TYPE_CHECKING:
    from langchain_ralmspec.llms import RaLMSpecLLM

SEQUENTIAL = "sequential"
NARROW = "narrow"
"""The sequential loop with the search width of rows that do not prefetch."""


@dataclass(slots=True)
class Contest:
    """All rows, and what they have answered so far.

    Attributes:
        models: by row; the sequential loop first. Each keeps what it learns of costs.
        questions: asked so far, in order.
        answers: to these, by row.
        n_warm: untimed questions that each row has answered.
    """

    models: dict[str, RaLMSpecLLM]
    questions: list[str] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    n_warm: int = 0

    def warm_up(self, questions: list[str]) -> None:
        """Let every row answer, and forget what it said."""
        for question in questions:
            for row in self._in_turn():
                ask(self.models[row], question)
            self.n_warm += 1

    def ask(self, question: str) -> None:
        """Let every row answer."""
        for row in self._in_turn():
            answer = ask(self.models[row], question)
            self.answers.setdefault(row, []).append(answer)
        self.questions.append(question)

    def _in_turn(self) -> list[str]:
        """Rows in an order in which each goes first and last in turn."""
        rows, number = list(self.models), len(self.questions)
        first = number % len(rows)
        turned = rows[first:] + rows[:first]
        return turned if number // len(rows) % 2 == 0 else turned[::-1]

    def comparisons(self, max_in_flight: int) -> dict[str, Comparison]:
        """Every speculative row against the sequential one.

        Args:
            max_in_flight: of the rows that verify asynchronously.
        """
        rows = {
            row: Comparison(self._pairs(row), max_in_flight if llm.asynchronous else 0)
            for row, llm in self.models.items()
            if llm.speculation
        }
        rivals = tuple(rows.values())
        return {name: replace(row, rivals=rivals) for name, row in rows.items()}

    def _pairs(self, row: str) -> list[Pair]:
        # A store whose hits depend on how many are asked for may give the narrow
        # sequential loop other documents. The rows that search as narrowly must then
        # equal that one; the time to beat is always that of the defaults.
        narrow = NARROW in self.models and self.models[row].prefetch_k == 1
        references = self.answers[NARROW if narrow else SEQUENTIAL]
        return [
            Pair(question, sequential, speculative, reference)
            for question, sequential, speculative, reference in zip(
                self.questions,
                self.answers[SEQUENTIAL],
                self.answers[row],
                references,
                strict=True,
            )
        ]

    def sequential(self, row: str) -> dict[str, Any]:
        """Figures of a sequential loop: its seconds, its time against the other's."""
        speedups = Comparison(self._pairs(row)).quartiles
        return {"speedup_quartiles": speedups, "seconds": self.seconds(row)}

    def seconds(self, row: str) -> dict[str, float]:
        """Mean seconds of an answer: in all, and by part.

        Generating, guessing and waiting follow one another. Embedding and searching
        are inside of guessing and waiting, or beside them in a thread.
        """
        answers = self.answers[row]
        seconds = {"all": sum(answer.seconds for answer in answers) / len(answers)}
        for part in PARTS:
            spent = sum(getattr(answer.stats, f"seconds_{part}") for answer in answers)
            seconds[part] = spent / len(answers)
        return seconds

    def last_speedups(self) -> str:
        """The last question's speed-ups, for a line of progress."""
        slow = self.answers[SEQUENTIAL][-1].seconds
        return "  ".join(
            f"{row} {slow / answers[-1].seconds:.2f}×"
            for row, answers in self.answers.items()
            if row != SEQUENTIAL
        )

    def timeline(self, row: Comparison) -> dict[str, Any]:
        """The question whose speed-up is the median one, by both loops."""
        ranked = sorted(row.pairs, key=lambda pair: pair.speedup)
        pair = ranked[len(ranked) // 2]
        return {
            "question": pair.question,
            "sequential": pair.sequential.timeline,
            "speculative": pair.speculative.timeline,
        }
