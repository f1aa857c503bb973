"""Several loops answer the same questions in turn, so that their times compare.

All are in one process, where no other thread of ours runs meanwhile, and each goes
first as often as the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_ralmspec.bench.comparison import Answer, ask

SEQUENTIAL = "sequential"
"""The row that every other one is compared with."""


def rotated(rows: Sequence[str], number: int) -> list[str]:
    """Rows in an order in which each goes first and last in turn."""
    first = number % len(rows)
    turned = [*rows[first:], *rows[:first]]
    return turned if number // len(rows) % 2 == 0 else turned[::-1]


@dataclass(slots=True)
class Contest:
    """All rows, the sequential loop first, and what they have answered so far.

    Each row's model keeps what it learns of costs. ``n_warm`` is the number of untimed
    questions that each has answered; ``questions`` and ``answers`` are the timed ones.
    """

    models: dict[str, Any]
    questions: list[str] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    n_warm: int = 0

    def warm_up(self, questions: Sequence[str]) -> None:
        """Let every row answer, and forget what it said."""
        for question in questions:
            for model in self.models.values():
                ask(model, question)
            self.n_warm += 1

    def ask(self, question: str) -> None:
        """Let every row answer."""
        for row in rotated(list(self.models), len(self.questions)):
            answer = ask(self.models[row], question)
            self.answers.setdefault(row, []).append(answer)
        self.questions.append(question)

    def last_speedups(self) -> str:
        """The last question's speed-ups, for a line of progress."""
        slow = self.answers[SEQUENTIAL][-1].seconds
        return "  ".join(
            f"{row} {slow / self.answers[row][-1].seconds:.2f}×"
            for row in self.models
            if row != SEQUENTIAL
        )
