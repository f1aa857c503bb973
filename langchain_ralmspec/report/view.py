"""What a page shows of a record: figures, lanes, the answer in parts, documents."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from langchain_ralmspec.report.figures import figures, sentence, shares, tables
from langchain_ralmspec.report.lanes import Bar, axis_of, room_for, rows_of
from langchain_ralmspec.report.words import ORIGINS, PARTS, n_of, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_ralmspec.report.lanes import Axis, Lane
    from langchain_ralmspec.report.record import Passage, Record, RollBack, Step

_PALETTE = 6  # classes of sources that the style sheet has colours for
_TARGET = "target"
_TITLE = 200  # letters of a title


@dataclass(frozen=True)
class Part:
    """A part of the answer: who it is from, and what it says."""

    kind: str  # a class of the style sheet
    text: str
    said: str  # what it is, in words
    document: int | None = None  # a document that is new here, from 1


@dataclass(frozen=True)
class Used:
    """A document, and when it was."""

    number: int
    passage: Passage
    lane: Lane
    n_tokens: int
    first: str


@dataclass(frozen=True)
class Row:
    """A line of the table that tells everything in words."""

    time: str
    lasted: str
    what: str
    text: str
    documents: str


class View:
    """All that the template asks for; nothing of it is escaped."""

    def __init__(self, record: Record, title: str | None) -> None:
        """Work out everything."""
        self.record = record
        axis = axis_of(record)
        asked = " ".join(record.question[: 2 * _TITLE].split())
        asked = asked[:_TITLE] + "…" * (len(asked) > _TITLE)
        self.title = title or asked or "An answer"
        self.method = record.method
        self.has_begun = bool(record.spans or record.steps)
        self.has_documents = record.method == "RaLMSpec"
        self.sources = _sources(record)
        self.parts = list(_answer(record, self.sources))
        self.lanes = list(_lanes(record, axis))
        self.min_width = room_for(self.lanes)
        self.ticks = axis.ticks(self.min_width)
        self.documents = list(_documents(record, axis))
        self.rows = list(_rows(record))
        self.n_tokens = sum(len(step.pieces) for step in record.steps)
        self.shares = shares(record)
        self.figures = list(figures(record, self.n_tokens))
        self.tables = list(tables(record))
        self.sentence = sentence(record, self.n_tokens)

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Kinds of bars on the lanes, for the legend."""
        there = {drawn.bar.kind for lane in self.lanes for drawn in lane.bars}
        return [(kind, name) for kind, name in PARTS.items() if kind in there]

    @property
    def fates(self) -> list[tuple[str, str]]:
        """Kinds of parts of the answer, for the legend."""
        there = {part.kind for part in self.parts}
        names = {**ORIGINS, "back": "taken back"}
        for source, number in self.sources.items():
            names[f"s{number}"] = _name(source)
        return [(kind, name) for kind, name in names.items() if kind in there]


def _sources(record: Record) -> dict[str, int]:
    """Who proposed tokens, each with its place in the palette; 0 is the target."""
    found = dict.fromkeys(name for step in record.steps for name in step.sources)
    found.pop(_TARGET, None)
    if not found and not any(step.sources for step in record.steps):
        return {}
    places = {name: 1 + n % (_PALETTE - 1) for n, name in enumerate(found)}
    return {_TARGET: 0, **places}


class _TakenBack:
    """Tells whether what was done at a time was taken back."""

    _SLACK = 2e-6  # seconds, of rounding

    def __init__(self, record: Record) -> None:
        backs = sorted(record.roll_backs, key=lambda back: back.start)
        self._starts = [back.start for back in backs]
        self._last_ends = list(accumulate((back.end for back in backs), max))

    def __call__(self, start: float, end: float) -> bool:
        n = bisect_right(self._starts, start + self._SLACK)
        return n > 0 and end <= self._last_ends[n - 1] + self._SLACK


