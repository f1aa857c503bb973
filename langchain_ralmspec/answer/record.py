"""What a run knows of its answer, as a record that a report can be made from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.report import Call, Passage, Record, RollBack, Step
from langchain_ralmspec.report.record import Span
from langchain_ralmspec.text import told_in

if TYPE_CHECKING:
    from langchain_ralmspec.answer.run import Run
    from langchain_ralmspec.report.record import Method, Origin
    from langchain_ralmspec.stores.base import Hit

_FIRST_WORDS = 300
"""Letters of a document that are kept: three lines, to know it again."""


def record_of(run: Run[Any]) -> Record:
    """The answer as far as it is written."""
    figures = run.stats.as_dict()
    recorder = _Recorder(run)
    for at, event in run.log:
        recorder.add(at, event)
    return Record(
        method=_method(run, figures),
        question=run.question,
        finish_reason=run.finish_reason,
        figures={
            name: value
            for name, value in figures.items()
            if value is None or isinstance(value, int | float)
        },
        counts={
            name: value for name, value in figures.items() if isinstance(value, dict)
        },
        spans=tuple(
            Span(part=part, start=recorder.time(start), end=recorder.time(end))
            for part, start, end in run.stats.spans or ()
        ),
        steps=tuple(recorder.steps),
        roll_backs=tuple(recorder.roll_backs),
        calls=tuple(recorder.calls),
        documents=tuple(recorder.documents),
    )


def _method(run: Run[Any], figures: dict[str, Any]) -> Method:
    if "passes" in figures:
        return "RAPID"
    return "kNN-LM" if any(step.sources for step in run.steps) else "RaLMSpec"


class _Recorder:
    """Follows the events of a run, in their order."""

    def __init__(self, run: Run[Any]) -> None:
        self.steps: list[Step] = []
        self.roll_backs: list[RollBack] = []
        self.calls: list[Call] = []
        self.documents: list[Passage] = []
        self._numbers: dict[tuple[str, str | None], int] = {}
        self._began = run.began or 0.0
        self._pieces = run.pieces
        self._n_tokens = 0
        self._last = self._began  # when the event before came
        self._judged = -math.inf  # when a verification last came back
        self._hits: tuple[Hit, ...] = ()

    def time(self, moment: float) -> float:
        """Seconds from the beginning, to the microsecond."""
        return round(max(0.0, moment - self._began), 6)

    def add(self, at: float, event: Any) -> None:
        """Take in what a loop told at a moment."""
        if isinstance(event, Committed):
            self._add_step(at, event)
        elif hasattr(event, "n_guesses"):  # of a method, which this room does not know
            self._judged = at
            start, end = self.time(event.sent), self.time(event.sent + event.seconds)
            self.calls.append(
                Call(start=start, end=end, guesses=event.n_guesses, right=event.n_right)
            )
        elif hasattr(event, "since"):
            text = event.text.decode("utf-8", "ignore")  # cut anywhere
            start, end = self.time(event.since), self.time(at)
            self.roll_backs.append(
                RollBack(start=start, end=end, tokens=event.n_tokens, text=text)
            )
        self._last = at

    def _add_step(self, at: float, event: Committed) -> None:
        first, n = self._n_tokens, len(event.tokens)
        self._n_tokens += n
        start, end = event.written or (self._last, at)
        step = Step(
            start=self.time(start),
            end=self.time(end),
            at=self.time(at),
            pieces=tuple(self._pieces[first : first + n]),
            sources=event.sources,
            documents=tuple(map(self._number, event.hits)),
            origin=self._origin(event, end),
        )
        if event.hits and event.hits is self._hits and not event.written:
            before = self.steps.pop()  # a step that is told token by token
            step = step.model_copy(
                update={"start": before.start, "pieces": before.pieces + step.pieces}
            )
        self.steps.append(step)
        self._hits = event.hits

    def _origin(self, event: Committed, written: float) -> Origin:
        if any(math.isnan(hit.score) for hit in event.hits):
            return "proven"
        return "confirmed" if event.written and self._judged >= written else "known"

    def _number(self, hit: Hit) -> int:
        if hit.key not in self._numbers:
            self._numbers[hit.key] = len(self.documents)
            title = next(told_in(hit.document.metadata, ("title", "source")), "")
            text = hit.document.page_content if hit.text is None else hit.text
            words = " ".join(text[: 4 * _FIRST_WORDS].split())
            words = words[:_FIRST_WORDS] + "…" * (len(words) > _FIRST_WORDS)
            passage = Passage(id=str(hit.id), title=title, text=words)
            self.documents.append(passage)
        return self._numbers[hit.key]
