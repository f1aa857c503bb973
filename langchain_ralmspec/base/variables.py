"""Variables of a model's own chat template, such as ``enable_thinking``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from langchain_ralmspec.engine.templates import NO_VARIABLES, RESERVED
from langchain_ralmspec.errors import InvalidValueError

VARIABLES = "chat_template_kwargs"
"""What they are given as, as to vLLM and to llama.cpp's server."""

_INSTEAD = {
    "messages": "they are what the model is asked",
    "tools": "bind them: bind_tools([…])",
    "documents": "they are looked up, and stand in the prompt as text",
    "add_generation_prompt": "a last message of the assistant's is continued",
}


def variables_of(given: Any) -> Mapping[str, Any]:
    """Variables for a chat template, checked, and as JSON has them.

    Raises:
        InvalidValueError: it is no dict of plain values, or names one that is set here.
    """
    if given is None:
        return NO_VARIABLES
    if not isinstance(given, Mapping) or not all(isinstance(k, str) for k in given):
        msg = (
            f"{VARIABLES} is {given!r:.80}; give a dict of names and values, such as "
            "{'enable_thinking': False}"
        )
        raise InvalidValueError(msg)
    for name in RESERVED:
        if name in given:
            why = _INSTEAD.get(name, "it is the model's own")
            msg = f"{VARIABLES} cannot set {name!r}, got {given[name]!r:.60}: {why}"
            raise InvalidValueError(msg)
    made = {}
    for name, value in given.items():
        try:
            made[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError, RecursionError) as error:
            msg = (
                f"{VARIABLES}[{name!r}] is {value!r:.60}: {error}; give text, numbers, "
                "truth values, None, or lists and dicts of these"
            )
            raise InvalidValueError(msg) from error
    return made
