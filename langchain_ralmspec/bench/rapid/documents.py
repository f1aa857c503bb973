"""Questions about long texts: a file of the user's, or Python's own documentation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain_ralmspec.assets.corpus import stdlib_passages, string_of
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import read_json_lines

LEAST_WORDS = 60  # of a paragraph that is worth quoting
QUOTED_WORDS = 24  # of these, that are given; the others are asked for

QUOTE_TEMPLATE = (
    '{context}\n\nA passage of the text above, word for word:\n\n"{question}'
)
"""The prompt that a quotation completes."""

_BLANK_LINE = re.compile(r"\n[ \t]*\n\s*")

_PYTHON = {
    "statistics": (
        ("Which function computes the harmonic mean?", "harmonic_mean"),
        ("Which function lists all of the most frequent values?", "multimode"),
        ("Which function cuts data into intervals of equal probability?", "quantiles"),
        ("Which function fits a line to data?", "linear_regression"),
    ),
    "difflib": (
        ("Which function finds the words nearest to a word?", "get_close_matches"),
        ("Which class shows two texts side by side as HTML?", "HtmlDiff"),
        ("Which function puts the original back from a delta?", "restore"),
        ("Which method is an upper bound on ratio()?", "quick_ratio"),
    ),
    "threading": (
        ("Which class keeps a number of threads in step?", "Barrier"),
        ("Which class calls a function after some seconds?", "Timer"),
        ("Which class manages a flag that threads wait for?", "Event"),
        ("Which class checks that it is not released too often?", "BoundedSemaphore"),
    ),
    "subprocess": (
        ("Which exception says that time was up?", "TimeoutExpired"),
        ("What does run() return?", "CompletedProcess"),
        ("Which function gives the output of a command in a shell?", "getoutput"),
        ("Which method of Popen sends data to stdin?", "communicate"),
    ),
    "shutil": (
        ("Which function removes a directory tree?", "rmtree"),
        ("Which function finds a command on the PATH?", "which"),
        ("Which function makes a zip or tar file?", "make_archive"),
        ("Which function changes the owner of a path?", "chown"),
    ),
}
"""Questions and answers, by the module whose docstrings are the text."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A question about a long text, or how a quotation from it begins.

    ``answers`` are right; there are none where nobody knows.
    """

    context: str
    question: str
    answers: tuple[str, ...] = ()


def load_samples(path: str | Path, *, with_questions: bool = True) -> list[Sample]:
    """Read samples from JSON lines, that may be gzipped (``.gz``).

    Every line is an object with a ``context``, a ``question``, if it is needed, and,
    if known, a list of ``answers``; what else it holds is not looked at.

    Raises:
        InvalidValueError: the file cannot be read, holds nothing, or has a bad line.
    """
    path = Path(path)
    samples = [
        _sample(record, f"{path}, line {number}", with_questions=with_questions)
        for number, record in read_json_lines(path)
    ]
    if not samples:
        raise InvalidValueError(f"{path} has no sample; write one JSON object a line")
    return samples


def _sample(record: dict[str, Any], where: str, *, with_questions: bool) -> Sample:
    context = _text(record, "context", where)
    if not with_questions:
        return Sample(context, "")
    question, answers = _text(record, "question", where), record.get("answers") or []
    if not isinstance(answers, list) or any(not isinstance(a, str) for a in answers):
        raise InvalidValueError(f"{where}: 'answers' is {answers!r}, no list of texts")
    return Sample(context, question, tuple(answers))


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = string_of(record, key, where)
    if not value.strip():
        raise InvalidValueError(f"{where}: {key!r} is {value!r}, no text")
    return value


def python_samples() -> list[Sample]:
    """Questions about modules of the standard library, and their docstrings."""
    texts = dict.fromkeys(_PYTHON, "")
    for passage in stdlib_passages():
        module = passage.title.partition(".")[0]
        if module in texts:
            texts[module] += f"{passage.title}\n\n{passage.text}\n\n"
    return [
        Sample(texts[module].strip(), question, (answer,))
        for module, asked in _PYTHON.items()
        for question, answer in asked
        if texts[module]
    ]


def quotes(samples: list[Sample], seen: Callable[[str], str]) -> list[Sample]:
    """Ask for the rest of a paragraph instead of what is asked.

    A context that comes again is asked for another paragraph. One without any that
    is left and long enough is passed over; if all are, it is an ``InvalidValueError``.
    ``seen`` gives the part of a context that the model sees.
    """
    turns: Counter[str] = Counter()
    asked = []
    for sample in samples:
        paragraphs = quotable(seen(sample.context))
        if turns[sample.context] < len(paragraphs):
            begun, rest = parted(paragraphs[turns[sample.context]])
            asked.append(replace(sample, question=begun, answers=(rest,)))
        turns[sample.context] += 1
    if not asked:
        raise InvalidValueError(
            f"none of the {len(samples)} contexts has a paragraph of at least "
            f"{LEAST_WORDS} words that could be quoted; use --task qa"
        )
    return asked


def quotable(context: str) -> list[str]:
    """Paragraphs that are long enough, from the middle of the text outwards.

    Where blank lines part none, lines do.
    """
    for pattern in (_BLANK_LINE, re.compile(r"\n")):
        middles: dict[str, int] = {}
        start = 0
        for end, following in _cuts(context, pattern):
            paragraph = context[start:end]
            if len(paragraph.split()) >= LEAST_WORDS:
                middles.setdefault(paragraph, abs(start + end - len(context)))
            start = following
        if middles:
            return sorted(middles, key=middles.__getitem__)
    return []


def _cuts(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where paragraphs end, and where those behind them start."""
    for match in pattern.finditer(text):
        yield match.span()
    yield len(text), len(text)


def parted(paragraph: str) -> tuple[str, str]:
    """The words of a paragraph that are given, and the others."""
    words = list(re.finditer(r"\S+", paragraph))
    end = words[QUOTED_WORDS - 1].end()
    return paragraph[words[0].start() : end], paragraph[end:].strip()


def grouped(samples: list[Sample]) -> list[Sample]:
    """Samples of one context behind one another, otherwise in their order."""
    first: dict[str, int] = {}
    for number, sample in enumerate(samples):
        first.setdefault(sample.context, number)
    return sorted(samples, key=lambda sample: first[sample.context])
