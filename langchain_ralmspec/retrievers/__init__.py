"""A drop-in retriever whose batches are one store call, and its sessions."""

from langchain_ralmspec.retrievers.adoption import adopt, documents_wanted
from langchain_ralmspec.retrievers.retriever import RaLMSpecRetriever
from langchain_ralmspec.retrievers.session import MOST_HITS, RetrieverSession

__all__ = [
    "MOST_HITS",
    "RaLMSpecRetriever",
    "RetrieverSession",
    "adopt",
    "documents_wanted",
]
