"""A drop-in retriever whose batches are one store call, and its sessions."""

from langchain_ralmspec.retrievers.retriever import MOST_HITS, RaLMSpecRetriever
from langchain_ralmspec.retrievers.session import RetrieverSession

__all__ = ["MOST_HITS", "RaLMSpecRetriever", "RetrieverSession"]
