"""RAPID: a drafter on retrieved context, a target on all of it."""

from langchain_ralmspec.rapid.documents import Chunk
from langchain_ralmspec.rapid.draft import Draft, Drafter
from langchain_ralmspec.rapid.lookup import PromptLookupDrafter
from langchain_ralmspec.rapid.loop import LongRequest, generate
from langchain_ralmspec.rapid.prompt import Conversation
from langchain_ralmspec.rapid.sources import GivenContext, Sources
from langchain_ralmspec.rapid.statistics import DraftStats

__all__ = [
    "Chunk",
    "Conversation",
    "Draft",
    "DraftStats",
    "Drafter",
    "GivenContext",
    "LongRequest",
    "PromptLookupDrafter",
    "Sources",
    "generate",
]
