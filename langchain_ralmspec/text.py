"""Text as it comes in: made of characters, parted at blank lines, cut into runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any

# Those of `str.splitlines`. What ends a page or a paragraph ends more than a line.
_LINE_END = r"(?:\r\n?+|[\n\v\f\x1c-\x1e\x85\u2028\u2029])"
_PART_END = r"[\f\u2029]"
# Whitespace and, the last two lines, of which nothing is seen either: spaces and
# joiners without a width, marks of direction and of byte orders, the soft hyphen,
# fillers of Hangul, a Braille cell without dots.
_BLANKS = "".join(
    map(
        chr,
        [
            *range(0x9, 0xE), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680,
            *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000,
            0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F),
            *range(0x2060, 0x2070), 0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800, 0xFEFF,
        ],
    )
)  # fmt: skip
_BLANK = f"[{re.escape(_BLANKS)}]"
_MORE = rf"{_BLANK}*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]"
_BLANK_LINES = re.compile(rf"{_LINE_END}{_MORE}|{_PART_END}")
_SEEN = re.compile(rf"(?!{_BLANK}).", re.DOTALL)

SENTENCE_ENDS = tuple(mark.encode() for mark in ".!?。！？．｡।॥۔؟։።။។៕")
"""Characters that end a sentence, in UTF-8."""

LONGEST_RUN = 10_000
"""Characters without, or of nothing but, whitespace that a tokeniser is given at most:
``std::regex`` takes some hundred bytes of stack for each (some 8 MiB are there)."""

MOST_DIGITS = 999
"""Digits in a row that a tokeniser which groups them in threes from the last is given
at most: at each group it looks through all that follow, and 8,000 take ten seconds."""

_LONG_NUMBER = re.compile(rf"(?<!\d)\d{{{MOST_DIGITS + 1},}}")

# Runs begin where none goes on, so that a text is looked through once. Some separators
# are whitespace to one side only: they count as both.
_LONG_RUN = re.compile(
    rf"(?<![\S\x1c-\x1f])[\S\x1c-\x1f]{{{LONGEST_RUN + 1},}}"
    rf"|(?<!\s)\s{{{LONGEST_RUN + 1},}}"
)
# Behind a letter and before punctuation every tokeniser of words parts them by itself.
_WORD_END = re.compile(r"(?<=[^\W\d_])(?=[.,!?…。，、।۔،！？])")


def well_formed(text: str) -> str:
    r"""The text with surrogate pairs joined, and lone surrogates as U+FFFD.

    A string from JSON or from UTF-16 may hold halves of characters (``"\ud83d"``),
    which cannot be encoded, and so neither be stored nor be read by a model.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        units = text.encode("utf-16-le", "surrogatepass")
        return units.decode("utf-16-le", "replace")
    return text


def well_formed_json(value: Any) -> Any:
    """A value of JSON whose texts are made of characters, as :func:`well_formed`."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [well_formed_json(item) for item in value]
    if isinstance(value, dict):
        pairs = value.items()
        named = {well_formed_json(name): well_formed_json(item) for name, item in pairs}
        if len(named) < len(value):
            msg = f"of the names {[*value]!r} two would become one"
            raise ValueError(msg)
        return named
    return value


def sha256_of(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits; halves of characters count as well."""
    # Not "replace", by which two texts could have one checksum.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def told_in(metadata: Mapping[str, Any] | None, names: Iterable[str]) -> Iterator[str]:
    """What metadata says under some names, where that is one thing, in words.

    What is missing says nothing, and cannot even be asked whether it is empty where it
    is ``pandas.NA``; nor do an array, or an object that has no words for itself.
    """
    for name in names:
        value = (metadata or {}).get(name)
        value = value.value if isinstance(value, Enum) else value
        is_single = isinstance(value, str) or not isinstance(value, Collection)
        kind: Any = type(value)
        has_words = isinstance(value, int) or kind.__str__ is not object.__str__
        if value is None or isinstance(value, bool) or not (is_single and has_words):
            continue
        with suppress(Exception):  # a stranger's class may do anything
            text = well_formed(str(value))
            if value == value and not is_blank(text):  # noqa: PLR0124  no NaN is
                yield text


def is_blank(text: str) -> bool:
    """Whether nothing of a text is seen."""
    return _SEEN.search(text) is None


def part_at_first_blank_line(text: str) -> tuple[str, str]:
    """What stands before the first blank line behind any text, and behind it."""
    text = text.strip(_BLANKS)
    found = _BLANK_LINES.search(text)
    return (text[: found.start()], text[found.end() :]) if found else (text, "")


def part_at_last_blank_line(text: str) -> tuple[str, str]:
    """What stands before the last blank line, and behind it; whitespace is blank.

    A text without one stands behind it.
    """
    text = text.rstrip(_BLANKS)
    places = [(found.start(), found.end()) for found in _BLANK_LINES.finditer(text)]
    if not places:
        return "", text
    start, end = places[-1]
    return text[:start], text[end:]


def cuts_of_long_numbers(text: str) -> Iterator[int]:
    """Where to cut a text behind every :data:`MOST_DIGITS` digits, from the last."""
    for number in _LONG_NUMBER.finditer(text):
        yield from range(number.end() - MOST_DIGITS, number.start(), -MOST_DIGITS)


def cuts_of_long_runs(text: str) -> Iterator[int]:
    """Where to cut a text so that no run is longer than :data:`LONGEST_RUN`.

    Ordinary text has such runs only where it has no spaces, as Chinese has none. It
    is cut at the end of a word where it can be.
    """
    if len(text) <= LONGEST_RUN:
        return
    for run in _LONG_RUN.finditer(text):
        start = run.start()
        while run.end() - start > LONGEST_RUN:
            latest = start + LONGEST_RUN
            ends = _WORD_END.finditer(text, start + LONGEST_RUN // 2, latest)
            start = max((end.start() for end in ends), default=latest)
            yield start
