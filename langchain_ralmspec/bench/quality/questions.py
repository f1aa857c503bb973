"""Questions whose answers and passages are known, and what is retrieved from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_ralmspec.assets.corpus import Passage, stdlib_passages
from langchain_ralmspec.bench.rapid.documents import (
    Sample,
    load_samples,
    python_samples,
)
from langchain_ralmspec.errors import InvalidValueError


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its right answers, and the passages that answer it."""

    text: str
    answers: tuple[str, ...]
    gold: tuple[Passage, ...]

    @property
    def passage(self) -> str:
        """The text of its passages."""
        return "\n\n".join(each.text for each in self.gold)


def load(path: Path | None) -> tuple[list[Question], list[Passage]]:
    """Read questions, and the passages to retrieve from, in which theirs are.

    Lines of a file have a ``question``, its ``answers`` and a ``context``, the passage
    that answers it; the contexts of all lines are retrieved from. Without a file,
    questions and docstrings are the standard library's.

    Raises:
        InvalidValueError: the file cannot be read, or a line lacks something.
    """
    return _of_python() if path is None else _of_file(path)


def _of_file(path: Path) -> tuple[list[Question], list[Passage]]:
    samples, passages = load_samples(path), dict[str, Passage]()
    for sample in samples:
        if not sample.answers:
            raise InvalidValueError(
                f"{path}: the question {sample.question!r} has no answers to be "
                'compared with; give a list of "answers" in its line'
            )
        passages.setdefault(
            sample.context, Passage(str(len(passages)), "", sample.context)
        )
    asked = [
        Question(each.question, each.answers, (passages[each.context],))
        for each in samples
    ]
    return asked, list(passages.values())


def _of_python() -> tuple[list[Question], list[Passage]]:
    # A docstring does not tell the name that is asked for.
    passages = [
        Passage(each.id, "", f"{each.title}\n\n{each.text}")
        for each in stdlib_passages()
    ]
    found = (
        Question(each.question, each.answers, _answering(passages, each))
        for each in python_samples()
    )
    return [each for each in found if each.gold], passages


def _answering(passages: Sequence[Passage], sample: Sample) -> tuple[Passage, ...]:
    """The passages of the sample's module that name the answer."""
    (answer,) = sample.answers
    return tuple(
        each for each in passages if answer in each.text and each.text in sample.context
    )