def _lanes(record: Record, axis: Axis) -> Iterator[Lane]:
    spans = sorted(record.spans, key=lambda span: span.part == "reading")
    bars, taken_back = [], _TakenBack(record)
    for span in spans:
        is_void = span.part == "generating" and taken_back(span.start, span.end)
        kind = "void" if is_void else span.part
        bars.append(Bar(kind, span.start, span.end, _said(PARTS[kind], span)))
    spent = Counter[str]()
    for bar in bars:
        spent[bar.kind] += bar.end - bar.start  # type: ignore[assignment]
    said = ", ".join(f"{PARTS[kind]} {seconds(t)}" for kind, t in spent.items())
    yield axis.lane("The model", said or "nothing yet", bars)
    if record.calls:
        bars = [
            Bar(
                "call" if call.right == call.guesses else "miss",
                call.start,
                call.end,
                _said(f"{call.right} of {call.guesses} guesses right", call),
            )
            for call in record.calls
        ]
        said = n_of(len(bars), "verification")
        for number, row in enumerate(rows_of(bars)):
            name = "Verifications" if not number else "and meanwhile"
            yield axis.lane(name, said, row)


def _said(what: str, lasting: Step | RollBack | object) -> str:
    start, end = lasting.start, lasting.end  # type: ignore[union-attr]
    return f"{what}: {seconds(end - start)}, from {seconds(start)} on"


def _answer(record: Record, sources: dict[str, int]) -> Iterator[Part]:
    """The answer in its order, with what was taken back where it stood."""
    backs, shown = deque(record.roll_backs), set[int]()
    for number, step in enumerate(record.steps, start=1):
        while backs and backs[0].end <= step.start:
            yield _taken_back(backs.popleft())
        new = [d for d in step.documents if d not in shown]
        shown.update(new)
        if not step.pieces:
            continue
        if step.sources:
            yield from _by_source(step, sources)
            continue
        under = ", ".join(f"[{d + 1}]" for d in step.documents)
        said = f"step {number}, {seconds(step.start)}: {ORIGINS[step.origin]} {under}"
        mark = new[0] + 1 if new else None
        yield Part(step.origin, "".join(step.pieces), said.strip(), mark)
    for back in backs:
        yield _taken_back(back)


def _taken_back(back: RollBack) -> Part:
    said = f"{n_of(back.tokens, 'token')}, taken back after {seconds(back.end)}"
    return Part("back", back.text, said)


def _by_source(step: Step, sources: dict[str, int]) -> Iterator[Part]:
    pairs = zip(step.sources, step.pieces, strict=True)
    for source, group in groupby(pairs, key=lambda pair: pair[0]):
        text = "".join(piece for _, piece in group)
        said = f"{_name(source)}, {seconds(step.at)}"
        yield Part(f"s{sources[source]}", text, said)


def _name(source: str) -> str:
    return "the target's own" if source == _TARGET else f"proposed by {source}"


def _documents(record: Record, axis: Axis) -> Iterator[Used]:
    steps_of: dict[int, list[Step]] = {}
    for step in record.steps:
        for document in dict.fromkeys(step.documents):
            steps_of.setdefault(document, []).append(step)
    for number, passage in enumerate(record.documents):
        steps = steps_of.get(number, [])
        n_tokens = sum(len(step.pieces) for step in steps)
        bars = [
            Bar("document", s.start, s.end, _said(n_of(len(s.pieces), "token"), s))
            for s in steps
        ]
        first = seconds(steps[0].start) if steps else "never"
        said = f"used in {n_of(len(steps), 'step')}, first after {first}"
        lane = axis.lane(f"Document {number + 1}", said, bars)
        yield Used(number + 1, passage, lane, n_tokens, first)


def _rows(record: Record) -> Iterator[Row]:
    """Everything that happened, in the order of its beginning."""
    told: list[tuple[float, Row]] = []
    for number, step in enumerate(record.steps, start=1):
        what = f"step {number}: {n_of(len(step.pieces), 'token')}"
        if step.documents:
            what += f", {ORIGINS[step.origin]}"
        if step.sources:
            counted = Counter(step.sources).items()
            what += ": " + ", ".join(f"{n} by {name}" for name, n in counted)
        under = ", ".join(str(document + 1) for document in step.documents)
        told.append((step.start, _row(step, what, "".join(step.pieces), under)))
    for back in record.roll_backs:
        what = f"{n_of(back.tokens, 'token')} taken back"
        told.append((back.start, _row(back, what, back.text)))
    for call in record.calls:
        what = f"verification: {call.right} of {call.guesses} guesses right"
        told.append((call.start, _row(call, what)))
    return (row for _, row in sorted(told, key=lambda pair: pair[0]))


def _row(lasting: object, what: str, text: str = "", documents: str = "") -> Row:
    start, end = lasting.start, lasting.end  # type: ignore[attr-defined]
    return Row(seconds(start), seconds(end - start), what, text, documents)
