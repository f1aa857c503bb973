"""Which guesses to trust: a border between margins, learnt from past guesses.

A look-up comes with a margin (:meth:`SessionCache.margin`): how far its query lies
inside the balls that the cache is known to fill. Guesses with wide margins are right;
wrong guesses gather among the narrowest margins.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WINDOW = 256  # latest guesses that the border is drawn from
_IDLE_STEPS = 8  # steps without a guess after which the oldest guess is forgotten
# Log-likelihood, in nats, that a border must explain beyond none. With margins that
# tell nothing, the best of 255 borders reaches it in one case of 20.
_MIN_EVIDENCE = 4.0
_PRIOR_RIGHT, _PRIOR_ALL = 3.8, 4.0  # right ones among sure guesses, before any is seen


@dataclass(frozen=True, slots=True)
class Split:
    """A border that parts guesses by their margins into sure and unsure ones."""

    trusted: float  # a guess whose margin is less is unsure
    unsure: float  # share of unsure guesses
    accuracy: float  # share of right ones among sure guesses
    accuracy_unsure: float  # share of right ones among unsure guesses


class Confidence:
    """Draws the most likely border between the margins of the latest guesses."""

    def __init__(self) -> None:
        """Start without guesses and without a border."""
        self._guesses: deque[tuple[float, bool]] = deque(maxlen=_WINDOW)
        self._split: Split | None = None
        self._is_drawn = True
        self._n_idle = 0

    def add(self, margin: float, *, right: bool) -> None:
        """Add whether a guess with this margin was right."""
        if not math.isfinite(margin):  # of vectors that are not
            return
        self._guesses.append((margin, right))
        self._is_drawn = False

    def fade(self) -> None:
        """Age by a step without a guess: slowly, the oldest guesses are forgotten."""
        self._n_idle += 1
        if self._guesses and self._n_idle % _IDLE_STEPS == 0:
            self._guesses.popleft()
            self._is_drawn = False

    @property
    def split(self) -> Split | None:
        """The border and the guesses on either side; None when margins tell nothing."""
        if not self._is_drawn:
            self._is_drawn = True
            self._split = _best_split(sorted(self._guesses))
        return self._split


def _best_split(guesses: list[tuple[float, bool]]) -> Split | None:
    """The likeliest border between ascending margins; None when none explains much."""
    n = len(guesses)
    if all(right for _, right in guesses):
        return None
    margins = np.array([margin for margin, _ in guesses])
    below = np.arange(n + 1)
    right_below = np.concatenate([[0], np.cumsum([right for _, right in guesses])])
    above, right_above = n - below, right_below[-1] - right_below
    gains = _log_likelihood(right_below, below) + _log_likelihood(right_above, above)
    gains -= gains[0]
    # A border parts different margins, with the better guesses above it.
    gains[1:n][margins[1:] == margins[:-1]] = -np.inf
    gains[1:n][right_below[1:n] * above[1:n] >= right_above[1:n] * below[1:n]] = -np.inf
    gains[n] = -np.inf
    best = int(np.argmax(gains))
    if gains[best] < _MIN_EVIDENCE:
        return None
    return Split(
        trusted=float(margins[best]),
        unsure=best / n,
        accuracy=float((right_above[best] + _PRIOR_RIGHT) / (above[best] + _PRIOR_ALL)),
        accuracy_unsure=float(right_below[best] / best),
    )


def _log_likelihood(
    right: NDArray[np.integer[Any]], n: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Of ``right`` right guesses among ``n``, at their own share, smoothed."""
    share = (right + 0.5) / (n + 1)
    likelihood: NDArray[np.float64]
    likelihood = right * np.log(share) + (n - right) * np.log(1 - share)
    return likelihood
