"""What is read within one ``kv_namespace`` is never found within another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.runnables import ConfigurableField

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    InvalidValueError,
    KNNDatastore,
    KNNLMSpecLLM,
    RaLMSpecLLM,
    RapidChain,
)
from tests.integration_tests.conftest import QUESTIONS, Corpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from langchain_ralmspec import RaLMSpecRetriever

OWN: dict[str, Any] = {"n_ctx": 1120, "max_tokens": 6}  # nobody else's model
NAMES = ["llm", "chat", "once", "chain", "rapid", "knn"]


def face_of(
    name: str, gguf: str, retriever: RaLMSpecRetriever, corpus: Corpus, folder: Path
) -> tuple[Any, Any]:
    """A face that keeps what it reads, there or in memory, and what it is asked."""
    kept = {"kv_cache_dir": folder} if folder.name == "kv" else {}
    own: dict[str, Any] = {"model_path": gguf, **OWN, **kept}
    context = "\n\n".join(corpus.texts[:2])
    if name in {"chain", "rapid"}:
        if name == "chain":
            asked = {"question": QUESTIONS[0], "context": context}
            return RapidChain(draft_length=0, **own), asked
        return ChatRapid(draft_length=0, context=context, **own), QUESTIONS[0]
    if name == "knn":
        store = KNNDatastore.build(
            corpus.texts[:3], model_path=gguf, path=folder.parent / "store"
        )
        prompt = "A heap is a tree whose"
        return KNNLMSpecLLM(datastore=store, k=2, speculation=False, **own), prompt
    own |= {"retriever": retriever, "speculation": False}
    if name == "once":
        return ChatRaLMSpec(retrieval_policy="once", **own), QUESTIONS[0]
    kind: Any = RaLMSpecLLM if name == "llm" else ChatRaLMSpec
    return kind(**own), QUESTIONS[0]


def told(part: Any) -> tuple[str, int]:
    """An answer, and how many tokens of what it read were there before."""
    if isinstance(part, dict):
        return part["answer"], part["speculation"]["cached_tokens"]
    return part.text, part.response_metadata["speculation"]["cached_tokens"]


def answer(face: Any, asked: Any, **call: Any) -> tuple[str, int]:
    if not isinstance(face, RaLMSpecLLM | KNNLMSpecLLM):
        return told(face.invoke(asked, **call))
    generation = face.generate([asked], **call).generations[0][0]
    info: Any = generation.generation_info
    return generation.text, info["speculation"]["cached_tokens"]


@pytest.fixture(params=["kv", "memory"])
def where(request: Any, tmp_path: Path) -> Path:
    """A folder; the second one stands for memory alone."""
    folder: Path = tmp_path / request.param
    return folder


@pytest.mark.parametrize(
    ("name", "where"),
    [*((name, "kv") for name in NAMES), (min(NAMES), "memory")],
    indirect=["where"],
)
def test_another_namespace_reads_as_a_fresh_model_does(
    gguf: str, retriever: RaLMSpecRetriever, corpus: Corpus, where: Path, name: str
) -> None:
    face, asked = face_of(name, gguf, retriever, corpus, where)
    face.engine.forget_prefixes()
    fresh = answer(face, asked, kv_namespace="red")
    again = answer(face, asked, kv_namespace="red")
    assert again[0] == fresh[0]
    assert again[1] > fresh[1]
    assert answer(face, asked, kv_namespace="blue") == fresh
    assert answer(face, asked) == fresh, "nor is it shared with all"
    assert answer(face, asked, kv_namespace="green") == fresh, "nor the other way round"
    face.engine.flush()
    face.engine.forget_prefixes()  # what a folder has is found
    kept = where.name == "kv"
    for own, is_there in (("red", kept), ("violet", False)):
        assert answer(face, asked, kv_namespace=own) == (again if is_there else fresh)


WAYS: dict[str, Callable[[Any, str], Any]] = {
    "its own": lambda chat, own: chat.model_copy(update={"kv_namespace": own}),
    "bound": lambda chat, own: chat.bind(kv_namespace=own),
    "configured": lambda chat, own: chat.configurable_fields(
        kv_namespace=ConfigurableField(id="kv")
    ).with_config(configurable={"kv": own}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_namespace_may_come_from_where_a_filter_comes_from(
    gguf: str, retriever: RaLMSpecRetriever, way: str
) -> None:
    own: dict[str, Any] = {"model_path": gguf, "retriever": retriever, **OWN}
    chat = ChatRaLMSpec(retrieval_policy="once", **own)
    model = chat.engine
    model.forget_prefixes()
    red, blue = (WAYS[way](chat, own) for own in ("red", "blue"))
    fresh = told(red.invoke(QUESTIONS[2]))
    assert told(blue.invoke(QUESTIONS[2])) == fresh
    assert told(chat.invoke(QUESTIONS[2])) == fresh
    again = told(red.invoke(QUESTIONS[2]))
    assert again[0] == fresh[0]
    assert again[1] > fresh[1]
    assert chat.engine is model, "it is loaded once"


def test_what_is_read_ahead_is_its_own_namespace_s(
    gguf: str, retriever: RaLMSpecRetriever, corpus: Corpus, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"retrieval_policy": "once", "documents_per_step": 1}
    own = {"model_path": gguf, "retriever": retriever, "speculation": False, **OWN}
    red: Any = ChatRaLMSpec(**own, **settings, kv_namespace="red")
    blue = red.model_copy(update={"kv_namespace": "blue"})
    red.engine.forget_prefixes()
    fresh = answer(blue, QUESTIONS[3])
    red.warm(retriever.invoke(QUESTIONS[3])[:1])
    text, n_cached = answer(red, QUESTIONS[3])
    assert text == fresh[0]
    assert n_cached > fresh[1]
    red, blue = (
        RapidChain(model_path=gguf, draft_length=0, kv_namespace=own, **OWN)
        for own in ("red", "blue")
    )
    asked = {"question": QUESTIONS[0], "context": "\n\n".join(corpus.texts[5:8])}
    n_tokens = red.preload(asked["context"])
    assert answer(red, asked)[1] >= n_tokens
    assert answer(blue, asked)[1] == 0


@pytest.mark.parametrize("kind", [ChatRaLMSpec, RaLMSpecLLM])
@pytest.mark.parametrize("name", ["start", "generate", "warm"])
def test_what_does_not_know_of_a_bound_namespace_is_refused(
    gguf: str, retriever: RaLMSpecRetriever, kind: Any, name: str
) -> None:
    bound = kind(model_path=gguf, retriever=retriever).bind(kv_namespace="red")
    said = rf"{name}\(\) does not know of the kv_namespace .* when the model is made"
    with pytest.raises(InvalidValueError, match=said):
        getattr(bound, name)
    assert callable(kind(model_path=gguf, retriever=retriever).bind(filter={}).warm)
