"""RAPID: a drafter on retrieved context, a target on all of it."""

from langchain_ralmspec.rapid.documents import Chunk, to_documents
from langchain_ralmspec.rapid.draft import Draft, Drafter
from langchain_ralmspec.rapid.lookup import PromptLookupDrafter
from langchain_ralmspec.rapid.loop import LongRequest, generate
from langchain_ralmspec.rapid.prompt import Conversation
from langchain_ralmspec.rapid.statistics import DraftStats

__all__ = [
    "Chunk",
    "Conversation",
    "Draft",
    "DraftStats",
    "Drafter",
    "LongRequest",
    "PromptLookupDrafter",
    "generate",
    "to_documents",
]
