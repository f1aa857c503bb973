"""What speculation could reach at best, with the costs of one workload."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from langchain_ralmspec.speculation.costs import Line
from langchain_ralmspec.speculation.plan import (
    STRIDES,
    GuessChances,
    StepSeconds,
    call_seconds,
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Costs of one workload, and the speed-ups that they allow (RaLMSpec section 4).

    Attributes:
        generation: seconds of writing one step, the paper's *a*.
        retrieval: seconds of a retrieval of the sequential loop, the paper's *b(1)*.
        guess: seconds of a guess; 0 when no query is embedded for it.
        verification: *b(s)*.
        guess_accuracy: probability that a guess is right, *γ*.
        max_in_flight: calls that may be out while the model writes.
        embedding: of ``retrieval``, the seconds in the query encoder.
        embedding_busy: share of these in which this machine computes. The rest is
            waiting, which costs nothing where anything else is there to be done.
        searching_busy: likewise of the seconds in the store.
        longest: the most guesses of a call that its costs are known for.
        guesses_first: whether an answer's first documents are guessed, too.
    """

    generation: float
    retrieval: float
    guess: float
    verification: Line
    guess_accuracy: float
    max_in_flight: int = 0
    embedding: float = 0.0
    embedding_busy: float = 0.0
    searching_busy: float = 0.0
    longest: int = STRIDES[-1]
    guesses_first: bool = False

    @property
    def ceiling(self) -> float:
        """1 + b/a: the speed-up if retrieval cost nothing."""
        return 1 + self.retrieval / self.generation

    @property
    def attainable(self) -> float:
        """Speed-up of the best fixed plan in an endless answer.

        Were its costs always their mean, and never under 1, because not to speculate
        is a choice.
        """
        step = self.generation + self.retrieval
        return max(1.0, step / min(seconds for seconds, _ in self._plans(self.longest)))

    def attainable_at(self, lengths: Iterable[int]) -> float:
        """The attainable speed-up for answers of so many steps, all together.

        The first retrieval of an answer has nothing that it could be guessed from but a
        replica, and what is written last is an answer only when its documents are
        verified.
        """
        step = self.generation + self.retrieval
        steps = seconds = 0.0
        for length in lengths:
            steps += length
            seconds += min(length * step, self._answer_seconds(length))
        return steps * step / seconds if seconds else 1.0

    def _answer_seconds(self, n_steps: int) -> float:
        """Seconds of an answer by the plan that is the best for one of this length."""
        first, n_guessed = self.generation + self.retrieval, n_steps - 1
        if self.guesses_first:
            first, n_guessed = 0.0, n_steps
        if n_guessed < 1:
            return n_steps * first
        plans = self._plans(min(n_guessed, self.longest))
        return first + min(n_guessed * seconds + last for seconds, last in plans)

    def _plans(self, longest: int) -> Iterator[tuple[float, float]]:
        """Yield each plan's T(s, d) / E(s), and what waits for the last call."""
        for stride in range(1, longest + 1):
            for in_flight in range(self.max_in_flight + 1):
                yield self._seconds(stride, in_flight)

    def _seconds(self, stride: int, in_flight: int) -> tuple[float, float]:
        """T(s, d) / E(s), and the seconds between the last text and its verification.

        Where calls are out while the model writes, so may requests for the vectors of
        queries be: what a guess waits for is then a part of what its call waits for.
        """
        chances = GuessChances(self.guess_accuracy)
        waited = self.guess * (1 - self.embedding_busy) if in_flight else 0.0
        step = self.generation + self.guess - waited
        call = self.verification(stride)
        seconds = call_seconds(
            chances,
            stride,
            in_flight,
            step=StepSeconds(step),
            verification=call + waited,
            computing=self._computing(call),
        )
        last = max(0.0, call + waited - stride * step) if in_flight else 0.0
        kept = chances.kept(stride)
        return seconds / kept, last * chances.all_right(stride)

    def _computing(self, call: float) -> float:
        """c(s): seconds of a call that no other call can share."""
        # Of the embedding, what the guess has not paid.
        embedding = min(call, max(0.0, self.embedding - self.guess))
        searching = call - embedding
        return embedding * self.embedding_busy + searching * self.searching_busy
