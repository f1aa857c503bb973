"""The speculative loop of one answer without end, simulated step by step."""

import random
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Guessed:
    """A guess: whether it is right, and whether the documents really change."""

    is_right: bool
    changes: bool


@dataclass
class SimulatedLoop:
    """Writes, guesses, sends and rolls back as the loop does, on a clock of its own.

    Calls only wait: any number of them may be out at once.
    """

    stride: int
    in_flight: int
    unchanged: float  # seconds of a step under the documents of the step before
    changed: float  # and under others
    verification: float  # seconds of a call
    accuracy: float = 1.0  # of look-ups
    guess: float = 0.0  # seconds of a look-up
    stays: float = 1.0  # share of steps whose documents are those of the step before
    policy: str = "lookup"
    clock: float = 0.0
    n_final: int = 0
    _n_open: int = 0  # steps under guesses that are not verified yet
    _changes: bool = True  # whether the next step is written under other documents
    _group: list[Guessed] = field(default_factory=list)
    _calls: deque[tuple[float, list[Guessed]]] = field(default_factory=deque)
    _rng: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    def rate(self, n_steps: int) -> float:
        """Verified steps a second."""
        while self.n_final < n_steps:
            if not self._write():
                self._judge(0)
                continue
            self._group.append(self._guessed())
            if len(self._group) == self.stride:
                if self._judge(max(self.in_flight, 1) - 1):
                    continue
                self._calls.append((self.clock + self.verification, self._group))
                self._group = []
            self._judge(self.in_flight)
        return self.n_final / self.clock

    def _write(self) -> bool:
        """Write a step, but for one that a wrong guess makes void meanwhile."""
        end = self.clock + (self.changed if self._changes else self.unchanged)
        for landing, group in self._calls:
            if landing < end and not all(guess.is_right for guess in group):
                self.clock = max(self.clock, landing)
                return False
        self.clock = end
        if self._calls or self._group:
            self._n_open += 1
        else:
            self.n_final += 1
        return True

    def _guessed(self) -> Guessed:
        changes = self._rng.random() >= self.stays
        if self.policy == "same":
            self._changes = False
            return Guessed(not changes, changes)
        self.clock += self.guess
        is_right = self._rng.random() < self.accuracy
        self._changes = changes if is_right else self._rng.random() >= self.stays
        return Guessed(is_right, changes)

    def _judge(self, n_left: int) -> bool:
        """Judge calls until so many are out; tells whether a guess was wrong."""
        while len(self._calls) > n_left or (
            self._calls and self._calls[0][0] <= self.clock
        ):
            landing, group = self._calls.popleft()
            self.clock = max(self.clock, landing)
            right = [guess.is_right for guess in group]
            n_right = [*right, False].index(False)
            n_written = min(n_right, self._n_open)
            self.n_final += n_written
            self._n_open -= n_written
            if n_right < len(group):
                self._n_open, self._group = 0, []
                self._calls.clear()
                self._changes = group[n_right].changes
                return True
        return False
