"""A long context in a conversation, parted from what is asked about it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.text import (
    is_blank,
    part_at_first_blank_line,
    part_at_last_blank_line,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUESTION_MARKS = ("?", "？", "؟")


def part(turns: Sequence[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Take the context out of the longest turn that is not the model's or a tool's.

    A turn that holds the question too is parted alike while it is the last one and
    once it is history: only then are the context's tokens those whose KV is kept.

    Returns:
        The context, and the turns without it.

    Raises:
        InvalidValueError: there is no other turn, and no blank line, to part it from
            the question.
    """
    others = {"assistant", "tool"}
    given = [at for at, turn in enumerate(turns) if turn["role"] not in others]
    at = max(given, key=lambda at: len(turns[at]["content"]))
    role, content = turns[at]["role"], turns[at]["content"]
    before, after = turns[:at], turns[at + 1 :]
    # What tools are called for it, and find, are no other turns of a conversation; nor
    # is an answer to it that was begun.
    is_last = all(turn["role"] != "user" for turn in after)
    if role == "system":
        return content, [*before, *after]
    context, question = _part_question(content, is_last=is_last)
    if is_last and is_blank(context):
        msg = (
            f"no context in {content[:60]!r}; bind one with context=…, send it "
            "as the system message, or put a blank line between it and the question"
        )
        raise InvalidValueError(msg)
    # What is longer than all before it is no question, but the text itself.
    if not is_last and len(question) > len(context.strip()):
        context, question = content, "(This is the text above.)"
    return context, [*before, {"role": role, "content": question}, *after]


def _part_question(content: str, *, is_last: bool) -> tuple[str, str]:
    """A text, and the question behind it or, if it says that it is one, before it."""
    first, rest = part_at_first_blank_line(content)
    context, question = part_at_last_blank_line(content)
    if not rest or not _asks(first) or _asks(question):
        return context, question
    if _is_labelled(first):
        return rest, first
    if is_last:
        warnings.warn(
            f"taking {question[:60]!r} for the question, because it stands last; if "
            f"{first[:60]!r} is the question, put it behind the text, begin it with "
            "'Question:', or bind the text with context=…",
            UserWarning,
            stacklevel=2,
        )
    return context, question


def _asks(paragraph: str) -> bool:
    return _is_labelled(paragraph) or paragraph.rstrip().endswith(_QUESTION_MARKS)


def _is_labelled(paragraph: str) -> bool:
    return paragraph.lstrip().lower().startswith("question:")
