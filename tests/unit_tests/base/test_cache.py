"""What may be kept in LangChain's cache, and under which key."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_community.vectorstores.faiss import FAISS
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseLanguageModel
from langchain_core.prompts import PromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from pydantic import ValidationError

from langchain_ralmspec import (
    BM25Store,
    ChatRaLMSpec,
    ChatRapid,
    Draft,
    RaLMSpecLLM,
    RaLMSpecRetriever,
)
from langchain_ralmspec.base.cache_keys import name_of
from langchain_ralmspec.base.local import PreparedAnswer
from langchain_ralmspec.stores import ChromaStore
from langchain_ralmspec.text import sha256_of
from tests.unit_tests.stores.test_open_store import chroma

EMBEDDINGS = DeterministicFakeEmbedding(size=8)
FACES = [RaLMSpecLLM, ChatRaLMSpec]
SAID = "LangChain's cache is set, but answers are not cached here"

pytestmark = pytest.mark.filterwarnings(f"ignore:{SAID}:RuntimeWarning")

TENANT: ContextVar[str] = ContextVar("tenant", default="red")


@pytest.fixture(autouse=True)
def _cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every face answers with the first document found; those that it gave."""
    given: list[str] = []

    def answer(self: Any, *more: Any) -> PreparedAnswer:
        if isinstance(self, ChatRapid):
            source = more[2].get("context", self.context)
        else:
            source = self.retriever
        is_text = isinstance(source, str)
        given.append(source if is_text else source.invoke("who?")[0].page_content)
        usage: Any = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        return PreparedAnswer(iter(given[-1:]), dict, lambda: usage)

    for kind in (RaLMSpecLLM, ChatRaLMSpec, ChatRapid):
        monkeypatch.setattr(kind, "_answer", answer)
    engine = SimpleNamespace(path=Path("m.gguf"))
    monkeypatch.setattr(RaLMSpecLLM, "engine", engine)
    return given


def store_of(*tenants: str, kind: Any = InMemoryVectorStore) -> Any:
    documents = [Document(t, metadata={"tenant": t}) for t in tenants]
    return kind.from_documents(documents, EMBEDDINGS)


def asked(face: BaseLanguageModel[Any]) -> str:
    answer = face.invoke("who?")
    return answer if isinstance(answer, str) else str(answer.text)


def test_no_tenant_is_given_the_answer_of_a_freed_retriever() -> None:
    for _ in range(12):
        for tenant in ("red", "blue"):
            context = store_of(tenant).as_retriever()
            assert asked(ChatRapid(model_path="m.gguf", context=context)) == tenant
            del context
            gc.collect()


def test_the_context_of_a_call_is_part_of_the_key(found: list[str]) -> None:
    chat = ChatRapid(model_path="m.gguf", context="bound")
    for text in ("red", "blue", "red"):
        assert chat.invoke("who?", context=text).text == text
        assert chat.bind(context=text).invoke("who?").text == text
    assert asked(chat) == chat.invoke("who?", context="bound").text == "bound"
    assert found == ["red", "blue", "bound"]
    for tenant in ("red", "blue"):
        context = store_of(tenant).as_retriever()
        assert chat.invoke("who?", context=context).text == tenant
    for page in (1, 2):  # the sources would tell of another page
        told = chat._get_llm_string(context=[Document("red", metadata={"page": page})])
        assert told not in found
        found.append(told)


def test_the_context_of_a_call_is_not_in_traces() -> None:
    chat = ChatRapid(model_path="m.gguf")
    assert "secret" not in str(chat._get_invocation_params(context="a secret"))


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize(
    "given",
    [
        {"filter": {"tenant": "red"}},
        {"search_kwargs": {"score_threshold": 0.5}},
        {"max_tokens": 3},
        {"temperature": 0.5},
        {"grammar": 'root ::= "a"'},
    ],
)
def test_what_a_call_gives_is_part_of_the_key(
    kind: Any, given: dict[str, Any], found: list[str]
) -> None:
    face = kind(model_path="m.gguf", retriever=store_of("red"))
    face.invoke("who?")
    face.invoke("who?", **given)
    assert len(found) == 2
    face.bind(**given).invoke("who?")
    assert len(found) == 2, "the second time it is known"
    face.invoke("who?", config={"tags": ["x"], "metadata": {"y": 1}, "run_name": "z"})
    assert len(found) == 2


def test_what_an_answer_is_told_in_is_part_of_the_key() -> None:
    for chat in (
        ChatRaLMSpec(model_path="m.gguf", retriever=store_of("red")),
        ChatRapid(model_path="m.gguf", context="text"),
    ):
        other = chat.model_copy(update={"output_version": "v1"})
        assert chat._get_llm_string() != other._get_llm_string()


