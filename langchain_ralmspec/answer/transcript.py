"""The answer so far: its tokens, where it ends, and which of its text is certain."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_ralmspec.answer.events import FinishReason
    from langchain_ralmspec.answer.vocabulary import Vocabulary


class Transcript:
    """Tokens of one answer, which loops add and take back.

    An answer ends with a token that ends the model's turn (and stays out of it), with
    the first stop string that is complete, or at its length limit. Its text is the
    bytes before that stop string.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, max_tokens: int, stops: Sequence[str] = ()
    ) -> None:
        """Start empty; ``stops`` are the strings that end the text."""
        self.tokens: list[int] = []
        self.max_tokens = max_tokens
        self.finish_reason: FinishReason | None = None  # behind the last token
        self._vocabulary = vocabulary
        self._ends: list[int] = []  # bytes up to and including each token
        self._bytes = bytearray()
        self._stops = [stop.encode() for stop in stops if stop]
        self._longest = max(map(len, self._stops), default=0)
        self._stop: int | None = None  # where the stop string begins that ended it
        self._n_released = 0  # bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def append(self, token: int) -> FinishReason | None:
        """Add the next token; returns why the answer ends there, if it does."""
        self.finish_reason = self._append(token)
        return self.finish_reason

    def _append(self, token: int) -> FinishReason | None:
        if self._vocabulary.is_end(token):
            return "stop"
        tail = max(0, len(self._bytes) - self._longest + 1)
        self.tokens.append(token)
        self._bytes += self._vocabulary.piece(token)
        self._ends.append(len(self._bytes))
        found = [self._bytes.find(stop, tail) for stop in self._stops]
        self._stop = min((at for at in found if at >= 0), default=None)
        if self._stop is not None:
            return "stop"
        return "length" if len(self) >= self.max_tokens else None

    def truncate(self, length: int) -> None:
        """Roll back to the first ``length`` tokens, behind which the answer goes on."""
        del self.tokens[length:]
        del self._ends[length:]
        del self._bytes[self._end(length) :]
        self.finish_reason = self._stop = None

    def text_bytes(self, start: int, end: int) -> bytes:
        """Bytes of tokens ``start`` to ``end``."""
        return bytes(self._bytes[self._end(start) : self._end(end)])

    def _end(self, length: int) -> int:
        """Number of bytes of the first ``length`` tokens."""
        return self._ends[length - 1] if length else 0

    def release(self, length: int, *, is_final: bool = False) -> str:
        """Text that is certain now and was not released before.

        The first ``length`` tokens will not be taken back, and the answer ends there
        if ``is_final``. An unfinished UTF-8 character is held back, and the end of the
        text while it may still turn into a stop string.
        """
        end = self._end(length)
        if length == len(self) and self._stop is not None:
            end = self._stop
        elif not is_final:
            end -= self._possible_stop(end)
        data = bytes(self._bytes[self._n_released : end])
        self._n_released = max(end, self._n_released)
        return self._decoder.decode(data, is_final)

    def _possible_stop(self, end: int) -> int:
        """Length of the longest part before byte ``end`` that begins a stop string."""
        for size in range(min(self._longest - 1, end - self._n_released), 0, -1):
            tail = self._bytes[end - size : end]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
