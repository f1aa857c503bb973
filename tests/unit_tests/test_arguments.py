import copy
import gc
import pickle
import threading
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import (
    BM25Store,
    ChatRaLMSpec,
    ChatRapid,
    FaissStore,
    InvalidValueError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    RapidChain,
    SentenceTransformerEmbeddings,
)
from langchain_ralmspec.engine import Model
from langchain_ralmspec.stores import Query
from tests.unit_tests.knnlm.fakes import FakeReader

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


def test_the_own_parts_of_a_chat_pickle_as_their_arguments(tmp_path: Path) -> None:
    minilm = SentenceTransformerEmbeddings(tmp_path, batch_size=3, normalize=False)
    documents = [Document("a heap"), Document("a tree", id="b")]
    index = faiss.IndexFlatIP(8)
    index.add(np.eye(2, 8, dtype=np.float32))
    queries = [Query("heap", np.eye(1, 8, dtype=np.float32)[0])]
    for store in (
        BM25Store.from_documents(documents),
        FaissStore(index, documents, EMBEDDINGS, ids=["1", "2"], normalize=True),
    ):
        other = pickle.loads(pickle.dumps(store))  # noqa: S301  our own
        assert other.search(queries, 2) == store.search(queries, 2)
    assert other.encode(["a"])[0].vector @ other.encode(["a"])[0].vector == (
        pytest.approx(1)
    )
    # README's chat: a store of LangChain's with embeddings of ours.
    chat = ChatRaLMSpec(**MODEL, retriever=InMemoryVectorStore(minilm))
    chat = pickle.loads(pickle.dumps(chat))  # noqa: S301  our own
    again = vars(chat.retriever.vectorstore.embeddings)
    names = ("model_path", "batch_size", "normalize", "n_threads", "device")
    assert {name: again[name] for name in names} == {
        name: vars(minilm)[name] for name in names
    }


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
    store = InMemoryVectorStore(EMBEDDINGS)
    retriever = RaLMSpecRetriever(vectorstore=store, filter=lambda _: True)
    with pytest.raises(InvalidValueError, match=r"for its filter, .*lambda"):
        pickle.dumps(retriever)


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_session_can_neither_be_copied_nor_pickled(act: Any) -> None:
    session = faces()[0].session()
    with pytest.raises(InvalidValueError, match=r"a RetrieverSession can .*session\("):
        act(session)


@pytest.mark.parametrize("face", faces(), ids=lambda face: type(face).__name__)
def test_a_face_is_not_copied_deeply(face: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"model_copy\(\)"):
        copy.deepcopy(face)
    with pytest.raises(InvalidValueError, match=r"model_copy\(\)"):
        face.model_copy(deep=True)


@pytest.mark.parametrize("face", faces(), ids=lambda face: type(face).__name__)
def test_a_shallow_copy_is_an_object_of_its_own(face: Any) -> None:
    other, model_copy = copy.copy(face), face.model_copy()
    assert type(other) is type(face)
    assert (
        other.model_fields_set == face.model_fields_set == model_copy.model_fields_set
    )
    for name in face.model_fields_set:
        assert getattr(other, name) == getattr(face, name)
    shared = {
        name: value
        for name, value in (other.__pydantic_private__ or {}).items()
        if value is (face.__pydantic_private__ or {})[name]
    }
    assert not [name for name, value in shared.items() if value not in (None, False)]


@pytest.mark.parametrize("kind", [RapidChain, ChatRapid])
def test_a_copy_of_what_is_gone_loads_its_own_drafters(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "_load_drafter", lambda _, *given: given)
    monkeypatch.setattr(Model, "load", lambda **_: FakeReader())
    face = kind(**MODEL, embeddings=EMBEDDINGS, drafter="self")
    assert face.engine
    other = copy.copy(face)
    del face
    gc.collect()
    assert other.engine
    assert other._drafters.load("model.gguf", 8) == ("model.gguf", 8)


def test_arguments_are_the_objects_own() -> None:
    stop, context, metadata = ["end"], ["One text."], {"tenants": ["red"]}
    given: dict[str, Any] = {"stop": stop, "context": context, "metadata": metadata}
    chat = ChatRapid(**MODEL, **given)
    before = chat._identifying_params
    stop.append("fin")
    context[0] = "Another."
    metadata["tenants"].append("blue")
    assert (chat.stop, chat.context) == (["end"], ["One text."])
    assert chat.metadata == {"tenants": ["red"]}
    assert chat._identifying_params == before
    circle: dict[str, Any] = {}
    circle["in"] = circle
    with pytest.raises(ValidationError, match="holds itself"):
        ChatRapid(**MODEL, metadata=circle)


def test_what_another_pickler_can_take_is_left_to_it() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    retriever = RaLMSpecRetriever(vectorstore=RunnableLambda(lambda q: [Document(q)]))
    again = pickle.loads(cloudpickle.dumps(retriever))  # noqa: S301
    assert [found.page_content for found in again.invoke("heap")] == ["heap"]
    locked = RaLMSpecRetriever(vectorstore=RunnableLambda(threading.Lock().acquire))
    with pytest.raises(InvalidValueError, match="for its vectorstore"):
        cloudpickle.dumps(locked)
