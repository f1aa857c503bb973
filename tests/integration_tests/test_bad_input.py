"""A failure is an answer: typed, quoting the value, and the next call works."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    ChatTemplateError,
    ContextOverflowError,
    DimensionMismatchError,
    EmptyStoreError,
    FaissStore,
    InvalidValueError,
    ModelFileError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.engine import Model, selftest
from langchain_ralmspec.stores import Hit, Query
from tests.integration_tests.conftest import QUESTIONS, Corpus

PROMPT = QUESTIONS[0]


class FailingStore(FaissStore):
    """A real FAISS store that dies at a chosen call, and stays dead."""

    fails_at = 10**9
    n_calls = 0

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        self.n_calls += 1
        if self.n_calls >= self.fails_at:
            msg = "the disk is on fire"
            raise StoreError(msg)
        return super().search(queries, k, with_vectors=with_vectors)


@pytest.fixture
def store(corpus: Corpus) -> FailingStore:
    index = faiss.IndexFlatIP(corpus.vectors.shape[1])
    index.add(corpus.vectors)
    return FailingStore(index, corpus.documents, corpus.embeddings)


@pytest.fixture
def make(gguf: str, model: Model, store: FailingStore) -> Any:
    def make(kind: Any = RaLMSpecLLM, **settings: Any) -> Any:
        given = {"model_path": gguf, "retriever": store, "max_tokens": 24} | settings
        return kind(**given)

    return make


def test_missing_model_file(make: Any, gguf: str) -> None:
    with pytest.raises(ModelFileError, match=r"/no/such/model\.gguf"):
        make(model_path="/no/such/model.gguf")
    llm = make()
    llm.model_path = "/no/such/model.gguf"
    with pytest.raises(ModelFileError, match=r"/no/such/model\.gguf"):
        llm.invoke(PROMPT)
    llm.model_path = gguf
    assert llm.invoke(PROMPT)


def test_corrupt_model_file(make: Any, tmp_path: Any) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        make(model_path=str(file)).invoke(PROMPT)


def test_no_chat_template(make: Any, templateless_gguf: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"templateless.*no chat template"):
        make(ChatRaLMSpec, model_path=templateless_gguf).invoke(PROMPT)
    assert make(model_path=templateless_gguf).invoke(PROMPT)


@pytest.mark.parametrize("kind", [RaLMSpecLLM, ChatRaLMSpec])
def test_prompt_longer_than_the_context(
    make: Any, kind: Any, store: FailingStore
) -> None:
    model = make(kind, n_ctx=512)
    with pytest.raises(ContextOverflowError, match=r"n_ctx=512"):
        model.invoke("word " * 600)
    with pytest.raises(ContextOverflowError, match=r"max_tokens=500"):
        model.invoke(PROMPT, max_tokens=500)
    assert store.n_calls == 0, "nothing was done before the refusal"
    assert model.invoke(PROMPT)


def test_empty_prompt(make: Any) -> None:
    llm = make()
    for blank in ("", "\n"):
        with pytest.raises(InvalidValueError, match="prompt is empty"):
            llm.invoke(blank)
    for wrong in (3, None, [PROMPT]):
        with pytest.raises(InvalidValueError, match="must be a string, got"):
            llm.start(wrong)
    assert llm.invoke(PROMPT)


@pytest.mark.parametrize("blank", ["", " \n"])
def test_an_empty_message(make: Any, gguf: str, blank: str) -> None:
    for chat in (make(ChatRaLMSpec), ChatRapid(model_path=gguf, context="A text.")):
        for asked in (blank, [("user", "What?"), ("ai", "That."), ("user", blank)]):
            with pytest.raises(InvalidValueError, match="last message is empty"):
                chat.invoke(asked)


def test_a_conversation_without_a_question(make: Any) -> None:
    chat = make(ChatRaLMSpec)
    with pytest.raises(InvalidValueError, match="'system'"):
        chat.invoke([("system", "Be brief.")])
    assert chat.invoke(PROMPT).text


def test_empty_store(make: Any, corpus: Corpus) -> None:
    empty = InMemoryVectorStore(corpus.embeddings)
    with pytest.raises(EmptyStoreError, match="How do I run"):
        make(retriever=empty, on_empty="error").invoke(PROMPT)
    llm = make(retriever=empty)
    assert llm.invoke(PROMPT), "written without documents"
    assert llm.retriever.invoke(PROMPT) == []
    empty.add_documents(corpus.documents[:5])
    assert llm.invoke(PROMPT)


def test_store_and_embeddings_of_different_dimensions(
    make: Any, corpus: Corpus
) -> None:
    index = faiss.IndexFlatIP(8)
    index.add(corpus.vectors[:5, :8].copy())
    store = FaissStore(index, corpus.documents[:5], corpus.embeddings)
    with pytest.raises(DimensionMismatchError, match=r"(384.*8|8.*384)"):
        make(retriever=store).invoke(PROMPT)


@pytest.mark.parametrize("k", [0, -3])
def test_k_under_one(store: FailingStore, k: int) -> None:
    with pytest.raises(ValidationError, match=f"input_value={k}"):
        RaLMSpecRetriever(vectorstore=store, k=k)
    retriever = RaLMSpecRetriever(vectorstore=store)
    with pytest.raises(InvalidValueError, match=f"got {k}"):
        retriever.invoke(PROMPT, k=k)
    with pytest.raises(InvalidValueError, match=f"got {k}"):
        retriever.batch([PROMPT], k=k)
    with pytest.raises(InvalidValueError, match=f"got {k}"):
        retriever.session(k=k)
    assert len(retriever.invoke(PROMPT)) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retrieval_stride", 0),
        ("speculation_stride", 0),
        ("prefetch_k", 0),
        ("query_window", 0),
        ("documents_per_step", 0),
        ("max_tokens", 0),
        ("temperature", -1),
        ("top_p", 0),
        ("guess_policy", "oracle"),
    ],
)
def test_numbers_out_of_range(make: Any, name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"{name}[^@]*input_value={value!r}"):
        make(**{name: value})


@pytest.mark.parametrize("kind", [RaLMSpecLLM, ChatRaLMSpec])
def test_unknown_constructor_argument(make: Any, kind: Any) -> None:
    with pytest.raises(UnknownArgumentError, match=r"'max_token'.*'max_tokens'"):
        make(kind, max_token=3)


def test_unknown_retriever_argument(store: FailingStore) -> None:
    with pytest.raises(UnknownArgumentError, match=r"'vector_store'.*'vectorstore'"):
        RaLMSpecRetriever(vector_store=store)  # type: ignore[call-arg]


def test_unknown_call_argument(make: Any) -> None:
    llm = make()
    with pytest.raises(UnknownArgumentError, match=r"'temprature'.*'temperature'"):
        llm.invoke(PROMPT, temprature=1)
    with pytest.raises(UnknownArgumentError, match=r"'filters'.*'filter'"):
        llm.invoke(PROMPT, filters={})
    with pytest.raises(UnknownArgumentError, match=r"Per call: filter.*search_kwargs"):
        llm.invoke(PROMPT, n_ctx=64)
    with pytest.raises(InvalidValueError, match="search_kwargs must be a dict"):
        llm.invoke(PROMPT, search_kwargs=3)
    with pytest.raises(ValidationError, match="input_value=-2"):
        llm.invoke(PROMPT, temperature=-2)
    assert llm.invoke(PROMPT)


def test_something_that_is_no_store(make: Any) -> None:
    with pytest.raises(ValidationError, match="dict"):
        make(retriever={"not": "a store"})


@pytest.mark.parametrize(
    "settings",
    [
        {"speculation": False},
        # Every guess is verified: no look-up is proven, nothing is timed.
        {"speculation_stride": 1, "guess_policy": "same", "asynchronous": False},
        {"speculation_stride": 1, "guess_policy": "same", "asynchronous": True},
    ],
    ids=["sequential", "speculative", "asynchronous"],
)
@pytest.mark.parametrize("kind", [RaLMSpecLLM, ChatRaLMSpec])
def test_a_store_that_dies_during_verification(
    make: Any, store: FailingStore, kind: Any, settings: dict[str, Any]
) -> None:
    model = make(kind, **settings)
    expected = model.invoke(PROMPT)
    store.n_calls, store.fails_at = 0, 3
    with pytest.raises(StoreError, match="on fire"):
        model.invoke(PROMPT)
    store.n_calls = 0
    stream = map(text_of, model.stream(PROMPT))
    shown = next(stream, "")
    with pytest.raises(StoreError, match="on fire"):
        list(stream)
    assert text_of(expected).startswith(shown)
    store.fails_at = 10**9
    assert text_of(model.invoke(PROMPT)) == text_of(expected)


def text_of(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer.text)


@pytest.mark.parametrize("close", [True, False])
def test_a_stream_abandoned_half_way(make: Any, close: bool) -> None:
    llm = make()
    expected = llm.invoke(PROMPT)
    abandoned = []
    for _ in range(6):  # more than the context has slots
        stream = llm.stream(PROMPT)
        next(stream)
        if close:
            stream.close()
        abandoned.append(stream)
    assert llm.invoke(PROMPT) == expected
    if not close:  # and whoever comes back to it finds it as it was
        head = next(llm.stream(PROMPT))
        assert head + "".join(abandoned[0]) == expected


def test_threads_on_one_model(make: Any) -> None:
    llm = make()
    expected = [llm.invoke(question) for question in QUESTIONS[:4]]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(llm.invoke, QUESTIONS[:4])) == expected


def test_decoding_that_does_not_repeat_runs_sequentially(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make()
    expected = llm.invoke(PROMPT)
    monkeypatch.setattr(selftest, "is_repeatable", lambda _: False)
    fresh = make()
    with pytest.warns(RuntimeWarning, match="running sequentially"):
        result = fresh.generate([PROMPT])
    assert result.generations[0][0].text == expected
    assert result.generations[0][0].generation_info["speculation"]["guesses"] == 0
