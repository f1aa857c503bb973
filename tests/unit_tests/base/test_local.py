from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    DatastoreError,
    InvalidValueError,
    KNNDatastore,
    KNNLMSpecLLM,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    RapidChain,
)
from langchain_ralmspec.engine import Model
from langchain_ralmspec.knnlm import datastore
from tests.unit_tests.knnlm.fakes import FakeReader

STORE = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
FACES: list[tuple[Any, dict[str, Any]]] = [
    (RaLMSpecLLM, {"retriever": STORE}),
    (ChatRaLMSpec, {"retriever": STORE}),
    (RapidChain, {}),
    (ChatRapid, {"context": "A long text."}),
]
CHANGES: list[tuple[str, Any]] = [
    ("model_path", "other.gguf"),
    ("n_ctx", 99),
    ("n_batch", 99),
    ("n_threads", 3),
    ("n_gpu_layers", 1),
    ("max_queue", 0),
    ("kv_cache_bytes", 0),
    ("kv_cache_dir", "folder"),
]
CHANGES_OF_RAPID: list[tuple[str, Any]] = [("exact_batches", True)]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of every model that is loaded."""
    given: list[dict[str, Any]] = []

    def load(**settings: Any) -> FakeReader:
        given.append(settings)
        return FakeReader()

    monkeypatch.setattr(Model, "load", load)
    return given


@pytest.mark.parametrize(("kind", "own"), FACES)
def test_a_model_is_loaded_once_for_its_settings(
    kind: Any, own: dict[str, Any], loads: list[dict[str, Any]]
) -> None:
    face = kind(model_path="model.gguf", **own)
    assert not loads, "loading is lazy"
    changes = CHANGES + (CHANGES_OF_RAPID if "Rapid" in kind.__name__ else [])
    for n_loaded, (name, value) in enumerate([("max_tokens", 5), *changes], 1):
        setattr(face, name, value)
        model = face.engine
        assert face.engine is model
        assert face.get_token_ids("ab") == [*b"ab"]
        assert len(loads) == n_loaded
    settings = loads[-1]
    assert settings["path"] == "other.gguf"
    for name, value in changes[1:]:
        assert settings[name] == value


@pytest.mark.parametrize(
    ("kind", "own"), [each for each in FACES if each[0] is not RapidChain]
)
def test_tokens_are_counted_as_their_user_counts_them(
    kind: Any, own: dict[str, Any], loads: list[dict[str, Any]]
) -> None:
    face = kind(model_path="m.gguf", custom_get_token_ids=lambda t: [len(t)] * 7, **own)
    assert face.get_token_ids("ab") == [2] * 7
    assert face.get_num_tokens("ab") == 7
    assert face.get_num_tokens_from_messages([HumanMessage("?")] * 3) == 3 * 7
    assert not loads, "nobody else's tokens are asked for"
    with pytest.raises(InvalidValueError, match="must be a string"):
        face.get_token_ids(None)


@pytest.mark.parametrize(("kind", "own"), FACES)
def test_a_path_means_what_it_meant_when_the_object_was_made(
    kind: Any,
    own: dict[str, Any],
    loads: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").symlink_to(tmp_path / "checksum")
    is_rapid = "Rapid" in kind.__name__
    if is_rapid:
        drafters = ["model.gguf", "text:~/other.gguf", "lookup", "lokup"]
        own = own | {"drafter": drafters, "embeddings": STORE.embeddings}
    own = own | {"kv_cache_dir": Path("kv")}
    given: list[Any] = ["model.gguf", Path("model.gguf"), "~/model.gguf"]
    faces = [kind(model_path=path, **own) for path in given]
    faces += [faces[0].model_copy(), pickle.loads(pickle.dumps(faces[1]))]  # noqa: S301  our own
    monkeypatch.chdir(tmp_path.parent)
    file = str(tmp_path / "model.gguf")
    for face in (*faces, faces[0].model_copy()):
        face.engine  # noqa: B018  it is a property
        assert loads[-1]["path"] == file, "a link goes by its own name"
        assert face._tracing_params()["ls_model_name"] == "model"
        assert loads[-1]["kv_cache_dir"] == str(tmp_path / "kv")
        if is_rapid:
            text = f"text:{tmp_path / 'other.gguf'}"
            assert face.drafter == [file, text, "lookup", "lokup"]


@pytest.mark.parametrize("path", ["nu\0ll", "~nobody-of-this-name/a", 7, None])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(ValidationError, match="model_path"):
        RapidChain(model_path=path)


NOT_SERVED: list[tuple[str, Any]] = [
    *[("n_ctx", value) for value in (-1, 2**24 + 1, 2**31, 10**12)],
    *[("n_batch", value) for value in (0, 10**10)],
    *[("n_threads", value) for value in (0, 600, 10**6, 2**31)],
    *[("n_gpu_layers", value) for value in (-2, 2**31)],
    ("kv_cache_bytes", -1),
    *[("max_queue", value) for value in (-1, True)],
    *[("kv_namespace", value) for value in ("", 7)],
    *[("temperature", value) for value in (math.nan, math.inf, -1)],
    *[("top_p", value) for value in (math.nan, math.inf, 0)],
    *[("repeat_penalty", value) for value in (math.nan, math.inf, 0)],
    *[(name, True) for name in ("n_ctx", "max_tokens", "temperature", "seed")],
]
NOT_SERVED_BY_RAPID: list[tuple[str, Any]] = [
    *[("eta", value) for value in (math.nan, math.inf)],
    ("draft_context_share", math.nan),
    *[(name, False) for name in ("draft_length", "chunk_tokens", "kv_cache_bytes")],
]
NOT_SERVED_WITH_RETRIEVAL: list[tuple[str, Any]] = [
    ("flare_threshold", math.nan),
    *[("prefetch_k", value) for value in (0, 10**9, 10**20)],
    *[(name, True) for name in ("prefetch_k", "speculation_stride", "query_window")],
]


@pytest.mark.parametrize(("kind", "own"), FACES)
def test_what_no_model_serves_is_refused_and_quoted(
    kind: Any, own: dict[str, Any]
) -> None:
    is_rapid = "Rapid" in kind.__name__
    cases = NOT_SERVED + (
        NOT_SERVED_BY_RAPID if is_rapid else NOT_SERVED_WITH_RETRIEVAL
    )
    for name, value in cases:
        with pytest.raises(ValidationError, match=f"{name}[^@]*{value}"):
            kind(model_path="model.gguf", **own, **{name: value})
    for name, value in [("speculation", True), ("exact_batches", True)]:
        if name in kind.model_fields:
            assert kind(model_path="model.gguf", **own, **{name: value})


@pytest.mark.parametrize("name", ["k", "prefetch_k"])
@pytest.mark.parametrize("value", [10**9, 10**20])
def test_a_session_that_no_memory_holds_is_refused(name: str, value: Any) -> None:
    retriever = RaLMSpecRetriever(vectorstore=STORE)
    with pytest.raises(InvalidValueError, match=f"from 1 to 100,000, got {value}"):
        retriever.session(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, True])
def test_what_no_call_is_served_with_is_refused(
    value: Any, loads: list[dict[str, Any]]
) -> None:
    llm = RaLMSpecLLM(model_path="model.gguf", retriever=STORE)
    with pytest.raises(ValidationError, match=f"temperature[^@]*{value}"):
        llm.invoke("Hello", temperature=value)


def test_tokens_belong_to_the_model_that_made_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file may have been replaced by one of another vocabulary."""
    shift = 0

    def load(**_: Any) -> FakeReader:
        reader, by = FakeReader(n_ctx=2048), shift
        reader.weights.tokenize = lambda text, **_: [n + by for n in text.encode()]
        reader.weights.piece = lambda token: bytes([token])
        reader.weights.has_chat_template = False
        return reader

    monkeypatch.setattr(Model, "load", load)
    chain = RapidChain(model_path="model.gguf")

    def read() -> list[int]:
        conversation = chain._asking("Why?")
        return list(chain._read(chain.engine, conversation, "ab", chain)[1].tokens)

    assert read() == read() == [*b"ab"]
    shift = 1
    assert read() == [*b"ab"], "the model that is loaded goes on"
    chain.n_ctx = 1024
    assert read() == read() == [*b"bc"]


