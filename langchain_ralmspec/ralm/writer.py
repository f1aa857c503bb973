"""The writer generates strides of an answer under documents, and takes them back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from langchain_ralmspec.ralm.hits import keys_of
from langchain_ralmspec.text import SENTENCE_ENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from langchain_ralmspec.answer.events import FinishReason
    from langchain_ralmspec.answer.sampling import Sampler
    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.ralm.hits import Hits, Keys
    from langchain_ralmspec.ralm.prompt import Prompt

N_RECENT = 4
"""Documents whose continuations are kept, in case the answer returns to them."""


class Path(Protocol):
    """The part of :class:`langchain_ralmspec.engine.Sequence` used here."""

    @property
    def length(self) -> int:
        """Number of tokens decoded so far."""

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Decode tokens; returns the logits after the last one."""

    def truncate(self, length: int) -> None:
        """Forget what was decoded after the first ``length`` tokens."""


@dataclass(slots=True)
class Branch:
    """A continuation under one list of documents, with its own KV."""

    path: Path  # head + documents, and then the decoded part of what follows
    behind: tuple[int, ...] = ()  # what stands between the documents and the tail
    # Decoded tokens of what follows the documents. The last token of a stride is not
    # among them: should the document change, it would have been decoded for nothing.
    n_decoded: int = 0
    # Where the documents were read together with what follows them: the logits behind
    # that, and what has the documents' KV kept, once the answer is written.
    logits: NDArray[np.float32] | None = None
    keep: Callable[[], None] = lambda: None

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Decode more of what follows the documents; returns the logits behind it.

        No tokens are what was read together with the documents.
        """
        if not tokens and self.logits is not None:
            return self.logits
        logits = self.path.extend(tokens)
        self.n_decoded += len(tokens)
        return logits

    def rewind(self, n_decoded: int) -> None:
        """Forget everything decoded after ``n_decoded`` tokens behind the documents."""
        self.path.truncate(self.path.length - (self.n_decoded - n_decoded))
        self.n_decoded = n_decoded


class Superseded(Exception):  # noqa: N818  not an error
    """Raised while writing: the documents written under are known to be wrong."""


@dataclass(frozen=True, slots=True)
class Stride:
    """Tokens ``start`` to ``end`` of the answer, written in one go."""

    start: int
    end: int
    reason: FinishReason | None  # why the answer is complete; None when it goes on
    least_probability: float  # of all tokens, where a sentence was asked for; else 1


@dataclass(frozen=True, slots=True)
class _Entry:
    """A journal entry: how to take one stride back."""

    under: Keys  # the documents that the stride was written under
    start: int  # length of the answer before the stride
    n_decoded: int  # what the branch had decoded before; 0 when it was opened then
    replaced: Branch | None  # the earlier branch that the stride's replaced, if any


@dataclass(slots=True)
class Writer:
    """Writes one answer, stride by stride, and takes strides back exactly.

    All calls into the model are canonical: head + documents in parts, then what is
    missing of the rest in one batch, then single tokens. Which branch a
    stride continues is decided by the documents of the strides before it, and by
    nothing else. So the same documents in the same order give the same tokens, bit
    for bit, whatever was tried and taken back in between.

    Attributes:
        transcript: the answer so far.
        open_branch: makes one whose KV holds head + documents.
        is_superseded: asked after every token, whether to give up the stride.
    """

    prompt: Prompt
    transcript: Transcript
    sampler: Sampler
    open_branch: Callable[[Hits], Branch]
    is_superseded: Callable[[], bool] = field(default=lambda: False)
    _branches: dict[Keys, Branch] = field(default_factory=dict)
    _journal: list[_Entry] = field(default_factory=list)  # of every stride, in order
    _n_pruned: int = 0  # entries that nobody rewinds past any more

    @property
    def mark(self) -> int:
        """The present position, for a later :meth:`rewind`."""
        return len(self._journal)

    def write(self, hits: Hits, n_tokens: int, *, sentence: bool = False) -> Stride:
        """Write at most ``n_tokens`` tokens under ``hits``.

        With ``sentence``, stop after one sentence, and note the least probability.

        Raises:
            Superseded: the stride was given up; rewind to where it began.
        """
        under = keys_of(hits)
        previous = self._branches.get(under)
        branch = previous if previous and under in _last(self._journal) else None
        if branch is None:
            branch = self._branches[under] = self.open_branch(hits)
        replaced = None if branch is previous else previous
        start = len(self.transcript)
        self._journal.append(_Entry(under, start, branch.n_decoded, replaced))
        reason, least = self._generate(branch, n_tokens, sentence=sentence)
        return Stride(start, len(self.transcript), reason, least)

    def write_out(self, hits: Hits) -> Iterator[Stride]:
        """Write the whole answer under ``hits``, a token at a time, never to rewind."""
        branch = self.open_branch(hits)
        reason = None
        try:
            while reason is None:
                start = len(self.transcript)
                reason, least = self._generate(branch, 1, sentence=False)
                yield Stride(start, len(self.transcript), reason, least)
        finally:  # not before, where somebody would wait for it
            branch.keep()

    def rewind(self, mark: int) -> None:
        """Take back all strides written since ``mark``, exactly."""
        while len(self._journal) > mark:
            entry = self._journal.pop()
            if entry.replaced:
                self._branches[entry.under] = entry.replaced
            elif entry.n_decoded == 0:
                del self._branches[entry.under]
            else:
                self._branches[entry.under].rewind(entry.n_decoded)
            self.transcript.truncate(entry.start)

    def prune(self, mark: int) -> None:
        """Free the KV that not even a rewind to ``mark`` needs."""
        for number in range(self._n_pruned, mark):
            self._journal[number] = replace(self._journal[number], replaced=None)
        self._n_pruned = max(self._n_pruned, mark)
        settled, open_ = self._journal[:mark], self._journal[mark:]
        kept = _last(settled) | {entry.under for entry in open_}
        self._branches = {k: b for k, b in self._branches.items() if k in kept}

    def close(self) -> None:
        """Free all KV; nothing is written any more."""
        self._branches.clear()

    def _generate(
        self, branch: Branch, n_tokens: int, *, sentence: bool
    ) -> tuple[FinishReason | None, float]:
        """Generate tokens; returns why the answer ended, and the least probability."""
        answer, least = self.transcript, 1.0
        begun = len(answer)
        text = (*branch.behind, *self.prompt.tail, *answer.tokens)
        pending: Sequence[int] = text[branch.n_decoded :]
        for _ in range(n_tokens):
            logits = branch.extend(pending)
            token = self.sampler.sample(logits, answer.tokens)
            if sentence:
                least = min(least, _probability(logits, token))
            if reason := answer.append(token):
                return reason, least
            if sentence and _ends_sentence(answer, begun):
                break
            if self.is_superseded():
                raise Superseded
            pending = (token,)
        return None, least


def _last(journal: list[_Entry]) -> set[Keys]:
    """The ``N_RECENT`` different lists of documents that were used last."""
    kept: dict[Keys, None] = {}
    for entry in reversed(journal):
        kept[entry.under] = None
        if len(kept) == N_RECENT:
            break
    return set(kept)


def _probability(logits: NDArray[np.float32], token: int) -> float:
    """Probability of a token at temperature 1."""
    exponentials = np.exp(logits - logits.max())
    return float(exponentials[token] / exponentials.sum())


def _ends_sentence(answer: Transcript, begun: int) -> bool:
    """Whether the last token ends a sentence that was begun at some token."""
    end = len(answer)
    if b"\n" in answer.text_bytes(end - 1, end):
        return True
    # A character of four bytes may take four tokens.
    return answer.text_bytes(max(begun, end - 4), end).rstrip().endswith(SENTENCE_ENDS)
