"""Generates strides of an answer on top of documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from langchain_ralmspec.engine import Sampler, Transcript
    from langchain_ralmspec.ralm.events import FinishReason
    from langchain_ralmspec.ralm.prompt import Prompt
    from langchain_ralmspec.stores.base import Hit


class Path(Protocol):
    """The part of :class:`langchain_ralmspec.engine.Sequence` used here."""

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Decode tokens; logits after the last."""
        ...


@dataclass(slots=True)
class Branch:
    """A continuation under certain documents, with its own KV.

    Attributes:
        hits: the documents at its head.
        path: the KV.
        n_decoded: how many tokens of tail + answer are in the KV. The last token
            of a stride is left out: should the document change, it would have
            been decoded for nothing.
    """

    hits: tuple[Hit, ...]
    path: Path
    n_decoded: int = 0


class Writer:
    """Writes one answer, stride by stride.

    The calls into the model are canonical, so that a branch's logits depend only
    on its documents, on the answer when it was opened, and on the strides
    written on it since: documents from an empty KV, then tail and answer so far in
    one batch, then single tokens. Whoever opens and continues branches at the
    same places gets the same tokens, bit for bit, whatever else was tried.

    Attributes:
        prompt: what stands around the documents.
        transcript: the answer so far.
    """

    def __init__(
        self,
        prompt: Prompt,
        transcript: Transcript,
        sampler: Sampler,
        *,
        open_path: Callable[[tuple[Hit, ...]], Path],
        piece: Callable[[int], bytes],
        is_end: Callable[[int], bool],
        max_tokens: int,
    ) -> None:
        """Prepare to write.

        Args:
            prompt: what stands around the documents.
            transcript: receives the tokens.
            sampler: chooses them.
            open_path: makes a KV that holds head + documents.
            piece: bytes of a token.
            is_end: whether a token ends the answer; it is not part of it.
            max_tokens: length limit of the answer.
        """
        self.prompt = prompt
        self.transcript = transcript
        self._sampler = sampler
        self._open_path = open_path
        self._piece = piece
        self._is_end = is_end
        self._max_tokens = max_tokens

    def open(self, hits: tuple[Hit, ...]) -> Branch:
        """Open a branch under ``hits``."""
        return Branch(hits, self._open_path(hits))

    def write(self, branch: Branch, n_tokens: int) -> FinishReason | None:
        """Append at most ``n_tokens`` tokens to the transcript.

        Returns:
            Why the answer is complete, or None when it is not.
        """
        answer = self.transcript
        text = (*self.prompt.tail, *answer.tokens)
        pending: Sequence[int] = text[branch.n_decoded :]
        for _ in range(n_tokens):
            logits = branch.path.extend(pending)
            branch.n_decoded += len(pending)
            token = self._sampler.sample(logits, answer.tokens)
            if self._is_end(token):
                return "stop"
            if answer.append(token, self._piece(token)):
                return "stop"
            if len(answer) >= self._max_tokens:
                return "length"
            pending = (token,)
        return None
