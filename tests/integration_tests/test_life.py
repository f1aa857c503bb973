"""What a face holds, from warming up to closing, over a real model."""

import gc
import weakref
from typing import Any

import pytest

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    KNNDatastore,
    KNNLMSpecLLM,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    RapidChain,
    SentenceTransformerEmbeddings,
)
from langchain_ralmspec.engine import Model
from tests.integration_tests.conftest import QUESTIONS, Corpus

TEXT = "A list is sorted by its method sort, in place. " * 9
OWN_N_CTX = 640  # a model that no other test holds


@pytest.fixture(scope="module")
def datastore(gguf: str, tmp_path_factory: pytest.TempPathFactory) -> KNNDatastore:
    folder = tmp_path_factory.mktemp("knn") / "store"
    return KNNDatastore.build([TEXT], model_path=gguf, path=folder)


@pytest.fixture(
    params=[RaLMSpecLLM, ChatRaLMSpec, RapidChain, ChatRapid, KNNLMSpecLLM],
    ids=lambda kind: kind.__name__,
)
def make(request: Any, gguf: str, corpus: Corpus, datastore: KNNDatastore) -> Any:
    retriever = RaLMSpecRetriever.from_documents(corpus.documents[:9], kind="bm25")
    own: dict[Any, dict[str, Any]] = {
        RapidChain: {},
        ChatRapid: {"context": TEXT},
        KNNLMSpecLLM: {"datastore": datastore, "k": 2},
    }
    kind = request.param
    given = own.get(kind, {"retriever": retriever})
    return lambda: kind(model_path=gguf, n_ctx=OWN_N_CTX, max_tokens=4, **given)


def ask(face: Any) -> Any:
    if isinstance(face, RapidChain):
        return face.invoke({"question": QUESTIONS[0], "context": TEXT})["answer"]
    answer = face.invoke(QUESTIONS[0])
    return answer if isinstance(answer, str) else answer.text


def test_a_closed_face_lets_go_and_answers_again(make: Any) -> None:
    gc.collect()
    gc.disable()  # what only a cycle holds would stay as well
    try:
        with make() as face:
            answer = ask(face)
            held = weakref.ref(face.engine._slots._context)  # and its memory
        assert held() is None, "nobody else had it"
    finally:
        gc.enable()
    face.close()
    assert ask(face) == answer
    other = make()
    assert other.engine is face.engine
    face.close()
    assert ask(other) == answer, "what is shared stays"
    other.close()


def test_what_is_warm_loads_nothing_more(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make() as face:
        face.warm_up()

        def load(*_: Any, **__: Any) -> None:
            raise AssertionError

        monkeypatch.setattr(Model, "load", load)
        assert ask(face)
        if isinstance(face, ChatRapid):
            told = face.invoke(QUESTIONS[1]).usage_metadata
            assert told is not None
            assert told["input_token_details"]["cache_read"] > 80


def test_the_encoder_is_loaded_too(gguf: str, corpus: Corpus) -> None:
    encoder = SentenceTransformerEmbeddings(corpus.embeddings.model_path)
    with RapidChain(model_path=gguf, n_ctx=OWN_N_CTX, embeddings=encoder) as chain:
        assert encoder._model is None
        chain.warm_up()
        assert encoder._model is not None
