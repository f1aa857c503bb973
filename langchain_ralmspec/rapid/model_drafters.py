"""Drafters that are models: on the retrieved context, token by token.

RAPID section 3.1: the drafter reads what was retrieved from the long document, which
is short, so its steps are cheap; it may be the target's own model, a smaller or a
larger one of the same vocabulary, or, through text, any other.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.rapid.draft import Draft
from langchain_ralmspec.speculation.acceptance import draw, softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from langchain_ralmspec.answer.sampling import Sampler
    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.engine import Sequence as Path
    from langchain_ralmspec.engine.weights import Weights


def require_same_vocabulary(target: Weights, drafter: Weights) -> None:
    """Check that a drafter's ids mean to the target what they mean to the drafter.

    Raises:
        InvalidValueError: they differ; quotes the first id that does.
    """
    # Sizes say nothing, for some vocabularies are padded: the pieces are compared.
    if (target.path, target.stamp) == (drafter.path, drafter.stamp):
        return
    for token in range(min(target.n_vocab, drafter.n_vocab)):
        ours, theirs = target.token_text(token), drafter.token_text(token)
        if ours != theirs:
            msg = (
                f"{drafter.path.name!r} has another vocabulary than "
                f"{target.path.name!r}: token {token} is {theirs!r} there and {ours!r} "
                f"here; draft through text instead: drafter='text:{drafter.path}'"
            )
            raise InvalidValueError(msg)


@dataclass(slots=True)
class _Written:
    """A drafter's own path, behind its prompt, and the answer's tokens on it."""

    path: Path
    n_prompt: int
    tokens: list[int] = field(default_factory=list)

    def catch_up(self, answer: Sequence[int]) -> NDArray[np.float32]:
        """Read the answer so far; returns the logits after its last token."""
        pairs = zip(self.tokens, answer, strict=False)
        agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        # The last token is read again if need be: its logits are what is asked for.
        agreed = min(agreed, len(answer) - 1)
        del self.tokens[agreed:]
        self.path.truncate(self.n_prompt + agreed)
        return self.extend(answer[agreed:])

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        logits = self.path.extend(tokens)
        self.tokens += tokens
        return logits


@dataclass(kw_only=True, eq=False)
class _ModelDrafter:
    """A model that drafts; nothing is computed before its first draft.

    Attributes:
        name: for the counts.
        model: the drafter.
        prompt: makes its prompt, the retrieved context inside.
        target: has the vocabulary of drafts.
        n_prompt: tokens of the target's prompt.
        is_enough: whether to stop behind tokens of these probabilities.
    """

    name: str
    model: Model
    prompt: Callable[[], Sequence[int]]
    target: Weights
    n_prompt: int
    is_enough: Callable[[Sequence[float]], bool]

    @cached_property
    def _written(self) -> _Written:
        prompt = self.prompt()
        # Nobody asks the same question twice, so its KV is not kept.
        return _Written(self.model.open(prompt, keep=False), len(prompt))

    def forget(self) -> None:
        """Free the KV of what was read and written."""
        self.__dict__.pop("_written", None)


@dataclass(kw_only=True, eq=False)
class RagDrafter(_ModelDrafter):
    """A model of the target's vocabulary that has read the retrieved context only.

    Attributes:
        sampler: gives the distributions that tokens are drawn from, for knowledge
            transfer; None drafts the most probable tokens, without distributions.
    """

    sampler: Sampler | None = None

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        """Write up to ``n`` tokens, until unsure (see :class:`Drafter`)."""
        answer = list(prefix[self.n_prompt :])
        logits = self._written.catch_up(answer)
        rows: list[NDArray[np.float64]] = []
        confidences: list[float] = []
        tokens: list[int] = []
        while True:
            row, token = self._draw(logits, [*answer, *tokens])
            if token >= self.target.n_vocab:  # padding, unknown to the target
                break
            tokens.append(token)
            # Not the token's own: what is drawn must not decide whether it is judged.
            confidences.append(float(row.max()))
            if self.sampler:
                rows.append(self._fit(row))
            is_last = len(tokens) == n or self.model.weights.is_end(token)
            if is_last or self.is_enough(confidences):
                break
            logits = self._written.extend([token])
        probabilities = np.stack(rows) if rows else None
        return Draft(tuple(tokens), probabilities, tuple(confidences))

    def _draw(
        self, logits: NDArray[np.float32], answer: Sequence[int]
    ) -> tuple[NDArray[np.float64], int]:
        """The distribution of the next token, and the token."""
        if self.sampler is not None:
            logits = self.sampler.penalized(logits, answer)
        if self.sampler is None or self.sampler.temperature == 0:
            # Greedy transfer compares distributions at temperature 1.
            return softmax(logits), int(logits.argmax())
        row = self.sampler.probabilities(logits, ())
        return row, draw(row, self.sampler.uniforms(len(answer), 3)[2])

    def _fit(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """A distribution over the target's vocabulary."""
        fitted = np.zeros(self.target.n_vocab)
        shared = min(len(fitted), len(row))
        fitted[:shared] = row[:shared]
        fitted /= fitted.sum()  # padding may have had a share
        return fitted


@dataclass(kw_only=True, eq=False)
class TextDrafter(_ModelDrafter):
    """A model of any vocabulary: its text is tokenised again for the target.

    Tokens are then accepted only where they are exactly the target's, so there are
    no distributions to transfer.
    """

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        """Write up to ``n`` tokens, until unsure (see :class:`Drafter`)."""
        weights = self.model.weights
        said = b"".join(map(self.target.piece, prefix[self.n_prompt :]))
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        answer = weights.tokenize(decoder.decode(said))
        unfinished, _ = decoder.getstate()
        if unfinished or not answer:  # no text goes on inside a character
            return Draft()
        logits = self._written.catch_up(answer)
        pieces: list[bytes] = []
        confidences: list[float] = []
        while len(pieces) < n:
            token = int(logits.argmax())
            if weights.is_end(token):
                break
            pieces.append(weights.piece(token))
            confidences.append(float(softmax(logits)[token]))
            if self.is_enough(confidences) or len(pieces) == n:
                break
            logits = self._written.extend([token])
        return self._retokenize(pieces, confidences, n)

    def _retokenize(
        self, pieces: list[bytes], confidences: list[float], n: int
    ) -> Draft:
        """Tokens of the target; each is as sure as the least sure one in its text."""
        tokens = self.target.tokenize(_valid_text(b"".join(pieces)))[:n]
        ends = np.cumsum([len(piece) for piece in pieces])
        evidence, start = [], 0
        for token in tokens:
            end = start + len(self.target.piece(token))
            first, last = np.searchsorted(ends, [start, end - 1], side="right")
            evidence.append(min(confidences[first : last + 1], default=0.0))
            start = end
        return Draft(tuple(tokens), evidence=tuple(evidence))


def _valid_text(data: bytes) -> str:
    """Up to the first byte that is no text, or no whole character."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start].decode()
