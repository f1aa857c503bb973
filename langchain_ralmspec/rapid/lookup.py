"""Prompt lookup: what followed the same words before may follow them again.

Answers that quote their document are copied from it without any model (RAPID does
not have this; cf. prompt lookup decoding). Only long matches are worth a pass of the
target, so matches are as long as they can be, and go on behind tokens that differ, one
for one. The evidence is how much of a match the model has written itself: a few words
of the question may stand in the document as well, which does not say that the model is
about to quote it. A long match says so whoever wrote it, and whatever was replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from langchain_ralmspec.rapid.draft import Draft

_GRAM = 3  # tokens of the shortest match
_MAX_MATCH = 32  # a longer one is no surer
_REPLACED = 2  # tokens of a match that a token which differs takes away
_BY_CHANCE = 8  # tokens that a match may share without the model having quoted
_MAX_PLACES = 128  # of one gram that are looked at, the latest


class PromptLookupDrafter:
    """Continues the best earlier match of the last tokens.

    Of equals, one that has enough tokens behind it, and of these the latest: text that
    repeats itself matches just before its end, where little is left to copy.
    """

    name = "lookup"

    def __init__(self, n_prompt: int = 0) -> None:
        """Start without tokens; the model has not written the first ``n_prompt``."""
        self._n_prompt = n_prompt
        self._places: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        self._n_indexed = 0

    def propose(self, prefix: Sequence[int], n: int) -> Draft:
        """Propose what followed the best match (see :class:`Drafter`)."""
        self._index(prefix)
        gram = tuple(prefix[-_GRAM:])
        best, length, left = 0, 0, 0
        for place in reversed(self._places.get(gram, [])[-_MAX_PLACES:]):
            matched = _match(prefix, place, _MAX_MATCH)
            behind = min(n, len(prefix) - place)
            if (matched, behind) > (length, left):
                best, length, left = place, matched, behind
            if (length, left) == (_MAX_MATCH, n):
                break
        tokens = tuple(prefix[best : best + n]) if length else ()
        n_written = min(_MAX_MATCH, len(prefix) - self._n_prompt)
        written = _match(prefix, best, n_written)
        sure = max(written, length - _BY_CHANCE)
        return Draft(tokens, evidence=tuple(sure + i for i in range(len(tokens))))

    def _index(self, prefix: Sequence[int]) -> None:
        """Note where every gram ends that has a token behind it."""
        for end in range(max(self._n_indexed, _GRAM), len(prefix)):
            self._places[tuple(prefix[end - _GRAM : end])].append(end)
        self._n_indexed = len(prefix)


def _match(prefix: Sequence[int], place: int, most: int) -> int:
    """How well the tokens before ``place`` agree with those at the end.

    Those in common, less ``_REPLACED`` for each between them that differs: who quotes
    puts one word in the place of another at times, and goes on quoting. Words of other
    numbers of tokens end a match. ``most`` tokens are looked at.
    """
    best = score = 0
    most = min(place, most)
    for back in range(1, most + 1):
        if prefix[place - back] == prefix[-back]:
            score += 1
            best = max(best, score)
        else:
            score -= _REPLACED
            if score + most - back <= best:
                break
    return best
