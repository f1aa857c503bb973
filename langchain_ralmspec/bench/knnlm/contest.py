"""Several kNN-LM loops continue the same prompts in turn, so that times compare."""

from __future__ import annotations

import gc
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.bench.comparison import Answer, Comparison, Pair
from langchain_ralmspec.bench.rapid.contest import in_turn
from langchain_ralmspec.speculation import Line

if TYPE_CHECKING:
    from langchain_ralmspec.llms import KNNLMSpecLLM
    from langchain_ralmspec.speculation import Bounds

SEQUENTIAL = "sequential"
PARTS = ("generating", "guessing", "waiting", "searching")
"""What ``SpeculationStats`` keeps seconds of, and is spent here."""

_COUNTS = ("store_calls", "queries", "rounds", "tokens_kept", "tokens_rolled_back")


def answer(llm: KNNLMSpecLLM, prompt: str) -> Answer:
    """Continue a prompt as if it were the first: its KV is not there yet."""
    llm.engine.forget_prefixes()  # what the loop before has prefilled
    gc.collect()  # what it has left lying about
    start = time.perf_counter()
    run = llm.start(prompt)
    text = "".join(run)
    seconds = time.perf_counter() - start
    return Answer(text, [{"tokens": list(run.tokens)}], run.stats, seconds, [])


@dataclass(frozen=True)  # no slots, for super() to work
class TokenComparison(Comparison):
    """All prompts, by the sequential loop and one that guesses tokens.

    Attributes:
        measured: queries and seconds of verifications by *all* rows: one whose
            stride is fixed says nothing about others.
    """

    measured: tuple[tuple[int, float], ...] = ()

    @property
    def verifications(self) -> list[tuple[int, float]]:
        """Queries and seconds of this row's own verifications."""
        return [
            point
            for pair in self.pairs
            for point in pair.speculative.stats.verifications
        ]

    @property
    def bounds(self) -> Bounds:
        """The costs measured in this run."""
        bounds, points = super().bounds, self.verifications
        n_guesses = sum(n for n, _ in points)
        return replace(
            bounds,
            guess=self.total("seconds_guessing") / n_guesses if n_guesses else 0.0,
            verification=Line.fit(self.measured or points or [(1, bounds.retrieval)]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        points = self.verifications
        return {
            **super().as_dict(),
            "own_verification": asdict(Line.fit(points)) if points else None,
            **sums([pair.speculative for pair in self.pairs]),
        }


def sums(answers: list[Answer]) -> dict[str, dict[str, float]]:
    """What some answers did together, and the mean seconds of one, in all and by part.

    Generating, guessing and waiting follow one another; searching is inside of
    waiting.
    """
    seconds = {"all": sum(each.seconds for each in answers) / len(answers)}
    for part in PARTS:
        spent = sum(getattr(each.stats, f"seconds_{part}") for each in answers)
        seconds[part] = spent / len(answers)
    counts = {name: sum(getattr(a.stats, name) for a in answers) for name in _COUNTS}
    return {"seconds": seconds, "counts": counts}


@dataclass(slots=True)
class TokenContest:
    """All rows of one k, and what they have written so far.

    Attributes:
        models: by row; the sequential loop first. Each keeps what it learns of costs.
        prompts: continued so far, in order.
        answers: to these, by row.
    """

    models: dict[str, KNNLMSpecLLM]
    prompts: list[str] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)

    def warm_up(self, prompt: str) -> None:
        """Let every row continue a prompt, and forget what it wrote."""
        for llm in self.models.values():
            answer(llm, prompt)

    def ask(self, prompt: str) -> None:
        """Let every row continue a prompt."""
        for row in in_turn(list(self.models), len(self.prompts)):
            written = answer(self.models[row], prompt)
            self.answers.setdefault(row, []).append(written)
        self.prompts.append(prompt)

    def comparisons(self) -> dict[str, TokenComparison]:
        """Every speculative row against the sequential one."""
        rows = {
            row: TokenComparison(
                [
                    Pair(prompt, slow, fast)
                    for prompt, slow, fast in zip(
                        self.prompts,
                        self.answers[SEQUENTIAL],
                        self.answers[row],
                        strict=True,
                    )
                ]
            )
            for row in self.models
            if row != SEQUENTIAL
        }
        points = tuple(p for row in rows.values() for p in row.verifications)
        rows = {name: replace(row, measured=points) for name, row in rows.items()}
        rivals = tuple(rows.values())
        return {name: replace(row, rivals=rivals) for name, row in rows.items()}

    def last_speedups(self) -> str:
        """The last prompt's speed-ups, for a line of progress."""
        slow = self.answers[SEQUENTIAL][-1].seconds
        return "  ".join(
            f"{row} {slow / self.answers[row][-1].seconds:.2f}×"
            for row in self.models
            if row != SEQUENTIAL
        )
