"""The kNN-LM's next-token distribution: p = λ·p_kNN + (1 - λ)·p_LM.

Khandelwal et al. (arXiv 1911.00172, section 2): a neighbour at the squared distance
d² votes for the token that followed it with the weight exp(-d²/T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.errors import DatastoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The entries nearest to a query, nearest first, equals by the lower row.

    Attributes:
        rows: places of the entries in the datastore, shape ``(k,)``.
        distances: squared Euclidean distances to the query, shape ``(k,)``.
        tokens: what followed each entry in its text, shape ``(k,)``.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]
    tokens: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Mixture:
    """How neighbours and the model are mixed.

    Attributes:
        interpolation: λ, the share of the neighbours, from 0 to 1.
        temperature: T, in squared distances.
    """

    interpolation: float
    temperature: float

    def log_probabilities(
        self, logits: NDArray[np.float32], neighbours: Neighbours
    ) -> NDArray[np.float32]:
        """Ln p of every token.

        Args:
            logits: the model's, shape ``(n_vocab,)``.
            neighbours: without any the model is on its own.

        Raises:
            DatastoreError: a neighbour's token is none of the model's.
        """
        share = self.interpolation if len(neighbours.tokens) else 0.0
        p = np.exp(logits - logits.max())
        p *= (1 - share) / p.sum()
        if share:
            self._require_known(neighbours.tokens, len(p))
            np.add.at(p, neighbours.tokens, self._votes(neighbours))
        with np.errstate(divide="ignore"):  # ln 0 = -inf is right
            log_p: NDArray[np.float32] = np.log(p)
        return log_p

    @staticmethod
    def _require_known(tokens: NDArray[np.int32], n_vocab: int) -> None:
        low, high = int(tokens.min()), int(tokens.max())
        if not 0 <= low <= high < n_vocab:
            msg = (
                f"the datastore says that tokens from {low} to {high} follow, and the "
                f"model has {n_vocab}: its tokens.npy is damaged; build it anew"
            )
            raise DatastoreError(msg)

    def _votes(self, neighbours: Neighbours) -> NDArray[np.float32]:
        """λ, shared out among the neighbours."""
        further = (neighbours.distances - neighbours.distances[0]).astype(np.float64)
        weights = np.exp(-further / self.temperature)
        votes: NDArray[np.float32] = weights.astype(np.float32)
        votes *= self.interpolation / votes.sum()
        return votes
