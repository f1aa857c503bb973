"""The timeline as rectangles on lanes, in thousandths of the time that is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langchain_ralmspec.report.words import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_ralmspec.report.record import Record

WIDTH = 1000.0
_HAIR = 0.3  # of WIDTH: no gap is seen that is narrower, ...
_THIN = 1.0  # ... and no rectangle of its own
_ROOM = 4  # pixels that a rectangle is given where there are many
_MANY, _WIDEST = 150, 6000  # rectangles, pixels


@dataclass(frozen=True)
class Bar:
    """A stretch of time of one kind."""

    kind: str
    start: float  # seconds
    end: float
    said: str  # what it is, in words


@dataclass(frozen=True)
class Drawn:
    """A bar's place."""

    bar: Bar
    x: str
    width: str


@dataclass(frozen=True)
class Lane:
    """Bars that do not overlap much, and what the lane is in words."""

    name: str
    said: str
    bars: list[Drawn]


@dataclass(frozen=True)
class Tick:
    """A moment on the axis."""

    left: str  # percent
    label: str


@dataclass(frozen=True)
class Axis:
    """The time that is shown: from 0 to where the last thing ends."""

    seconds: float

    def ticks(self, pixels: int) -> list[Tick]:
        """Round moments, some five of them on a page's width."""
        raw = self.seconds / (5 * max(1, pixels / WIDTH))
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        # One at the very end would stand outside.
        moments = [n * step for n in range(math.ceil(self.seconds / step * 0.98))]
        return [Tick(f"{100 * t / self.seconds:.2f}", seconds(t)) for t in moments]

    def lane(self, name: str, said: str, bars: Iterable[Bar]) -> Lane:
        """Draw bars; thin ones of one kind that nobody could tell apart become one."""
        drawn: list[Bar] = []
        for bar in bars:
            last = drawn[-1] if drawn else bar
            is_near = 0 <= self._scaled(bar.start - last.end) < _HAIR
            is_thin = self._scaled(bar.end - bar.start) < _THIN
            if is_near and is_thin and drawn and last.kind == bar.kind:
                drawn[-1] = replace(last, end=bar.end)
            else:
                drawn.append(bar)
        return Lane(name, said, list(map(self._placed, drawn)))

    def _scaled(self, seconds: float) -> float:
        return seconds / self.seconds * WIDTH

    def _placed(self, bar: Bar) -> Drawn:
        width = max(self._scaled(bar.end - bar.start), 2 * _HAIR)
        width -= _HAIR * (width > 2 * _THIN)  # so that neighbours are told apart
        return Drawn(bar, f"{self._scaled(bar.start):.2f}", f"{width:.2f}")


def axis_of(record: Record) -> Axis:
    """The axis of all that a record tells of."""
    lasting = (*record.spans, *record.steps, *record.roll_backs, *record.calls)
    ends = [each.end for each in lasting] + [step.at for step in record.steps]
    return Axis(max([*ends, 1e-3]))


def rows_of(bars: Iterable[Bar]) -> list[list[Bar]]:
    """Bars in rows, in each of which none begins before the one before it ends."""
    rows: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: bar.start):
        free = next((row for row in rows if row[-1].end <= bar.start), None)
        if free is None:
            rows.append([bar])
        else:
            free.append(bar)
    return rows


def room_for(lanes: Iterable[Lane]) -> int:
    """Pixels that the lanes want at least; 0 where any width will do."""
    most = max((len(lane.bars) for lane in lanes), default=0)
    return 0 if most < _MANY else min(_ROOM * most, _WIDEST)
