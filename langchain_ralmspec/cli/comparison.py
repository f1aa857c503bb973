"""Sequential against speculative, question by question, and what it adds up to."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from langchain_ralmspec.speculation import Bounds, SpeculationStats


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer by one loop.

    Attributes:
        text: the answer.
        steps: tokens and document ids of every stride.
        stats: counts and seconds.
    """

    text: str
    steps: list[dict[str, Any]]
    stats: SpeculationStats


@dataclass(frozen=True, slots=True)
class Row:
    """One question, answered by both loops in the same process."""

    question: str
    sequential: Answer
    speculative: Answer

    @property
    def identical(self) -> bool:
        """Whether tokens, documents and text are the same."""
        one, other = self.sequential, self.speculative
        return (one.text, one.steps) == (other.text, other.steps)

    @property
    def speedup(self) -> float:
        """Sequential time ÷ speculative time, end to end."""
        return self.sequential.stats.seconds / self.speculative.stats.seconds


@dataclass(frozen=True, slots=True)
class Comparison:
    """All questions of one workload."""

    rows: list[Row]

    def _total(self, name: str, loop: str) -> float:
        return float(sum(getattr(getattr(row, loop).stats, name) for row in self.rows))

    @property
    def guess_accuracy(self) -> float:
        """Share of judged guesses that were right; 0 when there were none."""
        guesses = self._total("guesses", "speculative")
        return self._total("right_guesses", "speculative") / guesses if guesses else 0.0

    @property
    def bounds(self) -> Bounds:
        """The costs measured in this run.

        The cost of a verification is a line through what one query cost the
        sequential loop and what a batch cost the speculative one.
        """
        steps = self._total("steps", "sequential")
        queries = self._total("queries", "sequential")
        retrieval = self._total("seconds_waiting", "sequential") / queries
        calls = self._total("store_calls", "speculative")
        batch = self._total("queries", "speculative") / calls
        call = self._total("seconds_waiting", "speculative") / calls
        # Embedding outside of verification is what guessing by look-up costs.
        embedding = self._total("seconds_embedding", "speculative")
        searching = self._total("seconds_searching", "speculative")
        guessing = embedding + searching - self._total("seconds_waiting", "speculative")
        guess = guessing / self._total("steps", "speculative")
        single = retrieval - guess  # one verification without what the guess paid
        per_query = max(0.0, (call - single) / (batch - 1)) if batch > 1 else 0.0
        return Bounds(
            generation=self._total("seconds_generating", "sequential") / steps,
            retrieval=retrieval,
            guess=guess,
            verification_base=max(0.0, call - per_query * batch),
            verification_per_query=per_query,
            guess_accuracy=self.guess_accuracy,
        )

    def summary(self) -> dict[str, Any]:
        """The figures to quote."""
        bounds = self.bounds
        return {
            "speedup_median": statistics.median(row.speedup for row in self.rows),
            "ceiling": bounds.ceiling,
            "attainable": bounds.attainable,
            "identical": all(row.identical for row in self.rows),
            "questions": len(self.rows),
            "guess_accuracy": self.guess_accuracy,
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return {
            "summary": self.summary(),
            "costs_seconds": asdict(self.bounds),
            "machine": machine(),
            "rows": [
                {
                    "question": row.question,
                    "identical": row.identical,
                    "speedup": row.speedup,
                    "answer": row.speculative.text,
                    "sequential": row.sequential.stats.as_dict(),
                    "speculative": row.speculative.stats.as_dict(),
                }
                for row in self.rows
            ],
        }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    packages = ("langchain-ralmspec", "llama-cpp-python", "faiss-cpu", "chromadb")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123  a device
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
