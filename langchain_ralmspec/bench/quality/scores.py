"""What an answer is worth, and how sure a mean over some questions is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from langchain_ralmspec.bench.comparison import Answer
from langchain_ralmspec.bench.quality.questions import Question
from langchain_ralmspec.bench.rapid.answers import score
from langchain_ralmspec.errors import MissingExtraError
from langchain_ralmspec.stores.words import words_of

QUALITY = ("exact", "f1", "contains", "faithful")
"""Measures of :class:`Judged` that tell good answers from bad ones."""

COSTS = ("found", "lookups", "documents", "tokens", "seconds")
"""Measures that tell what was done for them."""

_SEED = 20240125
_RESAMPLES = 4000  # the ends of an interval then move by a hundredth of its width


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer to one question.

    Attributes:
        exact: 1 if it is a right answer, by SQuAD's normalisation.
        f1: of its words and those of the right answer that flatters it most.
        contains: 1 if a right answer stands in it.
        faithful: share of its content words that stand in the question's passages.
        found: 1 if one of these was among the documents it was written under.
        lookups: queries whose documents it was written under.
        documents: different ones of these.
        tokens: its length.
    """

    exact: float
    f1: float
    contains: float
    faithful: float | None
    found: float
    lookups: float
    documents: float
    tokens: float
    seconds: float


def judged(answer: Answer, question: Question, *, is_once: bool) -> Judged:
    """Judge an answer; ``is_once`` says that it was all written under one query."""
    compared = score(answer.text, question.answers)
    assert compared is not None  # noqa: S101  every question has answers
    lists = [step["documents"] for step in answer.steps if "documents" in step]
    documents = {id_ for ids in lists for id_ in ids}
    return Judged(
        exact=float(compared.exact),
        f1=compared.f1,
        contains=float(compared.contains),
        faithful=faithful(answer.text, question),
        found=float(any(each.id in documents for each in question.gold)),
        lookups=min(len(lists), 1) if is_once else len(lists),
        documents=len(documents),
        tokens=sum(len(step["tokens"]) for step in answer.steps),
        seconds=answer.seconds,
    )


def faithful(said: str, question: Question) -> float | None:
    """Share of an answer's content words that stand in the question's passages.

    Function words and those of the question tell nothing of where an answer comes
    from, and are no content. None where no word is left.
    """
    told = function_words().union(words_of(question.text))
    own = [word for word in words_of(said) if word not in told]
    known = set(words_of(question.passage))
    return sum(word in known for word in own) / len(own) if own else None


@cache
def function_words() -> frozenset[str]:
    """Words that tell nothing; a MissingExtraError where bm25s is not installed."""
    try:
        from bm25s.stopwords import STOPWORDS_EN_PLUS
    except ImportError as error:
        raise MissingExtraError.of("bm25s", "bm25") from error
    return frozenset(STOPWORDS_EN_PLUS)


def interval(values: Sequence[float | None]) -> dict[str, Any] | None:
    """The mean of values that are known, and its bootstrap interval of 95 %.

    Values are drawn anew, with replacement, always by the same random numbers.
    None where no value is known.
    """
    known = np.array([value for value in values if value is not None], np.float64)
    if not len(known):
        return None
    random = np.random.default_rng(_SEED)
    drawn = random.integers(len(known), size=(_RESAMPLES, len(known)))
    low, high = np.quantile(known[drawn].mean(axis=1), (0.025, 0.975))
    return {"mean": float(known.mean()), "low": float(low), "high": float(high)}


def difference(
    ours: Sequence[float | None], others: Sequence[float | None]
) -> dict[str, Any] | None:
    """The :func:`interval` of what ours are more than others, question by question."""
    pairs = zip(ours, others, strict=True)
    return interval(
        [None if a is None or b is None else a - b for a, b in pairs],
    )
