"""The page about one answer: a file that loads nothing and runs no script."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.errors import MissingExtraError
from langchain_ralmspec.report.view import View
from langchain_ralmspec.text import well_formed

if TYPE_CHECKING:
    from langchain_ralmspec.report.record import Record


def page(record: Record, title: str | None = None) -> str:
    """The page, whole.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    rendered: str = _template("page.html.jinja").render(view=View(record, title))
    return rendered


def embedded(record: Record) -> str:
    """The page in a frame, to stand in another page."""
    rendered: str = _template("frame.html.jinja").render(page=page(record))
    return rendered


@cache
def _template(name: str) -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError.of("jinja2", "llama") from error
    folder = files(__package__)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    # Our own file, and the only text that is not escaped.
    style = folder.joinpath("page.css").read_text("utf-8")
    environment.globals["style"] = Markup(style)  # noqa: S704
    return environment.from_string(folder.joinpath(name).read_text("utf-8"))


# What no page may hold, or what would turn the letters around it.
_NO_CHARACTERS = "".join(
    chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)
)
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef"
    f"{_NO_CHARACTERS}]"
)


def _visible(value: Any) -> Any:
    """A text without characters that no page may hold, or that turn others around."""
    if type(value) is not str:  # numbers, and what is markup already
        return value
    return _UNSEEN.sub(_name_of, well_formed(value).replace("\r", "\n"))


def _name_of(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"
