"""Sequential against speculative, question by question, and what it adds up to."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.bench.bounds import Bounds
from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.llms import KNNLMSpecLLM, RaLMSpecLLM
from langchain_ralmspec.speculation import Line
from langchain_ralmspec.speculation.costs import fitted
from langchain_ralmspec.speculation.measured import busy_share
from langchain_ralmspec.speculation.plan import SEQUENTIAL
from langchain_ralmspec.stores.waiting import THREADS

Row = TypeVar("Row", bound="Comparison")

_PATIENCE = 10.0  # seconds; a call that takes longer will not end soon

PARTS = ("generating", "guessing", "waiting", "embedding", "searching")
"""What ``SpeculationStats`` keeps seconds of."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer by one loop.

    Attributes:
        steps: tokens and document ids of every step; of a kNN-LM all tokens at once.
        seconds: from the question to the end of the answer, on the wall clock.
        first_text: from the question to the first text of the answer's stream; to its
            end, where there is none.
    """

    text: str
    steps: list[dict[str, Any]]
    stats: SpeculationStats
    seconds: float
    first_text: float


def ask(
    model: ChatRaLMSpec | RaLMSpecLLM | KNNLMSpecLLM,
    question: str,
    show: Callable[[str], None] | None = None,
    *,
    unread: bool = True,
) -> Answer:
    """Answer a question as if it were the first: no text's KV is there yet.

    ``show`` is called with every piece of the answer as it comes. Without ``unread``,
    what was read before is there.
    """
    _wait_for_calls()
    if unread:
        model.engine.forget_prefixes()  # what the loop before has prefilled
    gc.collect()  # what it has left lying about
    parts = []
    first: float | None = None
    start = time.perf_counter()
    run: Any = model.start(question)
    for text in run:
        if text and first is None:
            first = time.perf_counter() - start
        parts.append(text)
        if show:
            show(text)
    seconds = time.perf_counter() - start
    first_text = seconds if first is None else first
    return Answer("".join(parts), _steps(run), run.stats, seconds, first_text)


def _steps(run: Any) -> list[dict[str, Any]]:
    if not any(step.hits for step in run.steps):  # a kNN-LM has no documents
        return [{"tokens": list(run.tokens)}]
    return [
        {"tokens": list(step.tokens), "documents": [hit.id for hit in step.hits]}
        for step in run.steps
    ]


def mean_seconds(answers: list[Answer]) -> dict[str, float]:
    """Mean seconds of an answer: in all, and by part.

    Generating, guessing and waiting follow one another. Embedding and searching are
    inside of guessing and waiting, or beside them in a thread.
    """
    seconds = {"all": statistics.fmean(answer.seconds for answer in answers)}
    for part in PARTS:
        spent = (getattr(answer.stats, f"seconds_{part}") for answer in answers)
        seconds[part] = statistics.fmean(spent)
    return seconds


def first_text(answers: list[Answer], sequential: list[Answer]) -> dict[str, float]:
    """Seconds to the first text, the median; and how many times as soon it is there.

    That is the median over the questions, as a speed-up is: prompts differ more in
    length than loops in speed.
    """
    sooner = [
        slow.first_text / answer.first_text
        for slow, answer in zip(sequential, answers, strict=True)
    ]
    return {
        "seconds": statistics.median(answer.first_text for answer in answers),
        "sooner": statistics.median(sooner),
    }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles of one value or more; the second one is the median."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, method="inclusive")
    return low, middle, high


def beside_rivals(rows: dict[str, Row]) -> dict[str, Row]:
    """The rows of a run, each knowing all of them."""
    rivals = tuple(rows.values())
    return {name: replace(row, rivals=rivals) for name, row in rows.items()}


def _wait_for_calls() -> None:
    """Let calls that nobody listens to any more end, so that they slow nobody."""
    for thread in threading.enumerate():
        if thread.name.startswith(THREADS):
            thread.join(_PATIENCE)


@dataclass(frozen=True, slots=True)
class Pair:
    """One question, answered by both loops in the same process.

    Attributes:
        reference: the sequential answer to be equal to, where it is not the one to be
            faster than: in a store whose hits depend on how many are asked for, it is
            that of a sequential loop which asks for as many.
    """

    question: str
    sequential: Answer
    speculative: Answer
    reference: Answer | None = None

    @property
    def identical(self) -> bool:
        """Whether tokens, documents and text are the same."""
        one, other = self.reference or self.sequential, self.speculative
        return (one.text, one.steps) == (other.text, other.steps)

    @property
    def speedup(self) -> float:
        """Sequential time ÷ speculative time, end to end."""
        return self.sequential.seconds / self.speculative.seconds


@dataclass(frozen=True, slots=True)
class Comparison:
    """All questions of one workload, by the sequential loop and one speculative one.

    Attributes:
        max_in_flight: verifications that may be out while the model writes; 0 for a
            synchronous loop.
        has_replica: whether guesses are looked up in a replica, too.
        rivals: the other speculative rows of the run.
    """

    pairs: list[Pair]
    max_in_flight: int = 0
    has_replica: bool = False
    rivals: tuple[Comparison, ...] = ()

    def total(self, name: str, loop: str = "speculative") -> float:
        """Sum of one of the ``SpeculationStats`` over all questions."""
        answers = (getattr(pair, loop) for pair in self.pairs)
        return float(sum(getattr(answer.stats, name) for answer in answers))

    @property
    def n_identical(self) -> int:
        """Answers with the same tokens, documents and text as the sequential ones."""
        return sum(pair.identical for pair in self.pairs)

    @property
    def speedup(self) -> float:
        """All sequential seconds ÷ all speculative ones.

        The costs behind :attr:`bounds` are means, so this is what compares to it;
        the median of the questions' speed-ups does not.
        """
        return sum(pair.sequential.seconds for pair in self.pairs) / sum(
            pair.speculative.seconds for pair in self.pairs
        )

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Of the questions' speed-ups; the second one is the median."""
        return quartiles([pair.speedup for pair in self.pairs])

    @property
    def guess_accuracy(self) -> float:
        """Share of judged guesses that were right; 0 without any."""
        return self.total("right_guesses") / (self.total("guesses") or 1.0)

    @property
    def proven(self) -> float:
        """Share of judged guesses that needed no verification; 0 without any."""
        return self.total("proven_guesses") / (self.total("guesses") or 1.0)

    @property
    def plans(self) -> dict[str, float]:
        """How often each plan was followed, as a share, the most frequent first."""
        counts: Counter[str] = Counter()
        for pair in self.pairs:
            counts.update(pair.speculative.stats.plans)
        return {plan: n / counts.total() for plan, n in counts.most_common()}

    @property
    def verifications(self) -> list[tuple[int, float]]:
        """Queries and seconds of every verification that was used."""
        return [
            point
            for pair in self.pairs
            for point in pair.speculative.stats.verifications
        ]

    @property
    def bounds(self) -> Bounds:
        """The costs measured in this run."""
        # All that were made, not only those before a wrong one, which are judged.
        guesses = sum(
            n
            for pair in self.pairs
            for plan, n in pair.speculative.stats.plans.items()
            if plan != SEQUENTIAL.label
        )
        steps = self.total("steps", "sequential")
        queries = self.total("queries", "sequential")
        retrieval = self.total("seconds_waiting", "sequential") / queries
        embedding = self.total("seconds_embedding", "sequential")
        return Bounds(
            generation=self.total("seconds_generating", "sequential") / steps,
            retrieval=retrieval,
            guess=self.total("seconds_guessing") / guesses if guesses else 0.0,
            # Where nothing was verified, either nothing was guessed, and the bound is
            # 1, or all was proven.
            verification=fitted(self.verifications or [(1, retrieval)]),
            guess_accuracy=self.guess_accuracy,
            max_in_flight=self.max_in_flight,
            embedding=embedding / queries,
            embedding_busy=self._busy("embedding"),
            searching_busy=self._busy("searching"),
            guesses_first=self.has_replica,
        )

    def _busy(self, part: str) -> float:
        """Share of a part of the sequential loop's retrievals that computes here."""
        seconds = self.total(f"seconds_{part}", "sequential")
        idle = self.total(f"seconds_{part}_idle", "sequential")
        return busy_share(idle / seconds if seconds else 0.0)

    @property
    def repeating(self) -> Bounds:
        """The costs of guessing that every step has the documents of the one before.

        The sequential loop alone tells them, for verifications of one query.
        """
        bounds = self.bounds
        documents = [[s["documents"] for s in p.sequential.steps] for p in self.pairs]
        repeated = [one == other for each in documents for one, other in pairwise(each)]
        return replace(
            bounds,
            guess=0.0,
            verification=Line(bounds.retrieval, 0.0),
            guess_accuracy=statistics.fmean(repeated) if repeated else 0.0,
            longest=1,
            guesses_first=False,
        )

    @property
    def attainable(self) -> float:
        """What a perfect scheduler would reach with the costs and answers of this run.

        That of the best row that this one could have been, or of repeating documents:
        a row that guessed little, or by the worse policy, must not set its own bar.
        """
        lengths = [pair.sequential.stats.steps for pair in self.pairs]
        costs = (self.repeating, *self._costs())
        return max(bounds.attainable_at(lengths) for bounds in costs)

    @property
    def attainable_endless(self) -> float:
        """The attainable speed-up, were answers endless; it explains a gap."""
        return max(bounds.attainable for bounds in self._costs())

    def _costs(self) -> list[Bounds]:
        """The costs of this row, and of those that it could have been."""
        rivals = [
            row
            for row in self.rivals
            if row.max_in_flight <= self.max_in_flight
            and row.has_replica <= self.has_replica
        ]
        return [row.bounds for row in (self, *rivals)]

    @property
    def reached(self) -> float:
        """Share of the attainable speed-up that was reached."""
        return self.speedup / self.attainable

    @property
    def retrieval_share(self) -> float:
        """Share of the sequential time that went into retrieval."""
        seconds = sum(pair.sequential.seconds for pair in self.pairs)
        return self.total("seconds_waiting", "sequential") / seconds

    def summary(self) -> dict[str, Any]:
        """The figures to quote."""
        bounds = self.bounds
        return {
            "speedup_median": self.quartiles[1],
            "speedup_sums": self.speedup,
            "ceiling": bounds.ceiling,
            "attainable": self.attainable,
            "identical": self.n_identical == len(self.pairs),
            "questions": len(self.pairs),
            "guess_accuracy": self.guess_accuracy,
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return {
            "summary": self.summary(),
            "speedup_quartiles": self.quartiles,
            "reached": self.reached,
            "attainable_endless": self.attainable_endless,
            "retrieval_share": self.retrieval_share,
            "proven": self.proven,
            "plans": self.plans,
            "costs_seconds": asdict(self.bounds),
            "answers": [
                {
                    "question": pair.question,
                    "identical": pair.identical,
                    "speedup": pair.speedup,
                    "answer": pair.speculative.text,
                    "sequential": _figures(pair.sequential),
                    "speculative": _figures(pair.speculative),
                }
                for pair in self.pairs
            ],
        }


def _figures(answer: Answer) -> dict[str, Any]:
    return {
        "seconds_on_the_wall": answer.seconds,
        "first_text": answer.first_text,
        **answer.stats.as_dict(),
    }
