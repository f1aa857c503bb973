"""What a foreign program may do in one run: steps, and sizes of what it works on.

A single operation of a template can ask for any amount of memory or time, as
``"%999999999s" % x`` and ``x.replace("", y)`` do. So none is begun before it is known
what it can come to. By one rule for operations of every name, that is the product of
the sizes of all that it is given; a few names are known to make less.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from string import Formatter
from typing import Any

from jinja2 import TemplateError

MAX_STEPS = 300_000
"""Operations and rounds of loops in one run: a few seconds at most, and ten times what
a template takes for a thousand messages. No width or count is larger, either."""

MAX_MADE = 2**22
"""Characters that are made in one run, beside :data:`MADE_PER_GIVEN` for each that was
given: a few MB, and what templates put around thousands of messages."""

MADE_PER_GIVEN = 128
"""Templates copy what is said, to strip it and to join it, some ten times; and where
one adds message after message to one text, it is copied with each, of two hundred."""

MAX_HANDLED = 2**28
"""Characters that are looked at in one run, beside :data:`HANDLED_PER_GIVEN` for each
that was given: a search in so many takes less than a second."""

HANDLED_PER_GIVEN = 1024  # sixteen looks at each copy

# In characters, which take up to four bytes:
_PART = 16  # of a list: a pointer, and an object of its own
_OBJECT = 256

# What makes no more than it is given, all together. Others are refused with long texts
# and lists sooner, that is all: a name left out here does no harm.
_ADDS_NOTHING = frozenset(
    [
        "+",
        "capitalize",
        "changed",
        "count",
        "cycle",
        "default",
        "dict",
        "endswith",
        "find",
        "first",
        "get",
        "groupby",
        "in",
        "index",
        "items",
        "keys",
        "last",
        "list",
        "lower",
        "lstrip",
        "map",
        "namespace",
        "partition",
        "reject",
        "rejectattr",
        "removeprefix",
        "removesuffix",
        "reverse",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "select",
        "selectattr",
        "sort",
        "split",
        "splitlines",
        "startswith",
        "string",
        "strip",
        "title",
        "trim",
        "truncate",
        "unique",
        "upper",
        "values",
    ]
)
# What is given to these is put beside one another, and not looked for in one another.
_COPIES = frozenset(["+", "center", "join", "ljust", "rjust", "truncate", "zfill"])
_NUMBER = re.compile(r"\d+")


class Meter:
    """Counts what a run does, and ends it by a ``TemplateError`` before it is too much.

    Args:
        given: all that the run is about.
    """

    def __init__(self, given: object) -> None:
        # Lists do not change in a sandbox. They are kept, so that no id is another's.
        self._sizes: dict[int, tuple[object, int]] = {}
        self._steps = self._handled = self._made = 0
        self._most_handled = self._most_made = math.inf
        size = self.size(given)
        self._most_handled = MAX_HANDLED + HANDLED_PER_GIVEN * size
        self._most_made = MAX_MADE + MADE_PER_GIVEN * size

    def step(self) -> None:
        """Count an operation, or a round of a loop."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            msg = f"it takes more than {MAX_STEPS:,} steps"
            raise TemplateError(msg)

    def handle(self, size: int) -> None:
        """Count characters that are going to be looked at."""
        self._handled += size
        _require(self._handled, self._most_handled, "looks at")

    def make(self, size: int) -> None:
        """Count characters that are made."""
        self._made += size
        _require(self._made, self._most_made, "makes")

    def size(self, value: object) -> int:
        """Characters of a value: of all its parts, and theirs, wherever they recur."""
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, int):
            return _PART + value.bit_length()
        if value is None or isinstance(value, float):
            return _PART
        if not isinstance(value, Collection):
            return _OBJECT
        _, size = self._sizes.get(id(value), (None, None))
        if size is None:
            pairs = value.items() if isinstance(value, Mapping) else None
            parts = value if pairs is None else chain.from_iterable(pairs)
            size = sum(_PART + self.size(part) for part in parts)
            # Beyond, comparing it or printing it would take as long.
            _require(size, self._most_made, "makes")
            self._sizes[id(value)] = value, size
        return size

    def count_made(self, value: object) -> None:
        """Count a value that was put together of others, which are not copied."""
        self.handle(self.size(value))
        self.make(_PART * len(value) if isinstance(value, Collection) else _OBJECT)

    def run(
        self, operation: Callable[[], Any], name: str, value: Any, others: Sequence[Any]
    ) -> Any:
        """Do an operation on a value, with others, if it cannot come to too much.

        What gives its results one by one gives them all at once, as a list.
        """
        self.step()
        sizes = [self.size(each) for each in others]
        size = self.size(value)
        is_text = isinstance(value, str | bytes)
        exact = _BOUNDS.get(name) or (_TEXT_BOUNDS.get(name) if is_text else None)
        if name in _ADDS_NOTHING or exact:
            total = size + sum(sizes)
            bound = exact(value, others, total) if exact else total
            # A search for a text in another can take as long as their product tells.
            sought = [s for s, o in zip(sizes, others, strict=True) if _is_text(o)]
            seeks = is_text and name not in _COPIES
            self.handle(size * math.prod(sought) if seeks else total)
        else:
            bound = max(1, size) * math.prod(map(_extent, others, sizes))
            self.handle(bound)
        _require(self._made + bound, self._most_made, "makes")
        result = operation()
        if isinstance(result, Iterator):
            result = list(self.counted(result))
        if is_text or _is_text(result):
            self.make(self.size(result))
        else:
            self.count_made(result)
        return result

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, each of them a step."""
        for item in items:
            self.step()
            yield item


def _require(size: int, most: float, does: str) -> None:
    if size > most:
        msg = f"it {does} more than {most:,.0f} characters"
        raise TemplateError(msg)


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)


def _extent(value: object, size: int) -> int:
    """How many times as much something may make of what it is given with this."""
    if not isinstance(value, int):
        return max(1, size)
    _require(abs(value), MAX_STEPS, "asks for")  # a width, or a count
    return max(1, abs(value))


def _replaced(text: str, others: Sequence[Any], total: int) -> int:
    """Length of a text with others replaced; keywords come in either order."""
    texts = [other for other in others if isinstance(other, type(text))]
    if len(texts) < 2:  # noqa: PLR2004  it will be refused
        return total
    (old, new), length = texts[:2], len(text)
    return length + max(text.count(old) * len(new), text.count(new) * len(old))


def _filled(text: str, others: Sequence[Any], total: int) -> int:
    """Length of ``text % others``."""
    widths = [int(number) for number in _NUMBER.findall(text)]
    if "*" in text:  # then numbers among the others may be widths
        parts = chain.from_iterable(o if isinstance(o, tuple) else [o] for o in others)
        widths += [abs(part) for part in parts if isinstance(part, int)]
    return len(text) + text.count("%") * (total + max(widths, default=0))


def _formatted(text: str, _: Sequence[Any], total: int) -> int:
    """Length of ``text.format(*others)``."""
    specs = [
        spec
        for *_field, spec, _conversion in Formatter().parse(text)
        if spec is not None
    ]
    if any("{" in spec for spec in specs):
        msg = f"it takes a width from elsewhere, in {text[:40]!r}.format()"
        raise TemplateError(msg)
    widths = [int(number) for spec in specs for number in _NUMBER.findall(spec)]
    return len(text) + len(specs) * (total + max(widths, default=0))


def _padded(_text: Any, others: Sequence[Any], total: int) -> int:
    """Length of a text that is brought to a width."""
    return total + max(_widths(others), default=80)


def _joined(parts: Any, others: Sequence[Any], total: int) -> int:
    """Length of some texts with another between them, or of that text's own method."""
    if isinstance(parts, str | bytes) and others:
        parts, others = others[0], (parts,)
    n = len(parts) if isinstance(parts, Collection) else 1
    between = [len(each) if _is_text(each) else total for each in others if each]
    return total + n * max(between, default=0)


