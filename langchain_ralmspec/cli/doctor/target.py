"""What the doctor looks at: an object of the user's app, named as uvicorn does it."""

from __future__ import annotations

from langchain_ralmspec.chat_models import ChatRaLMSpec
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.llms import RaLMSpecLLM
from langchain_ralmspec.serve.loading import named

Target = ChatRaLMSpec | RaLMSpecLLM


def load_target(name: str) -> Target:
    """Import what ``module:attribute`` names, with the current directory in the path.

    All but a ``ChatRaLMSpec`` or ``RaLMSpecLLM`` is an ``InvalidValueError``.
    """
    found = named(name)
    if not isinstance(found, Target):
        raise InvalidValueError(
            f"{name!r} is a {type(found).__name__}; name the ChatRaLMSpec or "
            "RaLMSpecLLM itself, not what it is part of or what makes it"
        )
    return found
