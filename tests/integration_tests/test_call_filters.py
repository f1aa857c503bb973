"""A filter of one call: heeded by that call, and by nobody else's."""

from __future__ import annotations

import asyncio
import pickle
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import chromadb
import pytest
from langchain_chroma import Chroma
from langchain_community.vectorstores import FAISS, SKLearnVectorStore
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.globals import set_llm_cache
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    InvalidValueError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    UnknownArgumentError,
    documents_of,
)

DOCUMENTS = [
    Document(f"Passage {row}.", metadata={"tenant": ("red", "blue")[row % 2]})
    for row in range(12)
]
EMBEDDINGS = DeterministicFakeEmbedding(size=8)


@pytest.fixture
def chroma() -> Iterator[Chroma]:
    store = Chroma(
        f"tenants-{uuid.uuid4().hex}", EMBEDDINGS, client=chromadb.EphemeralClient()
    )
    store.add_documents(DOCUMENTS)
    yield store
    store.delete_collection()


def tenants_in(documents: Any) -> set[str]:
    return {each.metadata["tenant"] for each in documents}


@pytest.mark.parametrize("speculation", [False, True])
def test_every_call_has_its_own(gguf: str, chroma: Chroma, speculation: bool) -> None:
    retriever = RaLMSpecRetriever(vectorstore=chroma, replica="auto")
    chat = ChatRaLMSpec(
        model_path=gguf, retriever=retriever, max_tokens=8, speculation=speculation
    )

    def ask(number: int) -> tuple[str, set[str]]:
        tenant = ("red", "blue")[number % 2]
        answer = chat.invoke(f"Question {number}?", filter={"tenant": tenant})
        return tenant, tenants_in(documents_of(answer))

    with ThreadPoolExecutor(4) as pool:
        for tenant, seen in pool.map(ask, range(8)):
            assert seen == {tenant}
    with pytest.raises(InvalidValueError, match="filter of Chroma"):
        chat.invoke("What?", filter=3)
    bound = chat.bind(filter={"tenant": "red"})
    chunks = list(bound.stream("Question?"))
    assert tenants_in(documents_of(chunks[-1])) == {"red"}
    assert tenants_in(documents_of(chat.invoke("Question 1?"))) <= {"red", "blue"}
    assert chat.retriever.filter is None


def test_a_function_filters_what_a_completion_reads(gguf: str) -> None:
    store = InMemoryVectorStore(EMBEDDINGS)
    store.add_documents(DOCUMENTS)
    llm = RaLMSpecLLM(model_path=gguf, retriever=store, max_tokens=8)
    for tenant in ("red", "blue", "red"):
        only = llm.generate(
            ["What?"], filter=lambda d, t=tenant: d.metadata["tenant"] == t
        )
        info = only.generations[0][0].generation_info
        assert info is not None
        assert {d["metadata"]["tenant"] for d in info["documents"]} == {tenant}
    again = pickle.loads(pickle.dumps(llm))  # noqa: S301  our own
    assert again.invoke("What?", filter=lambda d: "red" in str(d.metadata))
    with pytest.raises(UnknownArgumentError, match="filters"):
        llm.invoke("What?", filters={"tenant": "red"})
    with pytest.raises(InvalidValueError, match="search_kwargs must be a dict, got 3"):
        llm.invoke("What?", search_kwargs=3)


@pytest.mark.parametrize("kind", [ChatRaLMSpec, RaLMSpecLLM])
def test_no_tenant_is_served_from_anothers_cached_answer(gguf: str, kind: Any) -> None:
    store = InMemoryVectorStore(EMBEDDINGS)
    store.add_documents(DOCUMENTS)
    assert FakeListLLM(responses=["x"]).cache is None
    cache = InMemoryCache()
    set_llm_cache(cache)
    try:
        face = kind(model_path=gguf, retriever=store, max_tokens=4)
        with pytest.raises(InvalidValueError, match="a cache cannot tell filter="):
            face.invoke("What?", filter=lambda d: d.metadata["tenant"] == "red")
        free = kind(model_path=gguf, retriever=store, max_tokens=4, cache=False)
        assert free.invoke("What?", filter=lambda d: d.metadata["tenant"] == "red")
    finally:
        set_llm_cache(None)


