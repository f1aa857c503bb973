"""RaLMSpec: generation that retrieves as it goes, sequential and speculative."""

from langchain_ralmspec.ralm.events import Asked, Event, Found, RolledBack, Verified
from langchain_ralmspec.ralm.loop import sequential, speculative
from langchain_ralmspec.ralm.once import once
from langchain_ralmspec.ralm.policies import (
    FixedStride,
    Flare,
    IterRetGen,
    RetrievalPolicy,
)
from langchain_ralmspec.ralm.prompt import (
    BLOCK,
    DocumentLayout,
    InlineLayout,
    Prompt,
    QueryText,
    require_room,
)
from langchain_ralmspec.ralm.request import Request
from langchain_ralmspec.ralm.session import Session
from langchain_ralmspec.ralm.writer import Branch, Writer

__all__ = [
    "BLOCK",
    "Asked",
    "Branch",
    "DocumentLayout",
    "Event",
    "FixedStride",
    "Flare",
    "Found",
    "InlineLayout",
    "IterRetGen",
    "Prompt",
    "QueryText",
    "Request",
    "RetrievalPolicy",
    "RolledBack",
    "Session",
    "Verified",
    "Writer",
    "once",
    "require_room",
    "sequential",
    "speculative",
]
