"""The answer so far: its tokens, where it ends, and which of its text is certain."""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from langchain_ralmspec.arguments import several
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_ralmspec.answer.events import FinishReason
    from langchain_ralmspec.answer.vocabulary import Vocabulary


class Transcript:
    """Tokens of one answer, which loops add and take back.

    An answer ends with a token that ends the model's turn (and stays out of it), with
    the first stop string that is complete, where a grammar lets nothing follow, or at
    its length limit. Its text is the
    bytes before that stop string.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        max_tokens: int,
        stops: Sequence[str] = (),
        control_stops: Sequence[Sequence[bytes | int]] = (),
        is_complete: Callable[[Sequence[int]], bool] | None = None,
    ) -> None:
        """Start empty; ``stops`` are the strings that end the text.

        So do ``control_stops``, which are bytes and the ids of control tokens: these
        have no text, so that nothing of them is found in it. An answer ends as well
        where its tokens are all that it may be (``is_complete``).
        """
        self.tokens: list[int] = []
        self.max_tokens = max_tokens
        self.finish_reason: FinishReason | None = None  # behind the last token
        self._vocabulary = vocabulary
        self._is_complete = is_complete
        self._text = _Spelling([stop.encode() for stop in stops if stop])
        ids = {part for stop in control_stops for part in stop if isinstance(part, int)}
        self._names = {token: _name(token) for token in ids}
        named = [
            b"".join(part if isinstance(part, bytes) else _name(part) for part in stop)
            for stop in control_stops
        ]
        # The same text with those control tokens spelt out.
        self._spelt = _Spelling(named) if named else None
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
        self.tokens.append(token)
        piece = self._vocabulary.piece(token)
        self._stop = self._text.add(piece)
        if self._spelt:
            at = self._spelt.add(self._names.get(token, piece))
            if at is not None:
                shown = self._shown(self._spelt, at)
                self._stop = shown if self._stop is None else min(self._stop, shown)
        if self._stop is not None or (
            self._is_complete is not None and self._is_complete(self.tokens)
        ):
            return "stop"
        return "length" if len(self) >= self.max_tokens else None

    def truncate(self, length: int) -> None:
        """Roll back to the first ``length`` tokens, behind which the answer goes on."""
        del self.tokens[length:]
        self._text.truncate(length)
        if self._spelt:
            self._spelt.truncate(length)
        self.finish_reason = self._stop = None

    def text_bytes(self, start: int, end: int) -> bytes:
        """Bytes of tokens ``start`` to ``end``."""
        return bytes(self._text.data[self._text.end(start) : self._text.end(end)])

    def pieces(self, length: int) -> list[str]:
        """What each of the first ``length`` tokens adds to the text.

        A character stands with the token that completes it. As in :meth:`release`,
        neither an unfinished one at the end is text, nor what a stop string begins.
        """
        end = len(self._text.data) if self._stop is None else self._stop
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        ends = [min(self._text.end(n), end) for n in range(length + 1)]
        spelt = [bytes(self._text.data[a:b]) for a, b in pairwise(ends)]
        return list(map(decoder.decode, spelt))

    def release(self, length: int, *, is_final: bool = False) -> str:
        """Text that is certain now and was not released before.

        The first ``length`` tokens will not be taken back, and the answer ends there
        if ``is_final``. The end of the text is held back while it may still turn into
        a stop string; an unfinished character at its end is no part of it.
        """
        end = self._text.end(length)
        if length == len(self) and self._stop is not None:
            end = self._stop
        elif not is_final:
            end = self._text.begun_stop(length)
            if self._spelt:
                at = self._spelt.begun_stop(length)
                end = min(end, self._shown(self._spelt, at))
        data = bytes(self._text.data[self._n_released : end])
        self._n_released = max(end, self._n_released)
        return self._decoder.decode(data)

    def _shown(self, spelt: _Spelling, at: int) -> int:
        """The place in the text that is the place ``at`` where names are spelt out."""
        n = bisect_right(spelt.ends, at)  # tokens before it
        inside = at - spelt.end(n)
        return min(self._text.end(n) + inside, self._text.end(n + 1))


class _Spelling:
    """What tokens spell one after the other, in which stop strings are looked for."""

    def __init__(self, stops: Sequence[bytes]) -> None:
        self.data = bytearray()
        self.ends: list[int] = []  # bytes up to and including each token
        self._stops = stops
        self._longest = max(map(len, stops), default=0)

    def add(self, piece: bytes) -> int | None:
        """Add what a token spells; returns where the first complete stop begins."""
        tail = max(0, len(self.data) - self._longest + 1)
        self.data += piece
        self.ends.append(len(self.data))
        found = [self.data.find(stop, tail) for stop in self._stops]
        return min((at for at in found if at >= 0), default=None)

    def truncate(self, length: int) -> None:
        """Keep what the first ``length`` tokens spell."""
        del self.ends[length:]
        del self.data[self.end(length) :]

    def end(self, length: int) -> int:
        """Number of bytes of the first ``length`` tokens, or of all."""
        return self.ends[min(length, len(self.ends)) - 1] if self.ends and length else 0

    def begun_stop(self, length: int) -> int:
        """Where a stop may begin that is incomplete after ``length`` tokens, or ends.

        That is the end of these tokens where none has begun.
        """
        end = self.end(length)
        for size in range(min(self._longest - 1, end), 0, -1):
            tail = self.data[end - size : end]
            if any(stop.startswith(tail) for stop in self._stops):
                return end - size
        return end


def _name(token: int) -> bytes:
    """Stands for a control token; no text has such bytes."""
    return b"\xff%d\xfe" % token


def stops_of(given: str | Sequence[str] | None) -> list[str]:
    """Stop strings as a list; a single string is one of them, not its letters."""
    if isinstance(given, Iterator):  # each answer would take some of them
        msg = f"stop must be a list of strings, got {given!r:.60}, which is read once"
        raise InvalidValueError(msg)
    stops = (
        [given] if isinstance(given, str) else several("stop", given or (), "strings")
    )
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            msg = f"a stop string must be a string that is not empty, got {stop!r}"
            raise InvalidValueError(msg)
    return list(map(well_formed, stops))
