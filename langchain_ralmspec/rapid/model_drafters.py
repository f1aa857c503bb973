"""Drafters that are models: on the retrieved context, token by token.

RAPID section 3.1: the drafter reads what was retrieved from the long document, which
is short, so its steps are cheap; it may be the target's own model, a smaller or a
larger one of the same vocabulary, or, through text, any other.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
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

    Sizes say nothing (some vocabularies are padded): the pieces are compared.

    Raises:
        InvalidValueError: they differ; quotes the first id that does.
    """
    if target.path == drafter.path:
        return
    shared = min(target.n_vocab, drafter.n_vocab)
    for token in range(shared):
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
    """A model's own path: its prompt, and the tokens of the answer that it has read."""

    model: Model
    prompt: Sequence[int]
    path: Path
    tokens: list[int]

    @classmethod
    def on(cls, model: Model, prompt: Sequence[int]) -> _Written:
        # Nobody asks the same question twice, so its KV is not kept.
        return cls(model, prompt, model.open(prompt, keep=False), [])

    def catch_up(self, answer: Sequence[int]) -> NDArray[np.float32]:
        """Read the answer so far; returns the logits after its last token."""
        pairs = zip(self.tokens, answer, strict=False)
        agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        # The last token is read again if need be: its logits are what is asked for.
        agreed = min(agreed, len(answer) - 1)
        del self.tokens[agreed:]
        self.path.truncate(len(self.prompt) + agreed)
        return self.extend(answer[agreed:])

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        logits = self.path.extend(tokens)
        self.tokens += tokens
        return logits


class RagDrafter:
    """A model of the target's vocabulary that has read the retrieved context only."""

    def __init__(
        self,
        model: Model,
        prompt: Callable[[], Sequence[int]],
        *,
        n_prompt: int,
        n_vocab: int,
        is_enough: Callable[[Sequence[float]], bool],
        sampler: Sampler | None = None,
        name: str = "self",
    ) -> None:
        """Prepare; nothing is computed before the first draft.

        Args:
            model: the drafter.
            prompt: makes its prompt, the retrieved context inside.
            n_prompt: tokens of the target's prompt.
            n_vocab: size of the target's vocabulary.
            is_enough: whether to stop behind tokens of these probabilities.
            sampler: gives the distributions that tokens are drawn from, for knowledge
                transfer; None drafts the most probable tokens, without distributions.
            name: for the counts.
        """
        self.name = name
        self._model, self._prompt = model, prompt
        self._n_prompt, self._n_vocab = n_prompt, n_vocab
        self._is_enough, self._sampler = is_enough, sampler
        self._written: _Written | None = None

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        """Write up to ``n`` tokens, until unsure (see :class:`Drafter`)."""
        if self._written is None:
            self._written = _Written.on(self._model, self._prompt())
        answer = list(prefix[self._n_prompt :])
        logits = self._written.catch_up(answer)
        rows: list[NDArray[np.float64]] = []
        confidences: list[float] = []
        tokens: list[int] = []
        while True:
            row, token = self._draw(logits, [*answer, *tokens])
            if token >= self._n_vocab:  # padding, unknown to the target
                break
            tokens.append(token)
            # Not the token's own: what is drawn must not decide whether it is judged.
            confidences.append(float(row.max()))
            rows.append(self._fit(row))
            if (
                len(tokens) == n
                or self._model.weights.is_end(token)
                or self._is_enough(confidences)
            ):
                break
            logits = self._written.extend([token])
        probabilities = np.stack(rows) if self._sampler and rows else None
        return Draft(tuple(tokens), probabilities, tuple(confidences))

    def _draw(
        self, logits: NDArray[np.float32], answer: Sequence[int]
    ) -> tuple[NDArray[np.float64], int]:
        """The distribution of the next token, and the token."""
        if self._sampler is not None:
            logits = self._sampler.penalized(logits, answer)
        if self._sampler is None or self._sampler.temperature == 0:
            # Greedy transfer compares distributions at temperature 1.
            return softmax(logits), int(logits.argmax())
        row = self._sampler.probabilities(logits, ())
        return row, draw(row, self._sampler.uniforms(len(answer), 3)[2])

    def _fit(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """A distribution over the target's vocabulary."""
        fitted = np.zeros(self._n_vocab)
        shared = min(self._n_vocab, len(row))
        fitted[:shared] = row[:shared]
        fitted /= fitted.sum()  # padding may have had a share
        return fitted


class TextDrafter:
    """A model of any vocabulary: its text is tokenised again for the target.

    Tokens are then accepted only where they are exactly the target's, so there are
    no distributions to transfer.
    """

    def __init__(
        self,
        model: Model,
        prompt: Callable[[], Sequence[int]],
        *,
        target: Weights,
        n_prompt: int,
        is_enough: Callable[[Sequence[float]], bool],
        name: str = "text",
    ) -> None:
        """Prepare; nothing is computed before the first draft.

        Args:
            model: the drafter.
            prompt: makes its prompt in its own vocabulary.
            target: tokenises for the target.
            n_prompt: tokens of the target's prompt.
            is_enough: whether to stop behind tokens of these probabilities.
            name: for the counts.
        """
        self.name = name
        self._model, self._prompt, self._target = model, prompt, target
        self._n_prompt, self._is_enough = n_prompt, is_enough
        self._written: _Written | None = None

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        """Write up to ``n`` tokens, until unsure (see :class:`Drafter`)."""
        if self._written is None:
            self._written = _Written.on(self._model, self._prompt())
        weights = self._model.weights
        said = b"".join(map(self._target.piece, prefix[self._n_prompt :]))
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
            if self._is_enough(confidences) or len(pieces) == n:
                break
            logits = self._written.extend([token])
        return self._retokenize(pieces, confidences, n)

    def _retokenize(
        self, pieces: list[bytes], confidences: list[float], n: int
    ) -> Draft:
        """Tokens of the target; each is as sure as the least sure one in its text."""
        tokens = self._target.tokenize(_valid_text(b"".join(pieces)))[:n]
        ends = np.cumsum([len(piece) for piece in pieces])
        evidence, start = [], 0
        for token in tokens:
            end = start + len(self._target.piece(token))
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
