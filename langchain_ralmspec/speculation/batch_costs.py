"""*v(n)*: what a target pass over n tokens costs, learnt from passes made anyway."""

from __future__ import annotations

from bisect import bisect_right
from threading import Lock

# v(n) ÷ v(1) as measured on two CPU cores behind 8,000 tokens: the first belief.
_CPU_SHAPE = ((1, 1.0), (2, 1.8), (4, 2.3), (8, 3.2), (16, 5.3), (32, 8.8))
_SHAPE_WEIGHT = 1.0  # measurements that this belief is worth
_MAX_STEEPNESS = 4.0  # bounds k; a pass that took longer met a slow moment
_UNTRIED_STEEPNESS = 0.3  # k where no draft was verified lately: low, so that one is
_MAX_WEIGHT = 16.0  # bounds the measurements of a size that count
_MIN_WEIGHT = 0.25  # measurements; a size with less is to be measured again
_FORGET = 1 / 256  # of its weight a size loses with each pass, of whatever size
_NEIGHBOUR_REACH = 1 / 5  # of a size: sizes within it share their measurements
_MAX_NEIGHBOUR_WEIGHT = 3.0  # measurements of a size that its neighbours are worth
_MIN_RATIO = 0.8  # of v(1): a larger pass that takes less says that v(1) is wrong


class BatchCosts:
    """Seconds of a target pass over n tokens: measured for some n, else estimated.

    Sizes that were not used follow a curve, *v(1)·(1 + k·(shape(n) - 1))*, with *k*
    from sizes that were: 1 for a CPU like ours, about 0 for a GPU. Before any was, *k*
    is assumed to be low, which costs a draft. A size shares its measurements with its
    neighbours, since one pass may be slow by more than several tokens are worth; many
    measurements of a size itself outweigh theirs.
    Requests in several threads may add measurements, and ask for costs, at once.
    """

    def __init__(self) -> None:
        """Start without measurements."""
        self._means: dict[int, float] = {}
        self._weights: dict[int, float] = {}  # measurements that a mean is worth
        self._estimates: dict[int, float] = {}  # kept until the next measurement
        self._lock = Lock()

    def add(self, n_tokens: int, seconds: float) -> None:
        """Add a measurement."""
        with self._lock:
            self._add(n_tokens, seconds)

    def _add(self, n_tokens: int, seconds: float) -> None:
        self._estimates.clear()
        if n_tokens > 1 and seconds < _MIN_RATIO * self._means.get(1, 0.0):
            # No larger pass is faster: v(1) was a slow moment, or all is faster now.
            # Were it believed, drafts would seem free, and nothing would time it again.
            del self._means[1], self._weights[1]
        # Older ones fade, so that a slow moment is not for ever.
        for size in self._weights:
            self._weights[size] *= 1 - _FORGET
        weight = min(_MAX_WEIGHT, self._weights.get(n_tokens, 0.0) + 1)
        before = self._means.get(n_tokens, seconds)
        self._weights[n_tokens] = weight
        self._means[n_tokens] = before + (seconds - before) / weight

    @property
    def is_known(self) -> bool:
        """Whether a pass over a single token was timed lately; others follow from it.

        Where every pass has a draft, one goes without now and then to learn it.
        """
        return self._weights.get(1, 0.0) >= _MIN_WEIGHT

    def __call__(self, n_tokens: int) -> float:
        """Seconds of a pass; in unknown units before any pass was timed."""
        with self._lock:
            if n_tokens not in self._estimates:
                self._estimates[n_tokens] = self._estimate(n_tokens)
            return self._estimates[n_tokens]

    def _estimate(self, n_tokens: int) -> float:
        """The curve's seconds, times actual ÷ curve of passes of about this size."""
        single, steepness = self._single, self._steepness

        def curve(size: int, k: float) -> float:
            return single * (1 + k * (_shape(size) - 1))

        def ratio(size: int) -> float:
            mean = min(self._means[size], curve(size, _MAX_STEEPNESS))
            return mean / curve(size, steepness)

        reach = _NEIGHBOUR_REACH * n_tokens
        near = {
            size: weight * (1 - abs(size - n_tokens) / reach)
            for size, weight in self._weights.items()
            if abs(size - n_tokens) < reach
        }
        # Where kernels change, a size is unlike its neighbours: its own passes prevail.
        own = near.pop(n_tokens, 0.0)
        others = sum(near.values())
        share = min(1.0, _MAX_NEIGHBOUR_WEIGHT / others) if others else 0.0
        total = 1.0 + share * sum(weight * ratio(size) for size, weight in near.items())
        if own:
            total += own * ratio(n_tokens)
        return curve(n_tokens, steepness) * total / (1.0 + own + share * others)

    @property
    def _single(self) -> float:
        if 1 in self._means:
            return self._means[1]
        return min((mean / _shape(n) for n, mean in self._means.items()), default=1.0)

    @property
    def _steepness(self) -> float:
        """*k*: a mean over the sizes that were used and the belief that it is 1.

        It is low where no size was used lately: else no draft would be verified that
        pays on a GPU only, and nothing would tell a GPU from a CPU.
        """
        single = self._single
        total = weights = 0.0
        for size, weight in self._weights.items():
            if size > 1:
                ratio = (self._means[size] / single - 1) / (_shape(size) - 1)
                total += weight * min(max(ratio, 0.0), _MAX_STEEPNESS)
                weights += weight
        if weights < _MIN_WEIGHT:
            return _UNTRIED_STEEPNESS
        return (total + _SHAPE_WEIGHT) / (weights + _SHAPE_WEIGHT)


def _shape(n_tokens: int) -> float:
    """v(n) ÷ v(1) as believed: on lines between the measured points and beyond."""
    above = bisect_right(_CPU_SHAPE, (n_tokens, 0.0))
    right = min(max(above, 1), len(_CPU_SHAPE) - 1)
    (low, start), (high, end) = _CPU_SHAPE[right - 1 : right + 1]
    return start + (end - start) * (n_tokens - low) / (high - low)
