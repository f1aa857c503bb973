import copy
import pickle
import threading
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    InvalidValueError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    RapidChain,
)

EMBEDDINGS = DeterministicFakeEmbedding(size=8)
MODEL: dict[str, Any] = {"model_path": "model.gguf", "max_tokens": 7}


def faces() -> list[Any]:
    store = InMemoryVectorStore.from_texts(["one text", "another"], EMBEDDINGS)
    retriever = RaLMSpecRetriever(vectorstore=store, k=1)
    return [
        retriever,
        RaLMSpecLLM(**MODEL, retriever=retriever),
        ChatRaLMSpec(**MODEL, retriever=store),
        RapidChain(**MODEL, embeddings=EMBEDDINGS),
        ChatRapid(**MODEL, context="A long text."),
    ]


@pytest.mark.parametrize("face", faces(), ids=lambda face: type(face).__name__)
def test_a_pickle_holds_the_arguments(face: Any) -> None:
    other = pickle.loads(pickle.dumps(face))  # noqa: S301  our own
    assert type(other) is type(face)
    assert other.model_fields_set == face.model_fields_set
    for name in face.model_fields_set & {"model_path", "max_tokens", "context", "k"}:
        assert getattr(other, name) == getattr(face, name)


def test_a_pickled_retriever_finds_what_it_found() -> None:
    retriever = faces()[0]
    other = pickle.loads(pickle.dumps(retriever))  # noqa: S301  our own
    assert other.invoke("one text") == retriever.invoke("one text")
    assert other.key != retriever.key, "the stores may part ways"


class Locked(InMemoryVectorStore):
    def __init__(self) -> None:
        super().__init__(EMBEDDINGS)
        self.lock = threading.Lock()


def test_what_cannot_be_pickled_is_named() -> None:
    chat = ChatRaLMSpec(**MODEL, retriever=Locked())
    with pytest.raises(
        InvalidValueError, match=r"RaLMSpecRetriever .*vectorstore.*'Locked'.*lock"
    ):
        pickle.dumps(chat)


@pytest.mark.parametrize("face", faces(), ids=lambda face: type(face).__name__)
def test_a_face_is_not_copied_deeply(face: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"model_copy\(\)"):
        copy.deepcopy(face)
    with pytest.raises(InvalidValueError, match=r"model_copy\(\)"):
        face.model_copy(deep=True)
