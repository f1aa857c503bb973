"""Control tokens in text: whose they are, the template's or somebody else's."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, takewhile
from operator import itemgetter
from typing import Any

_N_DIGITS = 40  # of a rendering's secret: nobody guesses 130 bits

_ROLES = "system|developer|user|human|assistant|model|bot|tool|observation"
_ROLE = re.compile(_ROLES)
_OF_A_ROLE = re.compile(rf"(\W+)(?:{_ROLES})(\W+)")
"""A marker of somebody's turn."""


class Markers:
    """The texts that a vocabulary reads as tokens of their own, not as text.

    Attributes:
        controls: the ids of those tokens that have no text, by their names.
        pattern: matches the longest marker at a place, in linear time.
        in_answers: the same, without what a template looks for in answers.
        longest: characters of the longest one.
    """

    def __init__(
        self,
        controls: Mapping[str, int],
        others: Iterable[str] = (),
        sought: Iterable[str] = (),
    ) -> None:
        """Take the names of control tokens, and ``others`` that count like them.

        So do those that are ``sought``, such as the end of a thought, but in answers
        the template is to find them.
        """
        self.controls, self._sought = controls, frozenset(sought)
        self.in_answers = _any_of({*controls, *others} - {*sought})
        texts = {*controls, *others, *sought} - {""}
        self.pattern = _any_of(texts)
        self.longest = max(map(len, texts), default=0)
        self._beginnings = {text[:end] for text in texts for end in range(1, len(text))}
        folded = [text.casefold() for text in texts]
        self._ends = {text[at:] for text in folded for at in range(1, len(text))}
        self._all = "\0".join(folded)
        # Letters and blanks begin none that anybody would want to forge.
        self._signs = {text[0] for text in texts if re.match(r"[^\w\s]", text)}
        self._heads: dict[frozenset[str], re.Pattern[str]] = {}

    def heads_but(self, literals: frozenset[str]) -> re.Pattern[str]:
        """Signs that markers begin with, but where a template looks for a text."""
        if literals not in self._heads:
            told, signs = {*self._sought, *literals} - self._beginnings, self._signs
            kept = _any_of(text for text in told if text[:1] in signs).pattern
            self._heads[literals] = re.compile(f"(?!{kept}){_any_of(signs).pattern}")
        return self._heads[literals]

    def ended_by(self, text: str) -> int:
        """How much of a text's beginning may be the end of a marker, in any case."""
        folded = text[: self.longest].casefold()
        sizes = range(len(folded), 0, -1)
        return next((size for size in sizes if folded[:size] in self._ends), 0)

    def may_hold(self, text: str) -> bool:
        """Whether a whole text, in any case, may be a part of a marker."""
        return 0 < len(text) < self.longest and text.casefold() in self._all

    def start_of(self, text: str, at: int) -> int:
        """The place ``at``, or the start of the marker around it."""
        around = max(0, at - self.longest), at + self.longest
        for found in self.pattern.finditer(text, *around):
            if found.start() < at < found.end():
                return found.start()
        return at

    def spelling(self, text: str) -> tuple[bytes | int, ...]:
        """The bytes of a text, and the ids of the control tokens that it names."""
        parts: list[bytes | int] = []
        end = 0
        for found in self.pattern.finditer(text):
            if found[0] in self.controls:
                parts += text[end : found.start()].encode(), self.controls[found[0]]
                end = found.end()
        return tuple(part for part in (*parts, text[end:].encode()) if part != b"")


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    texts = sorted({*texts} - {""})
    return re.compile(_one_of(texts) if texts else r"(?!)")


def _one_of(texts: Sequence[str]) -> str:
    """A pattern for the longest of some sorted texts.

    No two of its ways begin alike: an alternation of all the texts would be tried one
    by one, at every place.
    """
    rest = [text for text in texts if text]
    ways = []
    for _, beginning in groupby(rest, key=itemgetter(0)):
        group = list(beginning)
        both = zip(group[0], group[-1], strict=False)  # the farthest apart
        alike = takewhile(lambda pair: pair[0] == pair[1], both)
        head = "".join(letter for letter, _ in alike)
        ways.append(re.escape(head) + _one_of([text[len(head) :] for text in group]))
    pattern = ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})" if ways else ""
    return f"(?:{pattern})?" if ways and len(rest) < len(texts) else pattern


