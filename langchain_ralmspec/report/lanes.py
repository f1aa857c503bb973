"""The timeline as rectangles on lanes, in thousandths of the time that is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_ralmspec.report.record import Record

WIDTH = 1000.0
_HAIR = 0.3  # of WIDTH: rectangles of one kind that are so near are drawn as one
_ROOM = 4  # pixels that a rectangle is given where there are many
_MANY, _WIDEST = 150, 6000  # rectangles, pixels
_MINUTES = 120  # seconds; below, nobody counts in minutes


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


@dataclass
class Axis:
    """The time that is shown: from 0 to where the last thing ends."""

    seconds: float
    ticks: list[Tick] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Place some five ticks at round numbers."""
        raw = self.seconds / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        for number in range(int(self.seconds / step * 1.0001) + 1):
            left = 100 * number * step / self.seconds
            self.ticks.append(Tick(f"{left:.2f}", seconds(number * step)))

    def lane(self, name: str, said: str, bars: Iterable[Bar]) -> Lane:
        """Draw bars; those of one kind that nobody could tell apart become one."""
        drawn: list[Bar] = []
        for bar in bars:
            last = drawn[-1] if drawn else None
            gap = (bar.start - last.end) / self.seconds * WIDTH if last else math.inf
            if last and last.kind == bar.kind and 0 <= gap < _HAIR:
                said_before = last.said if last.said == bar.said else f"{bar.kind}"
                drawn[-1] = replace(last, end=bar.end, said=said_before)
            else:
                drawn.append(bar)
        return Lane(name, said, list(map(self._placed, drawn)))

    def _placed(self, bar: Bar) -> Drawn:
        x = bar.start / self.seconds * WIDTH
        width = (bar.end - bar.start) / self.seconds * WIDTH
        return Drawn(bar, f"{x:.2f}", f"{max(width, 0.6):.2f}")


def axis_of(record: Record) -> Axis:
    """The axis of all that a record tells of."""
    lasting = (*record.spans, *record.steps, *record.roll_backs, *record.calls)
    ends = [each.end for each in lasting] + [step.at for step in record.steps]
    return Axis(max([*ends, 1e-3]))


def room_for(lanes: Iterable[Lane]) -> int:
    """Pixels that the lanes want at least; 0 where any width will do."""
    most = max((len(lane.bars) for lane in lanes), default=0)
    return 0 if most < _MANY else min(_ROOM * most, _WIDEST)


def seconds(value: float) -> str:
    """A time as people write it: 3 digits, in seconds, milliseconds or minutes."""
    value = round(value, 6)  # no more is kept
    if value >= _MINUTES:
        return f"{value / 60:,.1f} min"
    return f"{value:.3g} s" if value >= 1 or not value else f"{1000 * value:.3g} ms"
