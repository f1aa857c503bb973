"""The numbers of a report: its head, where the seconds went, what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.report.words import PARTS, n_of, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langchain_ralmspec.report.record import Record


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


def shares(record: Record) -> list[Share]:
    """Where the seconds went, of those that the loop took."""
    figure, spent = record.figures.get, dict[str, float]()
    for span in record.spans:
        spent[span.part] = spent.get(span.part, 0.0) + span.end - span.start
    if "generating" in spent:  # reading documents lies within
        within = spent["generating"] - spent.get("reading", 0.0)
        spent["generating"] = max(0.0, within)
    spent["preparing"] = figure("seconds_preparing") or 0.0  # before the loop began
    total = max(figure("seconds") or 0.0, sum(spent.values()))
    spent["rest"] = max(0.0, total - sum(spent.values()))
    return [
        Share(kind, name, seconds(spent[kind]), f"{100 * spent[kind] / total:.1f}")
        for kind, name in PARTS.items()
        if total and spent.get(kind, 0.0) >= total / 2000
    ]


def figures(record: Record, n_tokens: int) -> Iterator[Figure]:
    """What stands at the head of the page."""
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
        note = f"{of}, {right / guesses:.0%}"
        note += f", {proven:.0f} proven" if proven else ""
        yield Figure("guessed right", f"{right:.0f} of {guesses:.0f}", note)
        rounds = figure("rounds", 0)
        note = f"{guesses / rounds:.1f} guesses each" if rounds else "none was needed"
        yield Figure("verifications", f"{rounds:.0f}", note)
        back = figure("tokens_rolled_back", 0)
        yield Figure("taken back", f"{back:.0f}", "tokens of wrong guesses")
    else:
        yield Figure("guesses", "none", "every look-up was waited for")
    cost = figure("seconds_embedding", 0) + figure("seconds_searching", 0)
    calls, queries = figure("store_calls", 0), figure("queries", 0)
    note = f"{n_of(calls, 'call')}, {n_of(queries, 'query')}"
    yield Figure("look-ups", seconds(cost), note)
    kept, read = figure("cached_tokens", 0), figure("read_tokens", 0)
    if read or kept:
        note = f"tokens; {kept:,.0f} kept from before"
        what = "documents read" if record.method == "RaLMSpec" else "prompt read"
        yield Figure(what, f"{read:,.0f}", note)


def _draft_figures(record: Record, n_tokens: int) -> Iterator[Figure]:
    figure = {name: value or 0 for name, value in record.figures.items()}.get
    drafted = sum(record.counts.get("drafted", {}).values())
    accepted = sum(record.counts.get("accepted", {}).values())
    passes = figure("passes", 0)
    each = f"{max(0, n_tokens - 1) / passes:.1f} tokens each" if passes else ""
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
    note: str


def tables(record: Record) -> Iterator[Counts]:
    """What was chosen, and how often."""
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
            note = _PLANS if key == "plans" else ""
            yield Counts(name, list(_counted(ordered, most)), note)


_PLANS = (
    "“lookup 4×2” looks up guesses in what was seen before, asks for 4 at once, and "
    "has 2 such calls out while it writes; “same” guesses the same documents again; "
    "“≤” ends a call at an unsure guess; “sequential” guesses nothing, and waits."
)


def _counted(ordered: Iterable[tuple[str, int]], most: int) -> Iterator[Share]:
    for name, count in ordered:
        yield Share("count", name, f"{count:,}", f"{100 * count / most:.1f}")


def sentence(record: Record, n_tokens: int) -> str:
    """The whole report in a sentence or two."""
    figure = {name: value or 0 for name, value in record.figures.items()}.get
    if not record.steps:
        return "Nothing has been written yet: iterate over the run first."
    took = figure("seconds", 0)
    said = f"{n_of(n_tokens, 'token')} in {seconds(took)}"
    if waited := figure("seconds_waiting", 0):
        said += f", {min(1, waited / took):.0%} of it waiting" if took else ""
    guesses, right = figure("guesses", 0), figure("right_guesses", 0)
    if guesses:
        wrong = guesses - right
        said += f". {right:.0f} of {n_of(guesses, 'guess')} were right"
        if wrong and (back := figure("tokens_rolled_back", 0)):
            said += f"; {n_of(back, 'token')} had to be taken back"
    endings = {
        "stop": "The answer ended by itself",
        "length": "The answer was cut at its longest length",
        None: "The answer is not finished",
    }
    return f"{said}. {endings[record.finish_reason]}."
