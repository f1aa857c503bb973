"""How well a kNN-LM predicts a text that it has not seen, setting by setting."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.engine import Model
from langchain_ralmspec.knnlm import KNNDatastore

INTERPOLATIONS = (0.0, 0.05, 0.1, 0.15, 0.25, 0.4)
"""λ that are tried."""

TEMPERATURES = (0.5, 1.0, 2.0)
"""T that are tried, in default ones."""

_QUERIES_A_SEARCH = 32


@dataclass(frozen=True, slots=True)
class SeenText:
    """What model and datastore said of the true token at every place of a text.

    Attributes:
        p_lm: the model's probability of the true token, shape ``(n,)``.
        distances: of the neighbours, nearest first, shape ``(n, k)``; infinite where
            an approximate search found fewer.
        right: whether a neighbour's token is the true one, shape ``(n, k)``.
    """

    p_lm: NDArray[np.float64]
    distances: NDArray[np.float64]
    right: NDArray[np.bool_]

    @classmethod
    def of(
        cls, tokens: Tokens[int], model: Model, datastore: KNNDatastore, k: int
    ) -> Self:
        """Read a text of two tokens or more, each behind the true ones before it.

        Those that fill a context are read together, and know nothing of those before.
        """
        p_lm, distances, right = [], [], []
        n_places = len(tokens) - 1
        with bar("reading for perplexity") as advance:
            for start in range(0, n_places, model.n_ctx):
                sequence = model.new_sequence()
                end = min(start + model.n_ctx, n_places)
                for first in range(start, end, model.n_batch):
                    last = min(first + model.n_batch, end)
                    part, true = tokens[first:last], tokens[first + 1 : last + 1]
                    logits, hidden = sequence.observe(part, n_logits=len(part))
                    p_lm.append(_probabilities(logits, true))
                    for n in range(0, len(part), _QUERIES_A_SEARCH):
                        queries = slice(n, n + _QUERIES_A_SEARCH)
                        found = datastore.search(hidden[queries], k)
                        for near, token in zip(found, true[queries], strict=True):
                            distances.append(_padded(near.distances, k, np.inf))
                            right.append(_padded(near.tokens == token, k, 0))
                    advance(last, n_places)
        exact = np.stack(distances).astype(np.float64)
        return cls(np.concatenate(p_lm), exact, np.stack(right))

    def perplexity(self, k: int, interpolation: float, temperature: float) -> float:
        """Of the mixture p = λ·p_kNN + (1 - λ)·p_LM: exp of the mean of -ln p."""
        distances, right = self.distances[:, :k], self.right[:, :k]
        known = np.isfinite(distances[:, 0])  # else the model is on its own
        nearest = np.where(known, distances[:, 0], 0.0)
        weights = np.exp((nearest[:, np.newaxis] - distances) / temperature)
        total = np.where(known, weights.sum(axis=1), 1.0)
        share = np.where(known, interpolation, 0.0)
        p_knn = (weights * right).sum(axis=1) / total
        p = share * p_knn + (1 - share) * self.p_lm
        with np.errstate(divide="ignore"):  # λ = 1 may leave nothing
            return float(np.exp(-np.log(p).mean()))


def perplexities(
    seen: SeenText, ks: Tokens[int], temperature: float
) -> list[dict[str, Any]]:
    """Perplexity by k, T and λ, and which λ is the best of its k and T.

    ``temperature`` is the T that a model has by default.
    """
    rows = []
    for k in ks:
        for factor in TEMPERATURES:
            tried = {
                share: seen.perplexity(k, share, factor * temperature)
                for share in INTERPOLATIONS
            }
            best = min(tried, key=lambda share: tried[share])
            rows += [
                {
                    "k": k,
                    "temperature": factor * temperature,
                    "default_temperatures": factor,
                    "interpolation": share,
                    "perplexity": perplexity,
                    "is_best": share == best,
                }
                for share, perplexity in tried.items()
            ]
    return rows


def _probabilities(
    logits: NDArray[np.float32], tokens: Tokens[int]
) -> NDArray[np.float64]:
    """Softmax, at one token a line."""
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(tokens)), tokens].astype(np.float64)
    total = np.exp(logits, out=logits).sum(axis=1, dtype=np.float64)
    p: NDArray[np.float64] = np.exp(chosen) / total
    return p


def _padded(values: NDArray[Any], k: int, fill: float) -> NDArray[Any]:
    return np.pad(values, (0, k - len(values)), constant_values=fill)
