"""Grammars of JSON schemas, by llama-cpp-python's converter."""

from __future__ import annotations

import json
import re
import reprlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.engine.binding import schema_converter
from langchain_ralmspec.engine.grammar_limits import require_bounded
from langchain_ralmspec.engine.schemas import Reader
from langchain_ralmspec.errors import GrammarError
from langchain_ralmspec.text import well_formed

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANY_LETTER = r'char ::= [^"\\]'  # in a string, by llama-cpp-python's converter
_REPETITIONS = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_MOST_REPETITIONS = 10_000
"""More than a context holds tokens, mostly; each takes a few bytes of the grammar."""


def gbnf_of(schema: Mapping[str, Any]) -> str:
    """The grammar of a JSON schema, by llama-cpp-python's converter.

    Raises:
        GrammarError: it cannot convert the schema, or the grammar takes too much.
    """
    converter = schema_converter(_literal)
    try:
        plain = json.loads(json.dumps(schema))
        _require_moderate(plain)
        reader = Reader(plain)
        said = reader.plain(plain, plain)
        converter._refs = reader.parts  # noqa: SLF001  its own search takes all for refs
        converter.visit(said, "")
        converted: str = converter.format_grammar()
    except Exception as error:  # whatever it stumbles over
        shown = reprlib.repr(schema)
        msg = (
            f"llama-cpp-python cannot make a grammar of the JSON schema {shown}: "
            f"{type(error).__name__}: {error}; simplify the schema, or give a grammar"
        )
        raise GrammarError(msg) from error
    # As llama.cpp's own converter has it: no JSON string holds a line break as such.
    converted = converted.replace(_ANY_LETTER, _ANY_LETTER[:-1] + "\\x7F\\x00-\\x1F]")
    require_bounded(converted)
    return converted


def _require_moderate(schema: Any) -> None:
    """Refuse numbers of repetitions that the converter would write out one by one.

    Raises:
        ValueError: one is over ``_MOST_REPETITIONS``.
    """
    parts: list[Any] = [schema]
    for part in parts:
        named = part.items() if isinstance(part, dict) else ()
        parts += part if isinstance(part, list) else (value for _, value in named)
        for name, value in named:
            numbers = [value] if name in _REPETITIONS else []
            if name == "pattern" and isinstance(value, str):
                numbers = list(map(int, re.findall(r"(?<=[{,])\d+", value)))
            if any(
                isinstance(n, int | float) and n > _MOST_REPETITIONS for n in numbers
            ):
                raise ValueError(f"{name} is more than {_MOST_REPETITIONS}")


def _literal(said: str) -> str:
    """The literal of GBNF that is a JSON value, with its characters as they are.

    The converter's own would be the halves of what is beyond 16 bits, and what
    backslashes stand for.
    """
    with suppress(ValueError):  # some letter, and no JSON
        said = json.dumps(json.loads(said), ensure_ascii=False)
    escaped = re.sub(r'["\\]', r"\\\g<0>", well_formed(said))
    return '"' + escaped.replace("\n", r"\n").replace("\r", r"\r") + '"'