def test_a_datastore_is_checked_with_every_model_that_is_loaded(
    loads: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FakeReader()
    monkeypatch.setattr(datastore, "load_reader", lambda *_, **__: reader)
    store = KNNDatastore.build(["abcdefg"], model_path="tiny.gguf", path=tmp_path / "s")
    for name in ("rope_freq_base", "rope_freq_scale"):
        with pytest.raises(ValidationError, match=f"{name}=2.0 would give other"):
            KNNLMSpecLLM(model_path="tiny.gguf", datastore=store, k=1, **{name: 2.0})  # type: ignore[arg-type]
    checked: list[Any] = []
    require_model = KNNDatastore.require_model

    def spy(self: KNNDatastore, model: Any) -> None:
        checked.append(model)
        require_model(self, model)

    monkeypatch.setattr(KNNDatastore, "require_model", spy)
    llm = KNNLMSpecLLM(model_path="tiny.gguf", datastore=store, k=1)
    first = llm.engine
    assert llm.engine is first
    llm.n_ctx = 99
    assert checked == [first, llm.engine]

    stranger = FakeReader()
    stranger.weights.sha256 = "1" * 64
    monkeypatch.setattr(Model, "load", lambda **_: stranger)
    llm.n_ctx = 98
    for _ in range(2):
        with pytest.raises(DatastoreError, match="made by"):
            llm.engine  # noqa: B018  it is a property
