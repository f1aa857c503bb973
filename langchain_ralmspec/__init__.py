"""Speculative retrieval inside generation for LangChain, on local models."""

from importlib.metadata import version

from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.base.plain import documents_of
from langchain_ralmspec.chains import RapidChain
from langchain_ralmspec.chat_models import ChatRaLMSpec, ChatRapid
from langchain_ralmspec.errors import (
    ChatTemplateError,
    ContextOverflowError,
    DatastoreError,
    DecodeError,
    DimensionMismatchError,
    EmptyStoreError,
    GrammarError,
    InvalidValueError,
    MissingExtraError,
    ModelFileError,
    QueueFullError,
    RaLMSpecError,
    SetupError,
    StoreError,
    StoreTimeoutError,
    UnknownArgumentError,
)
from langchain_ralmspec.knnlm import KNNDatastore
from langchain_ralmspec.llms import KNNLMSpecLLM, RaLMSpecLLM
from langchain_ralmspec.rapid import Draft, Drafter, DraftStats
from langchain_ralmspec.retrievers import RaLMSpecRetriever, RetrieverSession
from langchain_ralmspec.stores import (
    BM25Store,
    FaissStore,
    SentenceTransformerEmbeddings,
)

__version__ = version("langchain-ralmspec")

__all__ = [
    "BM25Store",
    "ChatRaLMSpec",
    "ChatRapid",
    "ChatTemplateError",
    "ContextOverflowError",
    "DatastoreError",
    "DecodeError",
    "DimensionMismatchError",
    "Draft",
    "DraftStats",
    "Drafter",
    "EmptyStoreError",
    "FaissStore",
    "GrammarError",
    "InvalidValueError",
    "KNNDatastore",
    "KNNLMSpecLLM",
    "MissingExtraError",
    "ModelFileError",
    "QueueFullError",
    "RaLMSpecError",
    "RaLMSpecLLM",
    "RaLMSpecRetriever",
    "RapidChain",
    "RetrieverSession",
    "SentenceTransformerEmbeddings",
    "SetupError",
    "SpeculationStats",
    "StoreError",
    "StoreTimeoutError",
    "UnknownArgumentError",
    "__version__",
    "documents_of",
]
