"""``ralmspec bench replay``: recorded drafts, at costs that were not measured here.

How many drafted tokens are accepted is a matter of the models and the text; what
drafting and verifying cost, one of the machine. So rounds that were recorded here say
what they would bring where the costs are others. It is a replay, not a measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from langchain_ralmspec.bench.figures import check_file, read_json, write_figures
from langchain_ralmspec.bench.rapid.replay_profile import (
    LLAMA_31_8B,
    Point,
    Profile,
    formula,
    read_profile,
)
from langchain_ralmspec.errors import InvalidValueError

Round = tuple[str | None, int, int]
"""Who drafted, how many tokens, and how many of them were accepted."""

_LOOKUP = "lookup"
_HOW = (
    "record it with `ralmspec bench rapid --drafter self --draft-length 10 --json FILE`"
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The rounds of an answer, and whether the model ended it."""

    rounds: tuple[Round, ...]
    ended: bool

    @property
    def judged(self) -> tuple[int, int]:
        """Drafted tokens whose predecessors were accepted, and those accepted too."""
        right = sum(accepted for _, _, accepted in self.rounds)
        wrong = sum(accepted < drafted for _, drafted, accepted in self.rounds)
        if self.ended and self.rounds:
            # What stands in the place of the end was not counted, right or wrong.
            _, drafted, accepted = self.rounds[-1]
            wrong -= accepted < drafted
        return right + wrong, right


@dataclass(frozen=True, slots=True)
class Trace:
    """What a row drafted.

    Attributes:
        row: its name.
        draft_length: γ, as it was asked for.
        answers: all of the row.
    """

    row: str
    draft_length: int
    answers: tuple[Recorded, ...]

    @property
    def rounds(self) -> list[Round]:
        """Of all answers."""
        return [each for answer in self.answers for each in answer.rounds]

    @property
    def is_by_a_model(self) -> bool:
        """Whether a model drafted, and look-up, which takes no step, did not."""
        names = {name for name, drafted, _ in self.rounds if drafted}
        return bool(names) and _LOOKUP not in names

    @property
    def acceptance(self) -> float:
        """α: share accepted of the tokens whose predecessors were."""
        judged = [answer.judged for answer in self.answers]
        n, right = (sum(counts) for counts in zip(*judged, strict=True))
        return right / n if n else 0.0

    def replayed(self, point: Point) -> float:
        """Speed-up over plain decoding at given costs."""
        cost = point.cost
        tokens = sum(accepted + 1 for _, _, accepted in self.rounds)
        return tokens / sum(
            drafted * point.draft_step + cost(drafted + 1)
            for _, drafted, _ in self.rounds
        )

    def as_dict(self, points: Iterable[Point]) -> dict[str, Any]:
        """Everything, for a report and a JSON file."""
        rounds = self.rounds
        drafted = sum(n for _, n, _ in rounds)
        accepted = sum(n for _, _, n in rounds)
        return {
            "draft_length": self.draft_length,
            "answers": len(self.answers),
            "passes": len(rounds),
            "tokens": accepted + len(rounds),
            "acceptance": self.acceptance,
            "accepted_of_drafted": accepted / drafted,
            "points": [self._at(point) for point in points],
        }

    def _at(self, point: Point) -> dict[str, Any]:
        verify = point.cost(self.draft_length + 1)
        costs = (self.draft_length, point.draft_step, verify)
        replayed = self.replayed(point)
        return {
            "context": point.context,
            "draft_step": point.draft_step,
            "verify": verify,
            "replayed": replayed,
            "formula": formula(self.acceptance, *costs),
            "all_right": formula(1.0, *costs),
            "published": point.published,
            "difference_percent": (
                100 * (replayed / point.published - 1) if point.published else None
            ),
        }


def run(
    traces: Path, profile: Path | None = None, json_file: Path | None = None
) -> dict[str, Any]:
    """Replay; print, write and return the figures.

    Args:
        traces: what ``bench rapid`` wrote.
        profile: costs; those that follow from RAPID's paper when None.
        json_file: written if given.

    Raises:
        InvalidValueError: a file cannot be used.
    """
    check_file(json_file)
    costs = read_profile(profile) if profile else LLAMA_31_8B
    figures = {
        "kind": "replay, not a measurement",
        "traces": str(traces),
        "profile": asdict(costs),
        "rows": {
            trace.row: trace.as_dict(costs.points) for trace in read_traces(traces)
        },
    }
    _report(figures, costs, Console())
    if json_file:
        write_figures(json_file, figures)
        print(f"figures written to {json_file}", file=sys.stderr)  # noqa: T201
    return figures


