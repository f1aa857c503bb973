"""Tokens into text: stop strings, and UTF-8 that is never cut inside a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Transcript:
    """The tokens generated so far with their bytes; notices stop strings.

    Attributes:
        tokens: ids, in order.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """Start empty; ``stops`` are the strings that end the text."""
        self.tokens: list[int] = []
        self._ends: list[int] = []  # bytes up to and including each token
        self._bytes = bytearray()
        self._stops = [stop.encode() for stop in stops if stop]
        self._longest = max(map(len, self._stops), default=0)

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def append(self, token: int, piece: bytes) -> bool:
        """Add a token; returns whether it completes a stop string."""
        tail = max(0, len(self._bytes) - self._longest + 1)
        self.tokens.append(token)
        self._bytes += piece
        self._ends.append(len(self._bytes))
        return any(self._bytes.find(stop, tail) >= 0 for stop in self._stops)

    def truncate(self, length: int) -> None:
        """Roll back to the first ``length`` tokens."""
        del self.tokens[length:]
        del self._ends[length:]
        del self._bytes[self._ends[-1] if self._ends else 0 :]

    def text_bytes(self, start: int, end: int) -> bytes:
        """Bytes of tokens ``start`` to ``end``."""
        first = self._ends[start - 1] if start else 0
        last = self._ends[end - 1] if end else 0
        return bytes(self._bytes[first:last])


class TextStream:
    """Bytes in, text out, as soon as it is certain, up to the first stop string.

    Holds back an unfinished UTF-8 character, and the end of the text while it
    may still turn into a stop string.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """Start empty; ``stops`` are the strings that end the text."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self._stopped = False

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """Take more bytes; returns the text that can be shown now."""
        if self._stopped:
            return ""
        text = self._held + self._decoder.decode(data, final)
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self._stopped = bool(found)
        certain = min(found) if found else len(text)
        if not found and not final:
            certain -= self._possible_stop(text)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """Return what was held back: the text is complete."""
        return self.feed(b"", final=True)

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
