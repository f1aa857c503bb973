"""What a replica refuses before its model is loaded: Ray is not started."""

from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import ChatRaLMSpec, ChatRapid
from langchain_ralmspec.base.local import LocalGeneration
from langchain_ralmspec.errors import InvalidValueError, SetupError
from langchain_ralmspec.serve import app
from langchain_ralmspec.serve.replica import Replica


class LoadedError(Exception):
    """Stands for a model that is loaded, which comes last."""


@pytest.fixture(autouse=True)
def _load_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def warm_up(_: Any) -> None:
        raise LoadedError

    monkeypatch.setattr(LocalGeneration, "warm_up", warm_up)


def rapid() -> ChatRapid:
    return ChatRapid(model_path="m.gguf")


def chat() -> ChatRaLMSpec:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    return ChatRaLMSpec(model_path="m.gguf", retriever=store)


def replica(made: Any, tenant_filter: Any) -> Replica:
    """A replica as an application makes it."""
    gateway: Any = app(made, tenant_filter=tenant_filter)
    bound = gateway._bound_deployment.init_args[0]._bound_deployment
    return Replica(*bound.init_args, **bound.init_kwargs)


@pytest.mark.parametrize("tenant_filter", ["app:tenant", lambda headers: {"a": 1}])
def test_tenants_without_a_retriever_to_filter_are_refused(tenant_filter: Any) -> None:
    said = r"tenant_filter.* ChatRapid has none; serve a ChatRaLMSpec"
    with pytest.raises(SetupError, match=said):
        replica(rapid, tenant_filter)
    for made, own in ((rapid, None), (chat, tenant_filter)):
        with pytest.raises(LoadedError):
            replica(made, own)


def test_what_is_no_chat_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="is a dict; give a ChatRaLMSpec"):
        replica(dict, None)
