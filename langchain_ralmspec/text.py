"""Text as it comes in: made of characters, with blank lines where it is parted."""

from __future__ import annotations

import re

# Carriage returns and the separators of lines and paragraphs end a line, too.
_BLANK_LINES = re.compile(
    r"(?:\r\n?|[\n\x85\u2028])(?:[^\S\r\n\x85\u2028\u2029]*(?:\r\n?|[\n\x85\u2028]))+"
    r"|\u2029"
)


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


def part_at_last_blank_line(text: str) -> tuple[str, str]:
    """What stands before the last blank line, and behind it; whitespace is blank.

    A text without one stands behind it.
    """
    text = text.rstrip()
    last = None
    for last in _BLANK_LINES.finditer(text):
        pass
    return (text[: last.start()], text[last.end() :]) if last else ("", text)
