"""Which drafted tokens are kept: RAPID's acceptance rule and knowledge transfer.

From arXiv 2502.20330. With *z* the target's logits, *p = softmax(z/T)* and *q* the
drafter's probabilities, the target is enriched by what the drafter knows:

    p̂ = softmax(z/T + η·(q - p))

A drafted token *x* is kept with probability *min(1, p̂(x) / q(x))*; else another token
is drawn from a residual. The tokens that come out then follow

    off     p         residual ∝ max(p - q, 0): speculative sampling, η = 0
    paper   neither   residual ∝ max(p - min(q, p̂), 0): the total variation from *p*
                      is Σ max(min(q, p̂) - p, 0)
    exact   p̂         residual ∝ max(p̂ - q, 0)

so only "off" may be called lossless. (It is not done by this rule: a drafted token is
kept where it is the very one that plain decoding draws. That has the same law, and the
answer depends on its seed, not on drafts.) After a draft that was kept whole, one more
token is due, from the target alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from langchain_ralmspec.errors import InvalidValueError, hint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Probabilities: TypeAlias = NDArray[np.float64]
    Logits: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

Transfer = Literal["off", "paper", "exact"]
TRANSFERS: tuple[Transfer, ...] = get_args(Transfer)

TAIL = 0.1
"""Tokens less probable than this share of the most probable one are not enriched.

The paper's.
"""


def softmax(logits: Logits, temperature: float = 1.0) -> Probabilities:
    """Probabilities, shape ``(n_vocab,)``, of logits of which one at least is finite.

    -inf is probability 0; the temperature is above 0.
    """
    with np.errstate(over="ignore"):  # a tiny temperature: -inf is right
        exponents = (np.asarray(logits, np.float64) - logits.max()) / temperature
    weights = np.exp(exponents)
    probabilities: Probabilities = weights / weights.sum()
    return probabilities


def draw(probabilities: Probabilities, uniform: float) -> int:
    """Draw a token by inverse CDF; never a token of probability 0.

    The probabilities sum to 1, but for rounding; ``uniform`` is drawn from [0, 1).
    """
    token = int(np.searchsorted(probabilities.cumsum(), uniform, side="right"))
    if token == len(probabilities):  # the sum was rounded below ``uniform``
        token = int(np.flatnonzero(probabilities)[-1])
    return token


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The rule by which drafted tokens are kept or replaced.

    Attributes:
        transfer: whether, and by which residual, the drafter's knowledge reaches
            the output; one of ``TRANSFERS``.
        eta: *η*, the strength of the transfer. The paper uses 5 to 20 for a drafter
            of the target's size, 40 to 50 for a larger one. It depends on the
            temperature.
    """

    transfer: Transfer = "off"
    eta: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be served, by an InvalidValueError."""
        if self.transfer not in TRANSFERS:
            meant = hint(self.transfer, TRANSFERS)
            raise InvalidValueError(f"transfer={self.transfer!r} is unknown; {meant}")
        if not 0 <= self.eta < math.inf:
            msg = f"eta={self.eta!r} must be finite and at least 0; 0 is no transfer"
            raise InvalidValueError(msg)

    @property
    def is_lossless(self) -> bool:
        """Whether the output follows the target itself."""
        return self.transfer == "off" or self.eta == 0

    def choice(self, logits: Logits, q: Probabilities) -> int:
        """The greedy choice; a drafted token is kept if it is this token.

        That is *argmax z*, or with transfer the argmax of *z + η·(q - p)*, where *p*
        and *q* are at temperature 1. The paper leaves this case open. The smaller id
        wins a tie.

        Args:
            logits: *z*, shape ``(n_vocab,)``.
            q: the drafter's probabilities at temperature 1.
        """
        return int(np.argmax(logits + self.eta * (q - softmax(logits))))

    def enriched(
        self, p: Probabilities, q: Probabilities, scaled_logits: Logits
    ) -> Probabilities:
        """*p̂*: the target's probabilities with the drafter's knowledge.

        The tail guard resets *p̂* to *p* where it is below ``TAIL · max p̂``. Then it
        no longer sums to 1, about which the paper says nothing. It is normalised
        here: "exact" promises that tokens follow *p̂*, which takes a distribution.

        Args:
            p: the target's probabilities, the softmax of ``scaled_logits``.
            q: the drafter's.
            scaled_logits: *z/T*; -inf for tokens that top-k or top-p took out: they
                stay out.
        """
        p_hat = softmax(scaled_logits + self.eta * (q - p))
        guarded = np.where(p_hat < TAIL * p_hat.max(), p, p_hat)
        return _normalized(guarded)

    def judge(
        self,
        token: int,
        p: Probabilities,
        q: Probabilities,
        p_hat: Probabilities,
        uniforms: tuple[float, float],
    ) -> tuple[bool, int]:
        """Keep a drafted token, or draw another in its place.

        Args:
            token: drafted from *q*.
            p: the target's probabilities.
            q: the drafter's.
            p_hat: from :meth:`enriched`; *p* where nothing is transferred.
            uniforms: two random numbers in [0, 1).

        Returns:
            Whether the drafted token is kept, and the token that comes out.
        """
        if uniforms[0] * q[token] < p_hat[token]:  # u < p̂/q
            return True, token
        return False, draw(self._residual(p, q, p_hat), uniforms[1])

    def _residual(
        self, p: Probabilities, q: Probabilities, p_hat: Probabilities
    ) -> Probabilities:
        """The distribution that replaces a rejected token."""
        if self.transfer == "exact":
            residual = np.maximum(p_hat - q, 0)
        else:  # without transfer p̂ is p, and this is max(p - q, 0)
            residual = np.maximum(p - np.minimum(q, p_hat), 0)
        # Nothing is left only where rounding alone has rejected the token.
        return _normalized(residual) if residual.any() else p


def _normalized(weights: Probabilities) -> Probabilities:
    probabilities: Probabilities = weights / weights.sum()
    return probabilities