def _as_json(value: Any, others: Sequence[Any], total: int) -> int:
    """Length of a value in JSON, each part of which may have a line of its own."""
    for each in others:
        if not (each is None or isinstance(each, int) or _are_signs(each)):
            msg = "it gives something else than a number, and two signs, to 'tojson'"
            raise TemplateError(msg)
    return total * (2 + max(_widths(others), default=0) * _depth(value))


def _widths(others: Sequence[Any]) -> Iterator[int]:
    return (_extent(each, 0) for each in others if isinstance(each, int))


def _are_signs(value: Any) -> bool:
    """Whether it is what may stand between the parts of JSON."""
    is_pair = isinstance(value, list | tuple) and len(value) == len(",:")
    return is_pair and all(_is_text(each) and len(each) <= _PART // 2 for each in value)


def _depth(value: Any) -> int:
    """How many containers stand within one another."""
    layer, depth = [value], 0
    while layer := [each for each in layer if isinstance(each, list | tuple | dict)]:
        depth += 1
        parts = (each.values() if isinstance(each, dict) else each for each in layer)
        layer = list(chain.from_iterable(parts))
    return depth


_BOUNDS: dict[str, Callable[[Any, Sequence[Any], int], int]] = {
    "center": _padded,
    "join": _joined,
    "ljust": _padded,
    "rjust": _padded,
    "tojson": _as_json,
    "zfill": _padded,
}

_TEXT_BOUNDS: dict[str, Callable[[Any, Sequence[Any], int], int]] = {
    "replace": _replaced,
    "%": _filled,
    "format": _formatted,
    "format_map": _formatted,
}
