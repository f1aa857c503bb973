"""Thoughts in the text of an answer, parted from what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_ralmspec.engine.templates import THOUGHT

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGIN, _END = THOUGHT


class Thought(str):
    """A piece of what a model thinks before it answers."""

    __slots__ = ()


def place_of(said: str, text: str) -> int:
    """Where in the text of an answer that begins which it says behind a thought."""
    thought, found, _ = text.partition(_END)
    behind = text.find(said, len(thought + found)) if found else -1
    return behind if behind >= 0 else max(0, text.find(said))


class ThoughtReader:
    """Parts an answer into thoughts and what it says, piece by piece.

    A thought stands at the very start. Blanks around it are no part of it, nor of what
    is said.
    """

    def __init__(self, *, is_open: bool) -> None:
        """Begin; the prompt has begun a thought already where it ``is_open``."""
        self._is_open = is_open
        self._may_open = not is_open
        self._begins = True  # nothing but blanks was told since
        self._waiting = ""  # not yet known to be told

    def read(self, text: str) -> Iterator[str]:
        """Read on: yields pieces, those of a thought as :class:`Thought`."""
        self._waiting += text
        if self._may_open:
            start = self._waiting.lstrip()
            if len(start) < len(_BEGIN) and _BEGIN.startswith(start):
                return
            self._may_open = False
            if start.startswith(_BEGIN):
                self._is_open, self._waiting = True, start.removeprefix(_BEGIN)
            else:
                self._begins = False  # an answer without one is left as it is
        if self._is_open:
            thought, found, rest = self._waiting.partition(_END)
            kept = thought.rstrip() if found else thought[: _sure_of(thought)]
            yield from self._told(kept)
            if not found:
                self._waiting = thought[len(kept) :]
                return
            self._is_open, self._begins, self._waiting = False, True, rest
        said, self._waiting = self._waiting, ""
        yield from self._told(said)

    def finish(self) -> Iterator[str]:
        """Tell the rest, once the answer has ended; an open thought stays one."""
        said, self._waiting = self._waiting, ""
        if self._may_open:  # it was none after all
            self._begins = False
        yield from self._told(said)

    def _told(self, text: str) -> Iterator[str]:
        if self._begins:
            text = text.lstrip()
        if text:
            self._begins = False
            yield Thought(text) if self._is_open else text


def _sure_of(thought: str) -> int:
    """How much of an open thought is surely one: not blanks or a tag at its end."""
    for n in range(min(len(thought), len(_END) - 1), 0, -1):
        if _END.startswith(thought[-n:]):
            thought = thought[:-n]
            break
    return len(thought.rstrip())


def is_open_in(begun: str) -> bool:
    """Whether an answer that was begun is inside a thought, which opens it."""
    return begun.lstrip().startswith(_BEGIN) and _END not in begun
