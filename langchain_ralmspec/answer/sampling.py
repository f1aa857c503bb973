"""From logits to a token: greedy, or temperature with top-k, top-p and min-p.

The random number of a token depends on the seed and the token's position alone,
never on how many tokens were drawn before. A token that is generated again after
a roll-back therefore comes out as it would have in a run without speculation.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray  # noqa: TC002

from langchain_ralmspec.speculation.acceptance import draw, softmax

PENALTY_WINDOW = 64
"""Tokens that a repeat penalty looks back at, by default, as in llama.cpp."""

_DRAWN = (-1, 2**32 - 1)  # the seed that llama.cpp replaces, signed and unsigned


class Constraint(Protocol):
    """What an answer may be; the engine's grammars are."""

    def restrict(
        self, logits: NDArray[np.float32], generated: Tokens[int], n_best: int
    ) -> NDArray[np.float32]:
        """Logits with -inf for tokens that may not follow ``generated``.

        The best ``n_best`` of the others keep theirs, and all that are tied with these;
        0 keeps all.
        """


@dataclass(frozen=True)
class Sampler:
    """How the next token is chosen.

    Under a constraint it is chosen among the tokens that may follow, as if there were
    no others: top-k, top-p, min-p and the temperature see only these.

    Attributes:
        temperature: 0 is greedy: the largest logit, the smaller id on a tie.
        top_k: keep the ``top_k`` most probable tokens; 0 keeps all.
        top_p: keep the fewest most probable tokens that reach this probability.
        min_p: keep the tokens that have at least this share of the probability of
            the most probable one; 0 keeps all.
        repeat_penalty: divide (or multiply, when negative) the logits of the last
            generated tokens by this; 1 is off.
        last_n_tokens_size: how many of these it looks at.
        seed: of the random numbers; None draws a fresh one for this sampler, as do
            llama.cpp's -1 and its unsigned form, 4294967295.
        constraint: says which tokens may follow an answer so far; None: all may.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    last_n_tokens_size: int = PENALTY_WINDOW
    seed: int | None = None
    constraint: Constraint | None = None
    _key: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Settle the seed, so that one sampler always repeats itself."""
        seed = self.seed
        if seed is None or seed in _DRAWN:
            seed = secrets.randbits(63)
        object.__setattr__(self, "_key", seed % 2**64)

    def sample(self, logits: NDArray[np.float32], generated: Tokens[int]) -> int:
        """Choose the token that follows ``generated``, the answer so far.

        The logits' shape is ``(n_vocab,)``.
        """
        logits = self.permitted(self.penalized(logits, generated), generated)
        return self.draw(logits, len(generated))

    def draw(self, logits: NDArray[np.float32], position: int) -> int:
        """Choose the token at a position (from 0) of the answer, without any penalty.

        Logarithms of probabilities will do as logits.
        """
        if self.temperature == 0:
            return int(logits.argmax())
        tokens, probabilities = self._distribution(logits)
        return int(tokens[draw(probabilities, self.uniforms(position, 1)[0])])

    def probabilities(
        self, logits: NDArray[np.float32], generated: Tokens[int]
    ) -> NDArray[np.float64]:
        """The distribution that :meth:`sample` draws from, shape ``(n_vocab,)``."""
        logits = self.permitted(self.penalized(logits, generated), generated)
        row = np.zeros(len(logits))
        if self.temperature == 0:
            row[logits.argmax()] = 1
        else:
            tokens, probabilities = self._distribution(logits)
            row[tokens] = probabilities
        return row

    @property
    def _n_best(self) -> int:
        """How many of the best tokens can be chosen at all; 0 for all."""
        return 1 if self.temperature == 0 else self.top_k

    def uniforms(self, position: int, n: int) -> NDArray[np.float64]:
        """The first ``n`` random numbers of a position of the answer."""
        generator = np.random.Philox(key=self._key, counter=position)
        return np.random.Generator(generator).random(n)

    def permitted(
        self,
        logits: NDArray[np.float32],
        generated: Tokens[int],
        n_best: int | None = None,
    ) -> NDArray[np.float32]:
        """Logits with -inf for what the constraint forbids behind ``generated``.

        Only the ``n_best`` best of the others surely keep theirs: as many as can be
        drawn; 0 keeps all.
        """
        if self.constraint is None:
            return logits
        n_best = self._n_best if n_best is None else n_best
        return self.constraint.restrict(logits, generated, n_best)

    def penalized(
        self, logits: NDArray[np.float32], generated: Tokens[int]
    ) -> NDArray[np.float32]:
        """Logits after the penalty on tokens that were generated lately."""
        size = self.last_n_tokens_size
        if self.repeat_penalty == 1 or not generated or not size:
            return logits
        recent = np.unique(np.asarray(generated[-size:]))
        logits = logits.copy()
        rows = logits[recent]
        logits[recent] = np.where(
            rows > 0, rows / self.repeat_penalty, rows * self.repeat_penalty
        )
        return logits

    def _distribution(
        self, logits: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Tokens that remain after top-k, top-p and min-p, and their probabilities."""
        if 0 < self.top_k < len(logits):
            # The k-th largest may be tied: keep all equals, then sort by (logit, id).
            threshold = np.partition(logits, -self.top_k)[-self.top_k]
            tokens = np.flatnonzero(logits >= threshold)
        else:
            tokens = np.arange(len(logits))
        tokens = tokens[np.argsort(-logits[tokens], kind="stable")]
        tokens = tokens[: self.top_k or None]
        probabilities = softmax(logits[tokens], self.temperature)
        keep = int(np.searchsorted(probabilities.cumsum(), self.top_p)) + 1
        if self.min_p:
            floor = self.min_p * probabilities[0]
            keep = min(keep, int(np.count_nonzero(probabilities >= floor)))
        tokens, probabilities = tokens[:keep], probabilities[:keep]
        return tokens, probabilities / probabilities.sum()