def test_what_is_invalidated_is_opened_anew_for_calls_too(gguf: str) -> None:
    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS)
    retriever = RaLMSpecRetriever(vectorstore=store)
    chat = ChatRaLMSpec(model_path=gguf, retriever=retriever, max_tokens=4)
    chat.invoke("What?", filter={"tenant": "red"})
    other = FAISS.from_documents(DOCUMENTS[:2], EMBEDDINGS)
    store.index, store.docstore = other.index, other.docstore
    store.index_to_docstore_id = other.index_to_docstore_id
    retriever.invalidate()
    answer = chat.invoke("What?", filter={"tenant": "red"})
    assert tenants_in(documents_of(answer)) == {"red"}


class Sealed(str):
    """A value that does not show itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def test_copies_of_a_collection_are_a_retrievers_own(chroma: Chroma) -> None:
    replicas = {}
    for tenant in ("red", "blue"):
        own = {"tenant": Sealed(tenant)}
        retriever = RaLMSpecRetriever(vectorstore=chroma, replica="auto", filter=own)
        assert retriever.new_session(k=1).wait_for_replica()
        replicas[tenant] = retriever._opened.replica  # type: ignore[union-attr]
    (query,) = retriever.store.encode(["Passage?"])
    for tenant, replica in replicas.items():
        assert replica is not None
        found = replica.near(query, 12).hits
        assert tenants_in(hit.document for hit in found) == {tenant}
    retriever.delete([chroma.get(where={"tenant": "blue"})["ids"][0]])
    assert retriever.new_session(k=1).wait_for_replica()
    assert replicas["blue"] is not None
    assert len(replicas["blue"].near(query, 12).hits) == 5, "read again"


# What a call's config says of the retriever, and what is made of a bound model

RED = {"tenant": "red"}


def configurable(own: bool) -> Any:
    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS)
    if own:
        field = ConfigurableField(id="restricted")
        return RaLMSpecRetriever(vectorstore=store).configurable_fields(filter=field)
    field = ConfigurableField(id="words")
    return store.as_retriever().configurable_fields(search_kwargs=field)


CONFIG: Any = {"configurable": {"restricted": RED, "words": {"k": 2, "filter": RED}}}


async def last_of(chunks: Any) -> Any:
    return [chunk async for chunk in chunks][-1]


async def events_of(chat: Any, asked: str) -> Any:
    return await (await chat.astream_events(asked, CONFIG, version="v3"))


DOORS: dict[str, Any] = {
    "invoke": lambda chat, asked: chat.invoke(asked, CONFIG),
    "with_config": lambda chat, asked: chat.with_config(CONFIG).invoke(asked),
    "ainvoke": lambda chat, asked: asyncio.run(chat.ainvoke(asked, CONFIG)),
    "stream": lambda chat, asked: list(chat.stream(asked, CONFIG))[-1],
    "astream": lambda chat, asked: asyncio.run(last_of(chat.astream(asked, CONFIG))),
    "batch": lambda chat, asked: chat.batch([asked], [CONFIG])[0],
    "stream_events": lambda chat, asked: (
        chat.stream_events(asked, CONFIG, version="v3").output
    ),
    "astream_events": lambda chat, asked: asyncio.run(events_of(chat, asked)),
    "events of a chain": lambda chat, asked: (
        RunnableLambda(lambda text: [chat.stream_events(text, version="v3")])
        .invoke(asked, CONFIG)[0]
        .output
    ),
    "chain": lambda chat, asked: (RunnableLambda(str) | chat).invoke(asked, CONFIG),
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", [ChatRaLMSpec, ChatRapid])
def test_a_config_of_a_call_says_what_it_is_answered_from(
    gguf: str, kind: Any, door: str, own: bool
) -> None:
    name = "context" if kind is ChatRapid else "retriever"
    given = {name: configurable(own), "model_path": gguf, "max_tokens": 8}
    chat = kind(**given, n_ctx=1024)
    for question in ("Passage 1?", "Passage 3?", "Why?"):
        assert tenants_in(documents_of(DOORS[door](chat, question))) == {"red"}


def test_a_config_of_a_call_reaches_a_completion(gguf: str) -> None:
    seen: list[set[str]] = []

    class Listener(BaseCallbackHandler):
        def on_retriever_end(self, documents: Any, **_: Any) -> None:
            seen.append(tenants_in(documents))

    llm = RaLMSpecLLM(model_path=gguf, retriever=configurable(own=False), max_tokens=8)
    config: Any = {**CONFIG, "callbacks": [Listener()]}
    llm.invoke("Passage 1", config)
    llm.batch(["Passage 3", "Passage 5"], config)
    list(llm.stream("Passage 1", config))

    async def beside() -> None:
        await llm.ainvoke("Passage 1", config)
        await llm.abatch(["Passage 3"], config)
        await last_of(llm.astream("Passage 5", config))

    asyncio.run(beside())
    assert seen
    assert set.union(*seen) == {"red"}


def test_a_config_cannot_add_what_a_store_swallows(gguf: str) -> None:
    store = SKLearnVectorStore(EMBEDDINGS)
    store.add_documents(DOCUMENTS)
    field = ConfigurableField(id="words")
    found = store.as_retriever().configurable_fields(search_kwargs=field)
    for given in ({"retriever": found}, {"context": found}):
        kind: Any = ChatRapid if "context" in given else ChatRaLMSpec
        chat = kind(model_path=gguf, max_tokens=4, **given)
        with pytest.raises(ValueError, match="'filter', and would find documents"):
            chat.invoke("Why?", CONFIG)


@pytest.mark.parametrize("kind", [ChatRaLMSpec, RaLMSpecLLM])
def test_start_within_a_call_minds_its_config(gguf: str, kind: Any) -> None:
    def started(model: Any) -> Any:
        run = model.start("Passage 1?")
        assert "".join(run)
        return run.documents

    def found_within(retriever: Any) -> Any:
        model = kind(model_path=gguf, max_tokens=8, retriever=retriever)
        return RunnableLambda(lambda _: started(model)).invoke("", CONFIG)

    for own in (True, False):
        assert tenants_in(found_within(configurable(own))) == {"red"}
    swallowing = SKLearnVectorStore(EMBEDDINGS)
    swallowing.add_documents(DOCUMENTS)
    field = ConfigurableField(id="words")
    found = swallowing.as_retriever().configurable_fields(search_kwargs=field)
    with pytest.raises(ValueError, match="'filter', and would find documents"):
        found_within(found)


class Verdict(BaseModel):
    """A verdict."""

    right: bool


def look() -> str:
    """Look at something."""
    return "a passage"


def test_what_is_bound_stays_bound_to_what_is_made_of_it(gguf: str) -> None:
    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS)
    chat = ChatRaLMSpec(model_path=gguf, retriever=store, max_tokens=40)
    bound: Any = chat.bind(filter=RED).with_config(tags=["red"])
    judged = bound.with_structured_output(Verdict, include_raw=True)
    for question in ("Passage 1?", "Passage 3?"):
        assert tenants_in(documents_of(judged.invoke(question)["raw"])) == {"red"}
        answer = bound.bind_tools([look], tool_choice="any").invoke(question)
        assert answer.tool_calls
        assert tenants_in(documents_of(answer)) == {"red"}
    other = bound.bind_tools([look]).bind_tools([Verdict], filter={"tenant": "blue"})
    assert [tool["function"]["name"] for tool in other.kwargs["tools"]] == ["Verdict"]
    assert tenants_in(documents_of(other.invoke("Passage 2?"))) == {"blue"}
    assert chat.bind(stop=["."]).start("Passage 1?").documents is not None


@pytest.mark.parametrize("kind", [ChatRaLMSpec, RaLMSpecLLM])
@pytest.mark.parametrize("name", ["start", "generate", "agenerate_prompt"])
def test_what_does_not_know_what_is_bound_is_refused(
    gguf: str, kind: Any, name: str
) -> None:
    model = kind(model_path=gguf, retriever=configurable(own=False), max_tokens=8)
    chosen = [choice(model).bind(filter=RED) for choice in CHOICES.values()]
    for bound in (model.bind(filter=RED), model.with_config(CONFIG), *chosen):
        with pytest.raises(InvalidValueError, match=rf"{name}\(\) does not know of"):
            getattr(bound, name)
    assert callable(getattr(model.bind(stop=["."]), name))


CHOICES: dict[str, Callable[[Any], Any]] = {
    "fields": lambda chat: chat.configurable_fields(
        max_tokens=ConfigurableField(id="length")
    ),
    "alternatives": lambda chat: chat.configurable_alternatives(
        ConfigurableField(id="model"), other=chat
    ),
    "fallbacks": lambda chat: chat.with_fallbacks([chat]),
    "fallbacks of fallbacks": lambda chat: chat.with_fallbacks([]).with_fallbacks([]),
    "fields and alternatives": lambda chat: CHOICES["alternatives"](
        CHOICES["fields"](chat)
    ),
    "fallbacks of a bound one": lambda chat: chat.bind(stop=["~"]).with_fallbacks([]),
    "listeners": lambda chat: chat.with_listeners(on_end=told_of),
    "async listeners": lambda chat: chat.with_alisteners(on_end=told_of),
    "types": lambda chat: chat.with_types(input_type=str),
}


def told_of(run: Any) -> None:
    assert run.outputs


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_bound_to_a_choice_stays_bound(gguf: str, choice: str) -> None:
    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS)
    chat = ChatRaLMSpec(model_path=gguf, retriever=store, max_tokens=40)
    bound = CHOICES[choice](chat).bind(filter=RED)
    judged = bound.with_structured_output(Verdict, include_raw=True)
    called = bound.bind_tools([look], tool_choice="any")
    for question in ("Passage 1?", "Passage 2?"):
        assert tenants_in(documents_of(bound.invoke(question))) == {"red"}
        assert tenants_in(documents_of(judged.invoke(question)["raw"])) == {"red"}
        answer = called.invoke(question)
        assert answer.tool_calls
        assert tenants_in(documents_of(answer)) == {"red"}


@pytest.mark.parametrize("awaited", [False, True])
def test_listeners_hear_of_what_is_made_of_a_bound_model(
    gguf: str, awaited: bool
) -> None:
    heard: list[str] = []

    async def hear(run: Any) -> None:
        heard.append(run.name)

    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS)
    chat = ChatRaLMSpec(model_path=gguf, retriever=store, max_tokens=40)
    if awaited:
        bound = chat.bind(filter=RED).with_alisteners(on_end=hear)
    else:
        bound = chat.bind(filter=RED).with_listeners(
            on_end=lambda run: heard.append(run.name)
        )
    for made in (
        bound.bind_tools([look]),
        bound.with_structured_output(Verdict, include_raw=True),
    ):
        heard.clear()
        asyncio.run(made.ainvoke("Passage 1?"))
        assert len(heard) == 1


def test_fallbacks_of_another_provider_have_the_tools_as_they_take_them(
    gguf: str,
) -> None:
    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS)
    chat = ChatRaLMSpec(model_path=gguf, retriever=store, max_tokens=40)
    other = ChatOpenAI(model_name="none", openai_api_key=SecretStr("none"))
    both = chat.with_fallbacks([other]).with_config(run_name="both")
    made: Any = both.bind(filter=RED).bind_tools([look], tool_choice="any")
    (fallback,) = made.bound.fallbacks
    assert fallback.bound is other
    assert fallback.kwargs["tool_choice"] == "required"
    assert fallback.kwargs["filter"] == RED
    assert made.config["run_name"] == "both"
    answer = made.invoke("Passage 1?")
    assert answer.tool_calls
    assert tenants_in(documents_of(answer)) == {"red"}
    with pytest.raises(InvalidValueError, match=r"start\(\) does not know of"):
        made.start("Passage 1?")
    again = made.bind_tools([Verdict])
    assert again.bound.runnable.kwargs["filter"] == RED
    assert again.bound.runnable.kwargs["tools"][0]["function"]["name"] == "Verdict"


@pytest.mark.parametrize("choice", ["fields", "alternatives", "both"])
def test_a_config_chooses_what_calls_tools(gguf: str, choice: str) -> None:
    store = FAISS.from_documents(DOCUMENTS, EMBEDDINGS)
    red = store.as_retriever(search_kwargs={"filter": RED})
    chat: Any = ChatRaLMSpec(model_path=gguf, retriever=store, max_tokens=40)
    config: Any = {"configurable": {"found": red, "model": "red"}}
    made = chat
    if choice != "alternatives":
        made = made.configurable_fields(retriever=ConfigurableField(id="found"))
    if choice != "fields":
        other = chat.model_copy(update={"retriever": red})
        field = ConfigurableField(id="model")
        made = made.configurable_alternatives(field, red=other)
    several = [made]
    if choice == "fields":  # LangChain's own warns of fallbacks with alternatives
        several.append(made.with_fallbacks([made]))
    for each in several:
        called = each.bind_tools([look], tool_choice="any")
        for question in ("Passage 1?", "Passage 2?"):
            answer = called.invoke(question, config)
            assert answer.tool_calls
            assert tenants_in(documents_of(answer)) == {"red"}
        for method in ("json_schema", "function_calling"):
            told = each.with_structured_output(
                Verdict, method=method, include_raw=True
            ).invoke("Passage 2?", config)
            assert tenants_in(documents_of(told["raw"])) == {"red"}
