"""Which guesses are to be trusted, as experience has it.

A look-up comes with a margin (:meth:`SessionCache.margin`): how far inside the balls
that the cache is known to fill it lies. Guesses of wide margins are right; the wrong
ones gather among the narrowest. Where the border is, is learnt.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WINDOW = 256  # guesses that the border is drawn from
_IDLE = 8  # steps without a guess for which one is forgotten
# Log-likelihood, in nats, that a border must explain beyond none. Of margins that tell
# nothing, the best of 255 borders explains so much in one case of 20.
_EVIDENCE = 4.0
_PRIOR_RIGHT, _PRIOR_ALL = 3.8, 4.0  # what is believed of sure guesses beforehand


@dataclass(frozen=True, slots=True)
class Split:
    """Guesses, parted by their margins.

    Attributes:
        trusted: a guess whose margin is less than this is unsure.
        unsure: share of the unsure ones.
        accuracy: share of right ones among the others.
        accuracy_unsure: share of right ones among the unsure.
    """

    trusted: float
    unsure: float
    accuracy: float
    accuracy_unsure: float


class Confidence:
    """Draws the border by greatest likelihood, over the latest guesses."""

    def __init__(self) -> None:
        """Start without guesses; then none is unsure."""
        self._guesses: deque[tuple[float, bool]] = deque(maxlen=_WINDOW)
        self._split: Split | None = None
        self._is_drawn = True
        self._n_idle = 0

    def add(self, margin: float, *, right: bool) -> None:
        """A guess of that margin was right or wrong."""
        if not math.isfinite(margin):  # of vectors that are not
            return
        self._guesses.append((margin, right))
        self._is_drawn = False

    def fade(self) -> None:
        """A step was not guessed: the oldest of the guesses go, slowly."""
        self._n_idle += 1
        if self._guesses and self._n_idle % _IDLE == 0:
            self._guesses.popleft()
            self._is_drawn = False

    @property
    def split(self) -> Split | None:
        """The border, and what lies on either side of it; None when none is known."""
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
    if gains[best] < _EVIDENCE:
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
    """Of so many right ones of ``n``, at their own share, smoothed."""
    share = (right + 0.5) / (n + 1)
    likelihood: NDArray[np.float64]
    likelihood = right * np.log(share) + (n - right) * np.log(1 - share)
    return likelihood
