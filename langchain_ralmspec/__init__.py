"""Speculative retrieval inside generation for LangChain, on local models."""

from importlib.metadata import version

from langchain_ralmspec.chat_model import ChatRaLMSpec
from langchain_ralmspec.errors import (
    ChatTemplateError,
    ContextOverflowError,
    DecodeError,
    DimensionMismatchError,
    EmptyStoreError,
    InvalidValueError,
    MissingExtraError,
    ModelFileError,
    RaLMSpecError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.llm import RaLMSpecLLM
from langchain_ralmspec.retriever import RaLMSpecRetriever
from langchain_ralmspec.retriever_session import RetrieverSession
from langchain_ralmspec.speculation import SpeculationStats
from langchain_ralmspec.stores import (
    BM25Store,
    FaissStore,
    SentenceTransformerEmbeddings,
)

__version__ = version("langchain-ralmspec")

__all__ = [
    "BM25Store",
    "ChatRaLMSpec",
    "ChatTemplateError",
    "ContextOverflowError",
    "DecodeError",
    "DimensionMismatchError",
    "EmptyStoreError",
    "FaissStore",
    "InvalidValueError",
    "MissingExtraError",
    "ModelFileError",
    "RaLMSpecError",
    "RaLMSpecLLM",
    "RaLMSpecRetriever",
    "RetrieverSession",
    "SentenceTransformerEmbeddings",
    "SpeculationStats",
    "StoreError",
    "UnknownArgumentError",
    "__version__",
]
