"""What a page shows of a record: figures, lanes, the answer in parts, documents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from langchain_ralmspec.report.lanes import Axis, Bar, Lane, axis_of, room_for, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langchain_ralmspec.report.record import Passage, Record, RollBack, Step

PARTS = {
    "generating": "writing",
    "reading": "reading documents",
    "void": "writing what was taken back",
    "guessing": "guessing",
    "waiting": "waiting for the store",
    "prefilling": "reading the prompt",
    "drafting": "drafting",
    "verifying": "verifying drafts",
    "call": "verification in the store",
    "rest": "everything else",
}
"""Kinds of bars, and what they are called."""

ORIGINS = {
    "known": "documents known before",
    "confirmed": "guessed, then confirmed",
    "proven": "guessed, and proven",
}
_PALETTE = 6  # classes of sources that the style sheet has colours for
_TARGET = "target"


@dataclass(frozen=True)
class Figure:
    """A number at the head of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Share:
    """A part of a whole, in percent."""

    kind: str
    name: str
    value: str
    percent: str


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
        self.axis = axis_of(record)
        self.title = title or record.question.strip() or "An answer"
        self.method = record.method
        self.has_documents = record.method == "RaLMSpec"
        self.sources = _sources(record)
        self.parts = list(_answer(record, self.sources))
        self.lanes = list(_lanes(record, self.axis))
        self.min_width = room_for(self.lanes)
        self.documents = list(_documents(record, self.axis))
        self.rows = list(_rows(record))
        self.n_tokens = sum(len(step.pieces) for step in record.steps)
        self.shares = _shares(record)
        self.figures = list(_figures(record, self.n_tokens))
        self.tables = list(_tables(record))
        self.sentence = _sentence(record, self.n_tokens)

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Kinds of bars on the lanes, for the legend."""
        there = {drawn.bar.kind for lane in self.lanes for drawn in lane.bars}
        return [(kind, name) for kind, name in PARTS.items() if kind in there]

    @property
    def fates(self) -> list[tuple[str, str]]:
        """Kinds of parts of the answer, for the legend."""
        there = {part.kind for part in self.parts}
        names = {f"s{n}": name for name, n in self.sources.items()} | {
            **ORIGINS,
            "back": "taken back",
        }
        return [(kind, name) for kind, name in names.items() if kind in there]


def _sources(record: Record) -> dict[str, int]:
    """Who proposed tokens, each with its place in the palette; 0 is the target."""
    found = dict.fromkeys(name for step in record.steps for name in step.sources)
    found.pop(_TARGET, None)
    if not found and not any(step.sources for step in record.steps):
        return {}
    places = {name: 1 + n % (_PALETTE - 1) for n, name in enumerate(found)}
    return {_TARGET: 0, **places}


def _void(record: Record, start: float, end: float) -> bool:
    """Whether what was done then was taken back."""
    slack = 2e-6  # of rounding
    return any(
        back.start - slack <= start and end <= back.end + slack
        for back in record.roll_backs
    )


def _lanes(record: Record, axis: Axis) -> Iterator[Lane]:
    spans = sorted(record.spans, key=lambda span: span.part == "reading")
    bars = []
    for span in spans:
        is_void = span.part == "generating" and _void(record, span.start, span.end)
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
                "call",
                call.start,
                call.end,
                _said(f"{call.right} of {call.guesses} guesses right", call),
            )
            for call in record.calls
        ]
        said = f"{len(bars)} verifications of guesses, several in a call"
        yield axis.lane("The store", said, bars)


def _said(what: str, lasting: Step | RollBack | object) -> str:
    start, end = lasting.start, lasting.end  # type: ignore[union-attr]
    return f"{what}: {seconds(end - start)}, from {seconds(start)} on"


def _answer(record: Record, sources: dict[str, int]) -> Iterator[Part]:
    """The answer in its order, with what was taken back where it stood."""
    backs, shown = list(record.roll_backs), set[int]()
    for number, step in enumerate(record.steps, start=1):
        while backs and backs[0].end <= step.start:
            yield _taken_back(backs.pop(0))
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
    said = f"{back.tokens} tokens, taken back after {seconds(back.end)}"
    return Part("back", back.text, said)


def _by_source(step: Step, sources: dict[str, int]) -> Iterator[Part]:
    pairs = zip(step.sources, step.pieces, strict=True)
    for source, group in groupby(pairs, key=lambda pair: pair[0]):
        text = "".join(piece for _, piece in group)
        name = "the target's own" if source == _TARGET else source
        yield Part(f"s{sources[source]}", text, f"{name}, {seconds(step.at)}")


def _documents(record: Record, axis: Axis) -> Iterator[Used]:
    steps_of: dict[int, list[Step]] = {}
    for step in record.steps:
        for document in dict.fromkeys(step.documents):
            steps_of.setdefault(document, []).append(step)
    for number, passage in enumerate(record.documents):
        steps = steps_of.get(number, [])
        n_tokens = sum(len(step.pieces) for step in steps)
        bars = [
            Bar("document", s.start, s.end, _said(f"{len(s.pieces)} tokens", s))
            for s in steps
        ]
        first = seconds(steps[0].start) if steps else "never"
        said = f"used in {len(steps)} steps, first after {first}"
        lane = axis.lane(f"Document {number + 1}", said, bars)
        yield Used(number + 1, passage, lane, n_tokens, first)


def _rows(record: Record) -> Iterator[Row]:
    """Everything that happened, in the order of its beginning."""
    told: list[tuple[float, Row]] = []
    for number, step in enumerate(record.steps, start=1):
        what = f"step {number}: {len(step.pieces)} tokens"
        if step.documents:
            what += f", {ORIGINS[step.origin]}"
        if step.sources:
            counted = Counter(step.sources).items()
            what += ": " + ", ".join(f"{n} by {name}" for name, n in counted)
        under = ", ".join(str(document + 1) for document in step.documents)
        told.append((step.start, _row(step, what, "".join(step.pieces), under)))
    for back in record.roll_backs:
        what = f"{back.tokens} tokens taken back"
        told.append((back.start, _row(back, what, back.text)))
    for call in record.calls:
        what = f"verification: {call.right} of {call.guesses} guesses right"
        told.append((call.start, _row(call, what)))
    return (row for _, row in sorted(told, key=lambda pair: pair[0]))


def _row(lasting: object, what: str, text: str = "", documents: str = "") -> Row:
    start, end = lasting.start, lasting.end  # type: ignore[attr-defined]
    return Row(seconds(start), seconds(end - start), what, text, documents)


def _shares(record: Record) -> list[Share]:
    """Where the seconds went, of those that the loop took."""
    figure, spent = record.figures.get, dict[str, float]()
    for span in record.spans:
        spent[span.part] = spent.get(span.part, 0.0) + span.end - span.start
    if "generating" in spent:  # reading documents lies within
        within = spent["generating"] - spent.get("reading", 0.0)
        spent["generating"] = max(0.0, within)
    total = max(figure("seconds") or 0.0, sum(spent.values()))
    spent["rest"] = max(0.0, total - sum(spent.values()))
    return [
        Share(kind, name, seconds(spent[kind]), f"{100 * spent[kind] / total:.1f}")
        for kind, name in PARTS.items()
        if total and spent.get(kind, 0.0) >= total / 2000
    ]


def _figures(record: Record, n_tokens: int) -> Iterator[Figure]:
    figure = {name: value or 0 for name, value in record.figures.items()}.get
    took, first = figure("seconds", 0), figure("first_token", 0)
    rate = f"{n_tokens / took:.3g} a second" if took else ""
    yield Figure("time", seconds(took), f"first text after {seconds(first)}")
    yield Figure("tokens", f"{n_tokens:,}", rate)
    if record.method == "RAPID":
        yield from _draft_figures(record, n_tokens)
        return
    guesses, right = figure("guesses", 0), figure("right_guesses", 0)
    of = "documents" if record.method == "RaLMSpec" else "tokens"
    if guesses:
        proven = figure("proven_guesses", 0)
        note = f"{right / guesses:.0%}" + (f", {proven:.0f} proven" if proven else "")
        yield Figure(f"{of} guessed right", f"{right:.0f} of {guesses:.0f}", note)
        rounds = figure("rounds", 0)
        note = f"{guesses / rounds:.1f} guesses each" if rounds else "none was needed"
        yield Figure("verifications", f"{rounds:.0f}", note)
        back = figure("tokens_rolled_back", 0)
        yield Figure("taken back", f"{back:.0f}", "tokens of wrong guesses")
    else:
        yield Figure("guesses", "none", "every look-up was waited for")
    cost = figure("seconds_embedding", 0) + figure("seconds_searching", 0)
    note = f"{figure('store_calls', 0):.0f} calls, {figure('queries', 0):.0f} queries"
    yield Figure("the store", seconds(cost), note)
    kept, read = figure("cached_tokens", 0), figure("read_tokens", 0)
    if read or kept:
        yield Figure("read", f"{read:,.0f}", f"tokens; {kept:,.0f} more were kept")


def _draft_figures(record: Record, n_tokens: int) -> Iterator[Figure]:
    figure = {name: value or 0 for name, value in record.figures.items()}.get
    drafted = sum(record.counts.get("drafted", {}).values())
    accepted = sum(record.counts.get("accepted", {}).values())
    passes = figure("passes", 0)
    each = f"{max(0, n_tokens - 1) / passes:.2g} tokens each" if passes else ""
    if drafted:
        note = f"{accepted / drafted:.0%} of what was drafted"
        yield Figure("drafted right", f"{accepted} of {drafted}", note)
    else:
        yield Figure("drafted", "nothing", "plain decoding")
    yield Figure("passes", f"{passes:.0f}", each)
    kept, prompt = figure("cached_tokens", 0), figure("prompt_tokens", 0)
    note = f"of the prompt's {prompt:,.0f} were kept from before"
    yield Figure("tokens not read again", f"{kept:,.0f}", note)


@dataclass(frozen=True)
class Counts:
    """A table of counts, the most frequent first."""

    name: str
    rows: list[Share]


def _tables(record: Record) -> Iterator[Counts]:
    names = {
        "plans": "Plans that were chosen",
        "lengths": "Drafts by length",
        "drafted": "Tokens that were drafted, by drafter",
        "accepted": "Of these accepted",
    }
    for key, name in names.items():
        counted = record.counts.get(key) or {}
        most = max(counted.values(), default=0)
        if most:
            ordered = sorted(counted.items(), key=lambda item: -item[1])
            yield Counts(name, list(_counted(ordered, most)))


def _counted(ordered: Iterable[tuple[str, int]], most: int) -> Iterator[Share]:
    for name, count in ordered:
        yield Share("count", name, f"{count:,}", f"{100 * count / most:.1f}")


def _sentence(record: Record, n_tokens: int) -> str:
    """The whole report in a sentence or two."""
    figure = {name: value or 0 for name, value in record.figures.items()}.get
    if not record.steps:
        return "Nothing has been written yet: iterate over the run first."
    took = figure("seconds", 0)
    said = f"{n_tokens:,} tokens in {seconds(took)}"
    if waited := figure("seconds_waiting", 0):
        said += f", {min(1, waited / took):.0%} of it waiting" if took else ""
    guesses, right = figure("guesses", 0), figure("right_guesses", 0)
    if guesses:
        wrong = guesses - right
        said += f". {right:.0f} of {guesses:.0f} guesses were right"
        if wrong and (back := figure("tokens_rolled_back", 0)):
            said += f"; the others cost {back:.0f} tokens, which were taken back"
    endings = {
        "stop": "The answer ended by itself",
        "length": "The answer was cut at its longest length",
        None: "The answer is not finished",
    }
    return f"{said}. {endings[record.finish_reason]}."