class Disguise:
    """Hides foreign markers from one rendering, so that they come out as plain text.

    In its place stands a number that nobody can know, which templates may move,
    strip around and compare, as they may do with text. A template may put a marker
    together of what stood apart, or around a word; so numbers stand for signs that one
    begins with, too, for what may end one, and for a text that may be part of one. They
    come out as they were where no marker has come of it.

    Args:
        markers: those of the vocabulary.
        source: the template's: what it names is left to be found.
        literals: texts that the template spells, and may look for.
    """

    def __init__(
        self,
        markers: Markers,
        source: str = "",
        literals: frozenset[str] = frozenset(),
    ) -> None:
        self._markers, self._source = markers, source
        self._heads = markers.heads_but(literals)
        lowest = 10 ** (_N_DIGITS - 1)
        self._secret = str(lowest + secrets.randbelow(9 * lowest))
        self._hidden: list[tuple[str, bool]] = []
        self._numbers: dict[tuple[str, bool], int] = {}

    def stand_in(self, text: str = "", *, is_begun: bool = False) -> str:
        """What stands for ``text`` while rendering; it may have but begun a marker.

        Always the same for one text, as templates compare; a new one for none.
        """
        what, number = (text, is_begun), len(self._hidden)
        if text:
            number = self._numbers.setdefault(what, number)
        if number == len(self._hidden):
            self._hidden.append(what)
        return f"{self._secret}{number:08}"

    def hide(self, text: str, *, is_answer: bool = False) -> str:
        """The text with stand-ins for its markers, and for what may become one.

        In an answer those stay that the template looks for.
        """
        if self._is_inside(bare := text.strip()):
            return text.replace(bare, self.stand_in(bare, is_begun=True))
        markers = self._markers
        pattern = markers.in_answers if is_answer else markers.pattern
        hidden = self._heads.sub(self._begun, self._without(pattern, text))
        at = len(hidden) - len(hidden.lstrip())
        end = at + markers.ended_by(hidden[at:])
        if end == at:
            return hidden
        return hidden[:at] + self.stand_in(hidden[at:end], is_begun=True) + hidden[end:]

    def _begun(self, found: re.Match[str]) -> str:
        return self.stand_in(found[0], is_begun=True)

    def _is_inside(self, text: str) -> bool:
        """Whether a text may be put into a marker; not a name that the template has."""
        if not self._markers.may_hold(text):
            return False
        bare = re.escape(text)
        named = rf"\.{bare}(?!\w)|'{bare}'|\"{bare}\""
        return re.search(named, self._source) is None

    def hide_all(self, value: Any) -> Any:
        """A value as JSON has it, every text in which is hidden, keys included.

        So is what anything else, such as a date, looks like when it is printed.
        """
        if isinstance(value, Mapping):
            pairs = value.items()
            return {self.hide_all(k): self.hide_all(each) for k, each in pairs}
        if isinstance(value, list | tuple):
            return list(map(self.hide_all, value))
        is_bare = value is None or type(value) in {bool, int, float}
        return value if is_bare else self.hide(str(value))

    def name(self, text: str) -> str:
        """A role, hidden unless it is one that every template knows."""
        return text if _ROLE.fullmatch(text) else self.hide(text)

    def _without(self, pattern: re.Pattern[str], text: str) -> str:
        return pattern.sub(lambda found: self.stand_in(found[0]), text)

    def _marks(self, before: Sequence[str], text: str, following: str) -> bool:
        """Whether some of ``text`` would be in a marker, put back into its place."""
        longest = self._markers.longest
        head = "".join(before[-longest:])[-longest:]  # parts may be empty
        whole, end = head + text + following[:longest], len(head) + len(text)
        return any(
            found.start() < end and found.end() > len(head)
            for found in self._markers.pattern.finditer(whole)
        )

    def reveal(self, rendered: str) -> list[tuple[str, bool]]:
        """Runs of the rendered text, and whether the markers in them count.

        What has only begun a marker is hidden no more, unless what follows it in the
        rendered text would complete one.
        """
        first, *others = re.split(rf"{self._secret}(\d{{8}})", rendered)
        runs: list[tuple[list[str], bool]] = [([first], True)]
        for number, following in zip(others[::2], others[1::2], strict=True):
            text, is_begun = self._hidden[int(number)]
            if is_begun and not self._marks(runs[-1][0], text, following):
                runs[-1][0].extend([text, following])
            else:
                runs += [([text], False), ([following], True)]
        return [("".join(parts), counts) for parts, counts in runs]


def is_composed(name: str, source: str) -> bool:
    """Whether a template makes a name of a role, as of ``'<|' + role + '|>'``."""
    if (found := _OF_A_ROLE.fullmatch(name)) is None or "role" not in source:
        return False
    before, behind = map(re.escape, found.groups())
    texts = rf"{before}['\"]", rf"['\"]{behind}"  # where one ends, and one begins
    return all(re.search(text, source) for text in texts)
