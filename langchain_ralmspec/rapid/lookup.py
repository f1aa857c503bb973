"""Prompt lookup: what followed the same words before may follow them again.

Answers that quote their document are copied from it without any model (RAPID does
not have this; cf. prompt lookup decoding). Only long matches are worth a pass of the
target, so matches are as long as they can be. The evidence is how much of a match the
model has written itself: a few words of the question may stand in the document as well,
which does not say that the model is about to quote it. A long match says so whoever
wrote it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from langchain_ralmspec.rapid.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

_GRAM = 3  # tokens of the shortest match
_MAX_MATCH = 32  # a longer one is no surer
_BY_CHANCE = 8  # tokens that a match may share without the model having quoted
_MAX_PLACES = 128  # of one gram that are looked at, the latest


class PromptLookupDrafter:
    """Continues the longest earlier match of the last tokens.

    Of equals, one that has enough tokens behind it, and of these the latest: text that
    repeats itself matches just before its end, where little is left to copy.
    """

    name = "lookup"

    def __init__(self, n_prompt: int = 0) -> None:
        """Start without tokens.

        Args:
            n_prompt: tokens at the beginning that the model has not written.
        """
        self._n_prompt = n_prompt
        self._places: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        self._n_indexed = 0

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        """Propose what followed the longest match (see :class:`Drafter`)."""
        self._index(prefix)
        gram = tuple(prefix[-_GRAM:])
        best, length, left = 0, 0, 0
        for place in reversed(self._places.get(gram, [])[-_MAX_PLACES:]):
            matched, behind = _match(prefix, place), min(n, len(prefix) - place)
            if (matched, behind) > (length, left):
                best, length, left = place, matched, behind
            if (length, left) == (_MAX_MATCH, n):
                break
        tokens = tuple(prefix[best : best + n]) if length else ()
        written = min(length, len(prefix) - self._n_prompt)
        sure = max(written, length - _BY_CHANCE)
        return Draft(tokens, evidence=tuple(sure + i for i in range(len(tokens))))

    def _index(self, prefix: Sequence[int]) -> None:
        """Note where every gram ends that has a token behind it."""
        for end in range(max(self._n_indexed, _GRAM), len(prefix)):
            self._places[tuple(prefix[end - _GRAM : end])].append(end)
        self._n_indexed = len(prefix)


def _match(prefix: Sequence[int], place: int) -> int:
    """How many tokens before ``place`` equal those at the end."""
    length, end = 0, len(prefix)
    limit = min(place, _MAX_MATCH)
    while length < limit and prefix[place - 1 - length] == prefix[end - 1 - length]:
        length += 1
    return length
