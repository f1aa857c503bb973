"""RAPID: a drafter on retrieved context, a target on all of it."""

from langchain_ralmspec.rapid.documents import (
    Chunk,
    ContextIndex,
    budget,
    chunk,
    context_text,
    join,
    to_documents,
)
from langchain_ralmspec.rapid.draft import Draft, Drafter
from langchain_ralmspec.rapid.lookup import PromptLookupDrafter
from langchain_ralmspec.rapid.loop import LongRequest, generate
from langchain_ralmspec.rapid.model_drafters import (
    RagDrafter,
    TextDrafter,
    require_same_vocabulary,
)
from langchain_ralmspec.rapid.prompt import Conversation
from langchain_ralmspec.rapid.statistics import DraftStats

__all__ = [
    "Chunk",
    "ContextIndex",
    "Conversation",
    "Draft",
    "DraftStats",
    "Drafter",
    "LongRequest",
    "PromptLookupDrafter",
    "RagDrafter",
    "TextDrafter",
    "budget",
    "chunk",
    "context_text",
    "generate",
    "join",
    "require_same_vocabulary",
    "to_documents",
]
