"""Regular expressions of JSON schemas as llama-cpp-python's converter takes them.

It copies classes and escapes into GBNF, which knows hardly any of a backslash. And what
they match stands in a JSON string, which a quote that a ``.`` matched would end.
"""

from __future__ import annotations

import json
import re

Ranges = list[tuple[int, int]]
"""Characters, by the first and the last of each row of them."""

_ONE = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.?)|[^\\]"
_SPAN = re.compile(rf"({_ONE})(?:-({_ONE}))?", re.DOTALL)
_REPEATED = r"(?:[*+?]|\{\d+(?:,\d*)?\}|\{,\d+\})"
_CLASS = r"\[\^?\]?(?:\\.|[^\]\\])*+\]"
# One without an end is looked through once, not again from each bracket within it.
_UNIT = re.compile(rf"{_CLASS}?|\(\?:|\(\?|{_REPEATED}\??|{_ONE}", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9 _-]")

_ALL: Ranges = [(0, 0x10FFFF)]
_BREAKS: Ranges = [(10, 10), (13, 13)]
_ESCAPED: Ranges = [(0, 31), (34, 34), (92, 92), (127, 127), (0xD800, 0xDFFF)]
"""What a JSON string does not hold as such."""

_SPACES = "\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
_CLASSES: dict[str, Ranges] = {
    "d": [(48, 57)],
    "w": [(48, 57), (65, 90), (95, 95), (97, 122)],
    "s": [(9, 13), (32, 32), (0x2000, 0x200A), *((ord(c), ord(c)) for c in _SPACES)],
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}


def rewritten(pattern: str) -> str:
    """A pattern of classes, brackets and repetitions alone.

    What JSON writes escaped is left out of a class that has others.

    Raises:
        ValueError: it has what no grammar can say.
    """
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise ValueError(f'the pattern {pattern!r} must begin with "^", end with "$"')
    made, depth, may_repeat = "", 0, False
    for unit in _UNIT.findall(pattern[1:-1]):
        depth += {"(": 1, "(?:": 1, ")": -1}.get(unit, 0)
        is_repeated = re.match(_REPEATED, unit) is not None
        if unit in {"(?", "^", "$"}:
            raise ValueError(f"no grammar can say {unit!r} within {pattern!r}")
        if depth < 0:
            raise ValueError(f"no bracket is open where {pattern!r} closes one")
        if is_repeated and not may_repeat:
            raise ValueError(f"nothing is repeated by {unit!r} in {pattern!r}")
        if unit == "|" and not depth:
            raise ValueError(f"put brackets around what is beside | in {pattern!r}")
        made += _rule(unit, is_repeated=is_repeated)
        may_repeat = not is_repeated and unit not in {"(", "(?:", "|"}
    if depth:
        raise ValueError(f"a bracket is open at the end of {pattern!r}")
    return f"^{made}$"


def _rule(unit: str, *, is_repeated: bool) -> str:
    if is_repeated:  # lazily or not, it matches the same
        return unit[:-1] if len(unit) > 1 and unit.endswith("?") else unit
    if unit in {"(", "(?:", ")", "|"}:
        return unit[0]
    if unit == ".":
        return _written(_without(_ALL, _BREAKS))
    if unit.startswith("["):
        if not re.fullmatch(_CLASS, unit, re.DOTALL):
            raise ValueError(f"no grammar can say {unit[:9]!r}, a class without an end")
        return _written(_class(unit[1:-1]))
    return unit if _PLAIN.fullmatch(unit) else _written(_characters(unit))


def _class(inside: str) -> Ranges:
    is_negated = inside.startswith("^")
    ranges: Ranges = []
    for first, last in _SPAN.findall(inside[is_negated:]):
        low, high = _characters(first), _characters(last or first)
        if last and first[1:].lower() not in _CLASSES and len(low) == len(high) == 1:
            ranges.append((low[0][0], high[0][1]))
        else:
            ranges += [*low, *high, *([(45, 45)] if last else [])]
    return _without(_ALL, ranges) if is_negated else ranges


def _characters(unit: str) -> Ranges:
    """Those that a sign, or one behind a backslash, stands for."""
    name = unit[1:] if unit.startswith("\\") else ""
    if kind := _CLASSES.get(name.lower()):
        return kind if name.islower() else _without(_ALL, kind)
    if re.fullmatch(r"[xu][0-9a-fA-F]+", name):
        code = int(name[1:], 16)
    elif name in _CONTROLS:
        code = _CONTROLS[name]
    elif unit == "\\" or name.isalnum():
        raise ValueError(f"no grammar can say {unit!r} within a pattern")
    else:
        code = ord(name or unit)
    return [(code, code)]


def _without(ranges: Ranges, others: Ranges) -> Ranges:
    kept: Ranges = []
    others = sorted(others)
    for low, high in ranges:
        rest = low
        for first, last in others:
            if first > high:
                break
            if first > rest:
                kept.append((rest, first - 1))
            rest = max(rest, last + 1)
        if rest <= high:
            kept.append((rest, high))
    return kept


def _written(ranges: Ranges) -> str:
    """A class, or where JSON writes all of its characters escaped, these."""
    if safe := _without(ranges, _ESCAPED):
        spans = (f"{_sign(a)}-{_sign(b)}" if a < b else _sign(a) for a, b in safe)
        return f"[{''.join(spans)}]"
    signs = [chr(code) for low, high in ranges for code in range(low, high + 1)]
    if not signs:
        raise ValueError("a class of a pattern allows nothing")
    spelt = (json.dumps(sign)[1:-1] for sign in signs)
    return f"({'|'.join(''.join(f'[{_sign(ord(c))}]' for c in s) for s in spelt)})"


def _sign(code: int) -> str:
    """A character within a class of GBNF."""
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    return f"\\U{code:08X}"
