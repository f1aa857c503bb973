"""How good an answer is, by the measures of SQuAD, and how much of it is quoted."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

QUOTED_RUN = 8
"""Tokens in a row that are hardly the same by chance."""


@dataclass(frozen=True, slots=True)
class Score:
    """One answer against the right ones: F1 of words, and if it is or contains one."""

    f1: float
    exact: bool
    contains: bool


def score(said: str, answers: Sequence[str]) -> Score | None:
    """Judge an answer by the right one that flatters it most; None without any."""
    if not answers:
        return None
    given = normalized(said)
    right = [normalized(answer) for answer in answers]
    return Score(
        max(_f1(given, one) for one in right),
        given in right,
        any(_stands_in(one, given) for one in right),
    )


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and needless blanks."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _f1(one: str, other: str) -> float:
    ours, theirs = one.split(), other.split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def _stands_in(part: str, whole: str) -> bool:
    """Whether the words of one text stand in the other, one after another."""
    return bool(part) and f" {part} " in f" {whole} "


def quoted_share(answer: Sequence[int], prompt: Sequence[int]) -> float:
    """Share of an answer's tokens that stand in the prompt, ``QUOTED_RUN`` in a row."""
    runs = {run for _, run in _runs(prompt)}
    quoted = {
        position
        for start, run in _runs(answer)
        if run in runs
        for position in range(start, start + QUOTED_RUN)
    }
    return len(quoted) / len(answer) if answer else 0.0


def _runs(tokens: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """All of ``QUOTED_RUN`` tokens in a row, with the position of their first."""
    for start in range(len(tokens) - QUOTED_RUN + 1):
        yield start, tuple(tokens[start : start + QUOTED_RUN])
