"""Calls of tools in the text of an answer, read piece by piece."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_ralmspec.engine.grammar import Marker

_HEAD = re.compile(
    r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
"""What a call begins with; the grammar lets it begin with nothing else."""


@dataclass(slots=True)
class _Object:
    """How far a JSON object has been read."""

    closers: list[str] = field(default_factory=list)  # due, the innermost last
    in_string: bool = False
    escaped: bool = False
    text: str = ""

    def end(self, text: str) -> int | None:
        """Read on; returns where behind the object, None where it goes on."""
        at = self._end(text)
        self.text += text[:at]
        return at

    def _end(self, text: str) -> int | None:
        for at, letter in enumerate(text):
            if self.in_string:
                self.in_string = self.escaped or letter != '"'
                self.escaped = letter == "\\" and not self.escaped
            elif letter == '"':
                self.in_string = True
            elif letter in "{[":
                self.closers.append("}" if letter == "{" else "]")
            elif letter in "}]":
                self.closers.pop()
                if not self.closers:
                    return at + 1
        return None

    def is_json(self) -> bool:
        """Whether the whole object can be parsed."""
        try:
            json.loads(self.text, strict=False)
        except (ValueError, RecursionError):
            return False
        return True

    def spoilt(self) -> str:
        """What makes the object so far no JSON, however it is completed."""
        wrong = "]" if self.closers[-1:] == ["}"] else "}"
        return '"' * (self.in_string + (self.in_string and self.escaped)) + wrong


def _name_in(literal: str) -> str:
    """What a literal of JSON says, or is, where it is none: no grammar has held."""
    try:
        return str(json.loads(literal, strict=False))
    except ValueError:  # such as Markdown's escapes
        return literal[1:-1]


class CallReader:
    """Parts the text of an answer into what it says and the calls in it."""

    def __init__(self, marker: Marker) -> None:
        """Expect calls that begin with a marker."""
        self._marker = marker
        self._waiting = ""  # not yet known to be text or call
        self._is_calling = False
        self._has_said = False  # anything but blanks
        self._arguments: _Object | None = None  # of the call that is being read
        self._n_calls = 0

    def read(self, text: str) -> Iterator[str | ToolCallChunk]:
        """Read on: yields what is said, and pieces of calls."""
        self._waiting += text
        if not self._is_calling:
            yield from self._said()
        while self._is_calling:
            if self._arguments is None:
                if (head := _HEAD.search(self._waiting)) is None:
                    return
                self._waiting = self._waiting[head.end() :]
                self._arguments = _Object()
                yield self._chunk("", _name_in(head[1]))
                self._n_calls += 1
            piece = self._waiting
            end = self._arguments.end(piece)
            self._waiting = "" if end is None else piece[end:]
            if piece[:end]:
                yield self._chunk(piece[:end])
            if end is None:
                return
            if not self._arguments.is_json():  # no grammar has held
                yield self._chunk(self._arguments.spoilt())
            self._arguments = None

    def finish(self) -> Iterator[str | ToolCallChunk]:
        """Tell the rest, once the answer has ended.

        A call that is cut off is spoilt: LangChain completes broken JSON as well as it
        can, and a tool would run with arguments that nobody has meant.
        """
        if self._arguments is not None:
            yield self._chunk(self._arguments.spoilt())
        elif self._waiting and (
            not self._is_calling or (not self._n_calls and '"' in self._waiting)
        ):
            yield self._waiting  # a first call that is cut off before it has a name
        self._waiting, self._arguments = "", None

    def _said(self) -> Iterator[str]:
        """What is said before the first call, as far as it is surely no part of one."""
        text, begin = self._waiting, self._marker.text
        if self._marker.at_start and self._has_said:
            self._waiting = ""
            yield text
            return
        at = self._marker.find(text.encode())
        if at >= 0:
            self._is_calling = True
            at = len(text.encode()[:at].decode())
            # What stands around the JSON is markup; its brace is the call's.
            said, self._waiting = text[:at], text[at:]
        elif self._marker.may_open(text.encode()):
            said = ""
        else:
            held = next(
                n for n in range(len(begin), -1, -1) if self._may_begin(text, n)
            )
            said, self._waiting = text[: len(text) - held], text[len(text) - held :]
        if said.strip():
            self._has_said = True
            self._marker = replace(self._marker, openings=())
        elif not self._has_said:  # blanks before a call are no part of what is said
            self._waiting = self._waiting if self._is_calling else text
            return
        if said:
            yield said

    def _may_begin(self, text: str, n: int) -> bool:
        """Whether the last ``n`` letters may be the beginning of a call."""
        begun = text[len(text) - n :] if n else ""
        return len(begun) == n and self._marker.text.startswith(begun)

    def _chunk(self, args: str, name: str | None = None) -> ToolCallChunk:
        is_new = name is not None
        return tool_call_chunk(
            name=name,
            args=args,
            # The strictest templates want nine letters and digits.
            id=uuid.uuid4().hex[:9] if is_new else None,
            index=self._n_calls - (not is_new),
        )
