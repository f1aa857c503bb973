"""LangChain's own standard tests, as far as they need no model."""

from abc import ABC
from typing import Any

from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_ralmspec import ChatRaLMSpec, ChatRapid


class _Standard(ChatModelUnitTests, ABC):
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # The others are of services: a key, a timeout, retries.
        offered = {"temperature", "max_tokens", "stop"}
        params = super().standard_chat_model_params
        return {name: params[name] for name in offered}


class TestChatRaLMSpec(_Standard):
    @property
    def chat_model_class(self) -> type[ChatRaLMSpec]:
        return ChatRaLMSpec

    @property
    def chat_model_params(self) -> dict[str, Any]:
        store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
        return {"model_path": "model.gguf", "retriever": store}


class TestChatRapid(_Standard):
    @property
    def chat_model_class(self) -> type[ChatRapid]:
        return ChatRapid

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model_path": "model.gguf", "context": "A long text."}


del _Standard  # or pytest would collect it on its own