def read_traces(path: Path) -> list[Trace]:
    """The rows of a run in which a model drafted, always so many tokens.

    Raises:
        InvalidValueError: there is none, or the file is something else.
    """
    figures = read_json(path)
    try:
        length = figures["workload"]["draft_length"]
        answers = _answers(figures["samples"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidValueError(
            f"{str(path)!r} is not what `ralmspec bench rapid --json` writes "
            f"({type(error).__name__}: {error}); {_HOW}"
        ) from error
    if not isinstance(length, int):
        raise InvalidValueError(
            f"{str(path)!r} was made with --draft-length {length}, which suits drafts "
            f"to the costs of this machine; {_HOW}"
        )
    traces = [Trace(row, length, tuple(answers[row])) for row in answers]
    traces = [trace for trace in traces if trace.is_by_a_model]
    if not traces:
        raise InvalidValueError(
            f"{str(path)!r} has no row in which a model, and no look-up, drafted; "
            f"{_HOW}"
        )
    return traces


def _answers(samples: Sequence[dict[str, Any]]) -> dict[str, list[Recorded]]:
    answers: dict[str, list[Recorded]] = {}
    for sample in samples:
        for row, answer in sample["rows"].items():
            # The token that ends an answer is decoded, and no piece of it.
            ended = answer["decoded_tokens"] == len(answer["pieces"])
            rounds = tuple(_round(*each) for each in answer["rounds"])
            answers.setdefault(row, []).append(Recorded(rounds, ended))
    return answers


def _round(name: str | None, drafted: int, accepted: int) -> Round:
    if not 0 <= accepted <= drafted:
        raise ValueError(f"{accepted} of {drafted} drafted tokens were accepted")
    return name, drafted, accepted


_EXPLAINED = (
    "replayed: tokens / Σ(drafted·c + v(drafted+1)) over the recorded rounds. formula: "
    "(1-α^(γ+1)) / ((1-α)(γc + v)) with the recorded α, as if all tokens were equally "
    "likely and no answer ended amid a draft. all right: the same with α = 1. "
    "off by: replayed against published."
)


def _report(figures: dict[str, Any], profile: Profile, console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    say(
        f"A replay, not a measurement: the drafts recorded in {figures['traces']}, at "
        f"the costs of {profile.name} (source: {profile.source})."
    )
    for name, row in figures["rows"].items():
        say(
            f"{name}: γ = {row['draft_length']}, α = {row['acceptance']:.2f} "
            f"({row['accepted_of_drafted']:.0%} of all drafted tokens), "
            f"{row['tokens'] / row['passes']:.2f} tokens a pass, in {row['passes']} "
            f"passes of {row['answers']} answers."
        )
    console.print(_table(figures["rows"]))
    say(_EXPLAINED)
    for point in profile.points:
        passes = ", ".join(f"v({n}) = {v:g}" for n, v in point.passes.items())
        costs = f"{point.context:,} tokens: c = {point.draft_step:.3f}, {passes}"
        say(f"{costs}; {point.note}." if point.note else f"{costs}.")


def _table(rows: dict[str, Any]) -> Table:
    table = Table(
        title="speed-up over plain decoding, replayed",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for heading in (
        "", "context", "c", "replayed", "formula", "all\nright",
        "published", "off by",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        for point in row["points"]:
            table.add_row(name, *_cells(point))
    return table


def _cells(point: dict[str, Any]) -> tuple[str, ...]:
    published, difference = point["published"], point["difference_percent"]
    return (
        f"{point['context']:,}",
        f"{point['draft_step']:.3f}",
        f"{point['replayed']:.2f}×",
        f"{point['formula']:.2f}×",
        f"{point['all_right']:.2f}×",
        "–" if published is None else f"{published:.2f}×",
        "–" if difference is None else f"{difference:+.0f} %",
    )
