"""Where the turns of a conversation stand, for templates that take not every order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from langchain_ralmspec.engine.calls import Turn

Content = tuple[str, ...]
"""What a turn says: one text, or the texts before and behind the context."""


class Part(NamedTuple):
    """A turn of a conversation."""

    role: str
    content: Content
    beside: dict[str, Any] = {}  # noqa: RUF012  calls, or which call it answers


def layout_of(turns: Sequence[Turn], instructions: str | None) -> list[Part]:
    """Turns as they come, behind a system turn of ``instructions`` if none is first.

    The context heads them all where no turn's content is parted for it.
    """
    layout = []
    for turn in turns:
        given = turn["content"]
        content = (given,) if isinstance(given, str) else given
        beside = {k: turn[k] for k in turn if k not in {"role", "content"}}
        layout.append(Part(str(turn["role"]), content, beside))
    if layout[0].role != "system" and instructions is not None:
        layout.insert(0, Part("system", (instructions,)))
    if all(len(part.content) == 1 for part in layout):
        layout[0] = layout[0]._replace(content=("", *layout[0].content))
    return layout


def layouts_of(layout: list[Part]) -> list[list[Part]]:
    """The layout itself, and plainer ones, which strict templates take.

    Some templates take a system turn only as the first, some none at all; some insist
    that user and assistant take turns.
    """
    places = [at for at, part in enumerate(layout) if part.role == "system"]
    layouts = [layout]
    if any(places):
        layouts.append(_folded(layout, 1))
    if 0 in places:
        layouts.append(_folded(layout, 0))
    return layouts


def _folded(layout: Sequence[Part], first: int) -> list[Part]:
    """Turns without system turns from the ``first`` on: users say what these do.

    It begins the user's next turn, or ends the last one where none follows.
    """
    folded: list[Part] = []
    waiting: Content = ()
    for at, part in enumerate(layout):
        if part.role == "system" and at >= first:
            waiting = _joined(waiting, part.content)
            continue
        content = part.content
        if part.role == "user":
            content, waiting = _joined(waiting, content), ()
        last = folded[-1] if folded else None
        if last and last.role == part.role and not (last.beside or part.beside):
            content = _joined(last.content, content)
            folded[-1] = last._replace(content=content)
        else:
            folded.append(part._replace(content=content))
    has_ended = layout[-1].role == "system" and folded[-1].role == "assistant"
    if waiting and has_ended:  # else the last answer would be continued
        folded.append(Part("user", waiting))
    elif waiting:
        at = max(at for at, part in enumerate(folded) if part.role == "user")
        content = _joined(folded[at].content, waiting)
        folded[at] = folded[at]._replace(content=content)
    return folded


def _joined(first: Content, second: Content) -> Content:
    """Two contents as two paragraphs; the context may be in one of them."""
    if not first:
        return second
    return (*first[:-1], f"{first[-1]}\n\n{second[0]}", *second[1:])