async def test_and_so_it_is_beside_other_tasks(found: list[str]) -> None:
    llm = RaLMSpecLLM(model_path="m.gguf", retriever=store_of("red"))
    for given in ({}, {"filter": {"tenant": "red"}}, {"filter": {"tenant": "blue"}}):
        for _ in range(2):
            await llm.agenerate(["who?"], **given)
    assert len(found) == 3


@pytest.mark.parametrize("kind", FACES)
def test_an_object_that_a_call_gives_is_told_from_its_likes(
    kind: Any, found: list[str]
) -> None:
    class Grammar:
        def __repr__(self) -> str:
            return "a grammar"

    face = kind(model_path="m.gguf", retriever=store_of("red"))
    for n_answers in (1, 2):
        face.invoke("who?", grammar=Grammar())
        assert len(found) == n_answers


def test_tools_of_a_call_are_told_apart_though_they_are_freed() -> None:
    def tool(name: str) -> Any:
        def look() -> None:
            """Look."""

        look.__name__ = name
        return look

    chat = ChatRapid(model_path="m.gguf", context="text")
    keys = {chat._get_llm_string(tools=[tool(f"f{n}")]) for n in range(20)}
    assert len(keys) == 20
    assert chat._get_llm_string(max_tokens=3) == chat._get_llm_string(max_tokens=3)


def test_a_filter_that_comes_later_is_asked_each_time() -> None:
    retriever = store_of("red", "blue").as_retriever()
    llm = RaLMSpecLLM(model_path="m.gguf", retriever=retriever)
    retriever.search_kwargs["filter"] = lambda d: d.metadata["tenant"] == TENANT.get()
    for tenant in ("red", "blue"):
        token = TENANT.set(tenant)
        assert asked(llm) == tenant
        TENANT.reset(token)


@pytest.mark.parametrize("kind", FACES)
def test_a_filter_that_reads_the_context_is_asked_each_time(kind: Any) -> None:
    retriever = RaLMSpecRetriever(
        vectorstore=store_of("red", "blue"),
        filter=lambda document: document.metadata["tenant"] == TENANT.get(),
    )
    face = kind(model_path="m.gguf", retriever=retriever)
    for tenant in ("red", "blue", "red"):
        token = TENANT.set(tenant)
        assert asked(face) == tenant
        TENANT.reset(token)


@pytest.mark.parametrize("kind", FACES)
def test_what_is_known_is_answered_once(kind: Any, found: list[str]) -> None:
    store = store_of("red")
    face = kind(model_path="m.gguf", retriever=store)
    assert [asked(face), asked(face)] == ["red", "red"]
    assert found == ["red"]
    store.add_documents([Document("blue")])
    asked(face)
    assert len(found) == 2, "the store has grown"


def replaced(store: Any) -> None:
    """Another text under the same id, and as many documents as before."""
    store.delete(["it"])
    store.add_documents([Document("blue", id="it")], ids=["it"])


def overwritten(store: Any) -> None:
    if isinstance(store, InMemoryVectorStore):
        store.add_documents([Document("blue", id="it")])
    else:
        replaced(store)
        replaced(store)


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("made_by", [InMemoryVectorStore, FAISS])
@pytest.mark.parametrize("change", [replaced, overwritten])
def test_as_many_other_documents_are_noticed(
    kind: Any, made_by: Any, change: Any, found: list[str]
) -> None:
    store = made_by.from_documents([Document("red", id="it")], EMBEDDINGS)
    face = kind(model_path="m.gguf", retriever=store)
    assert [asked(face), asked(face)] == ["red", "red"]
    change(store)
    assert [asked(face), asked(face)] == ["blue", "blue"]
    assert found == ["red", "blue"]


def test_chroma_cannot_tell_what_others_replace() -> None:
    assert not hasattr(ChromaStore, "version")
    face = ChatRaLMSpec(model_path="m.gguf", retriever=chroma({}))
    assert face.cache is False


class Tenants(InMemoryVectorStore):
    """Finds what the tenant of the moment may see."""

    def similarity_search_with_score_by_vector(self, *args: Any, **more: Any) -> Any:
        hits = super().similarity_search_with_score_by_vector(*args, **more)
        return [hit for hit in hits if hit[0].metadata["tenant"] == TENANT.get()]


def patched() -> Any:
    store = store_of("red")
    store.similarity_search = lambda *_, **__: []
    return store


class Uncounted(VectorStore):
    __module__ = "langchain_community.vectorstores"

    def similarity_search(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[Document]:
        raise NotImplementedError

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class Own(RaLMSpecRetriever):
    pass


def partial_prompt() -> Any:
    template = PromptTemplate.from_template("{tenant} {page_content}")
    return template.partial(tenant=TENANT.get)


UNCACHEABLE: list[Any] = [
    (ChatRapid, lambda: {"context": store_of("red").as_retriever()}, "a retriever"),
    (
        ChatRapid,
        lambda: {"context": store_of("red").as_retriever().with_config(tags=["t"])},
        "a retriever",
    ),
    *(
        (kind, make, why)
        for kind in FACES
        for make, why in [
            (lambda: {"retriever": store_of("red", kind=Tenants)}, "Tenants"),
            (lambda: {"retriever": patched()}, "InMemoryVectorStore"),
            (lambda: {"retriever": Uncounted()}, "Uncounted does not tell"),
            (lambda: {"retriever": Own(vectorstore=store_of("red"))}, "Own"),
            (
                lambda: {
                    "retriever": store_of("red"),
                    "document_prompt": partial_prompt(),
                },
                "document_prompt",
            ),
        ]
    ),
]


@pytest.mark.parametrize(("kind", "make", "why"), UNCACHEABLE)
def test_what_may_change_is_not_cached(kind: Any, make: Any, why: str) -> None:
    face = kind(model_path="m.gguf", **make())
    assert face.cache is False
    assert "cache" not in face.model_fields_set
    for cache in (True, InMemoryCache()):
        with pytest.raises(
            ValidationError, match=f"cannot be cached here, for .*{why}"
        ):
            kind(model_path="m.gguf", cache=cache, **make())
    kind(model_path="m.gguf", cache=False, **make())
    face.cache = None  # by assignment, which nobody checks
    assert face._identifying_params != face._identifying_params
    if kind is RaLMSpecLLM:  # whose calls are part of these
        with face._called_with({"max_tokens": 3}):
            assert face._identifying_params != face._identifying_params


def test_what_is_known_may_be_cached() -> None:
    words = BM25Store.from_documents([Document("red")])
    for store in (words, store_of("red"), store_of("red").as_retriever()):
        for cache in (None, True):
            face = ChatRaLMSpec(model_path="m.gguf", retriever=store, cache=cache)
            assert face.cache is cache
            assert face._identifying_params == face._identifying_params


class Drafts:
    name = "mine"

    def propose(self, prefix: Any, n: int) -> Draft:
        return Draft()

    def __repr__(self) -> str:
        return "Drafts()"


def test_a_key_tells_objects_apart_by_themselves() -> None:
    def key(**settings: Any) -> str:
        chat = ChatRapid(model_path="m.gguf", context="A text.", **settings)
        return str(chat._identifying_params)

    drafter, other = Drafts(), Drafts()
    assert key(drafter=drafter) == key(drafter=drafter) != key(drafter=other)
    assert key(drafter=["lookup", drafter]) != key(drafter=["lookup", other])
    other_embeddings = DeterministicFakeEmbedding(size=8)
    assert key(embeddings=EMBEDDINGS) == key(embeddings=EMBEDDINGS)
    assert key(embeddings=EMBEDDINGS) != key(embeddings=other_embeddings)
    assert key() == key(drafter="auto") != key(drafter="lookup")


def test_a_key_tells_files_apart_and_not_their_spellings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(path: Any, **settings: Any) -> str:
        chat = ChatRapid(model_path=path, context="A text.", **settings)
        return str(chat._identifying_params)

    keys = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        for content in (None, "one", "two files"):  # another one in the same place
            if content:
                Path("m.gguf").write_text(content)
            keys += [key("m.gguf"), key("n.gguf", drafter="m.gguf")]
            assert key(folder / "m.gguf") == keys[-2]
    assert len(set(keys)) == len(keys) == 12


def test_a_name_is_never_given_twice() -> None:
    class Thing:
        pass

    class Bare:
        __slots__ = ()

    names = {name_of(Thing()) for _ in range(100)}
    assert len(names) == 100
    bare = Bare()
    assert name_of(bare) != name_of(bare), "its end would not be noticed"


def test_texts_differ_by_their_checksums_even_with_half_characters() -> None:
    assert len({sha256_of(text) for text in ("?", "\ud835", "\udc00")}) == 3


@pytest.mark.parametrize("kind", FACES)
def test_a_cache_that_cannot_serve_is_warned_of_unless_that_is_meant(
    kind: type[Any],
) -> None:
    store = InMemoryVectorStore(EMBEDDINGS)
    own = {"model_path": "m.gguf", "retriever": store}
    filtered = RaLMSpecRetriever(vectorstore=store, filter=lambda _: True)
    with pytest.warns(RuntimeWarning, match=f"{SAID}, for the retriever's filter"):
        kind(**own | {"retriever": filtered})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(**own | {"retriever": filtered}, cache=False)
        kind(**own)
        set_llm_cache(None)
        kind(**own | {"retriever": filtered})
