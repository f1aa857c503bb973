"""The LLM, the chat model and the retriever, as an application uses them."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessageChunk,
    HumanMessage,
    SystemMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    ContextOverflowError,
    FaissStore,
    InvalidValueError,
    ModelFileError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    SpeculationStats,
    UnknownArgumentError,
)
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.templates import ChatTemplate
from tests.integration_tests.conftest import QUESTIONS, Corpus


@pytest.fixture(scope="module")
def retriever(corpus: Corpus) -> RaLMSpecRetriever:
    index = faiss.IndexFlatIP(corpus.vectors.shape[1])
    index.add(corpus.vectors)
    store = FaissStore(index, corpus.documents, corpus.embeddings)
    return RaLMSpecRetriever(vectorstore=store, k=3)


@pytest.fixture
def llm(gguf: str, model: Model, retriever: RaLMSpecRetriever) -> RaLMSpecLLM:
    return RaLMSpecLLM(model_path=gguf, retriever=retriever, max_tokens=24)


@pytest.fixture
def chat(gguf: str, model: Model, retriever: RaLMSpecRetriever) -> ChatRaLMSpec:
    return ChatRaLMSpec(model_path=gguf, retriever=retriever, max_tokens=24)


def test_llm_every_way_in_gives_one_answer(llm: RaLMSpecLLM) -> None:
    prompt = "Question: How do I copy an object?\nAnswer:"
    answer = llm.invoke(prompt)
    assert answer
    assert "".join(llm.stream(prompt)) == answer
    assert llm.batch([prompt, "Once"])[0] == answer
    assert asyncio.run(llm.ainvoke(prompt)) == answer
    assert asyncio.run(llm.abatch(["Once", prompt]))[1] == answer

    async def streamed() -> str:
        return "".join([text async for text in llm.astream(prompt)])

    assert asyncio.run(streamed()) == answer


def test_chat_every_way_in_gives_one_answer(chat: ChatRaLMSpec) -> None:
    answer = chat.invoke(QUESTIONS[0])
    assert answer.text
    assert "".join(chunk.text for chunk in chat.stream(QUESTIONS[0])) == answer.text
    assert chat.batch([QUESTIONS[1], QUESTIONS[0]])[1].text == answer.text
    assert asyncio.run(chat.ainvoke(QUESTIONS[0])).text == answer.text

    async def streamed() -> str:
        return "".join([c.text async for c in chat.astream(QUESTIONS[0])])

    assert asyncio.run(streamed()) == answer.text


def test_llm_tells_what_it_did(llm: RaLMSpecLLM) -> None:
    result = llm.generate(["How do I copy an object?", "Once"])
    for (generation,) in result.generations:
        info = generation.generation_info or {}
        stats = SpeculationStats(
            **{k: v for k, v in info["speculation"].items() if k != "guess_accuracy"}
        )
        assert stats.tokens_kept == sum(len(s["tokens"]) for s in info["steps"]) > 0
        assert 0 < stats.seconds_generating < stats.seconds
        assert stats.store_calls >= 1 + stats.rounds
        ids = {i for step in info["steps"] for i in step["documents"]}
        assert {d.id for d in info["documents"]} == ids
        assert info["finish_reason"] in {"stop", "length"}
    usage = (result.llm_output or {})["token_usage"]
    kept = [
        g.generation_info["speculation"]["tokens_kept"]
        for (g,) in result.generations
        if g.generation_info
    ]
    assert usage["output_tokens"] == sum(kept)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_chat_tells_what_it_did(chat: ChatRaLMSpec) -> None:
    message = chat.invoke(QUESTIONS[0])
    metadata = message.response_metadata
    assert metadata["documents"]
    kept = metadata["speculation"]["tokens_kept"]
    assert message.usage_metadata
    assert message.usage_metadata["output_tokens"] == kept
    assert metadata["model_name"] == chat.engine.path.stem

    chunks = list(chat.stream(QUESTIONS[0]))
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    total: BaseMessageChunk = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    assert isinstance(total, AIMessageChunk)
    assert total.usage_metadata == message.usage_metadata
    assert total.response_metadata["steps"] == metadata["steps"]


def test_chat_in_a_chain(chat: ChatRaLMSpec) -> None:
    chain = (
        ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{q}")])
        | chat
        | StrOutputParser()
    )
    answer = chain.invoke({"q": QUESTIONS[2]})
    assert answer
    assert "".join(chain.stream({"q": QUESTIONS[2]})) == answer


def test_the_document_stands_at_the_head_of_the_system_turn(chat: ChatRaLMSpec) -> None:
    prompt = chat._prompt(
        chat.engine, [SystemMessage("Be brief."), HumanMessage("Why?")]
    )
    weights = chat.engine.weights
    assert list(prompt.head) == weights.tokenize("<|im_start|>system\n", special=True)
    after = b"".join(map(weights.piece, prompt.tail)).decode()
    assert after.startswith("Be brief.")
    assert b"".join(map(weights.piece, prompt.question)).decode() == "Why?"


def test_without_a_system_turn_the_document_opens_the_first_user_turn(
    chat: ChatRaLMSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for m in messages %}"
        "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}:{{ m.content }}]"
        "{% endfor %}"
    )
    weights = chat.engine.weights
    with monkeypatch.context() as patch:
        patch.setattr(weights, "metadata", lambda key: template)
        patch.setitem(vars(chat.engine), "template", ChatTemplate(weights))
        prompt = chat._prompt(
            chat.engine,
            [
                AIMessage("Hello."),
                HumanMessage("Why?"),
                AIMessage("So."),
                HumanMessage("And?"),
            ],
        )
    before = b"".join(map(weights.piece, prompt.head)).decode()
    after = b"".join(map(weights.piece, prompt.tail)).decode()
    assert before == "[assistant:Hello.][user:"
    assert after == f"{chat.system_prompt}\n\nWhy?][assistant:So.][user:And?]"


def test_neighbouring_turns_of_one_role_are_merged(chat: ChatRaLMSpec) -> None:
    twice = chat._prompt(chat.engine, [HumanMessage("One."), HumanMessage("Two.")])
    once = chat._prompt(chat.engine, [HumanMessage("One.\n\nTwo.")])
    assert twice == once


def test_a_call_may_override_settings(llm: RaLMSpecLLM) -> None:
    result = llm.generate(["Once upon a time"], max_tokens=3)
    assert result.generations[0][0].generation_info["speculation"]["tokens_kept"] <= 3  # type: ignore[index]
    whole = llm.invoke("Once upon a time")
    word = whole.split()[2]
    assert llm.invoke("Once upon a time", stop=[word]) == whole.partition(word)[0]
    assert llm.bind(stop=[word]).invoke("Once upon a time") == whole.partition(word)[0]


def test_a_stop_string_never_leaves_the_stream(llm: RaLMSpecLLM) -> None:
    whole = llm.invoke("Once upon a time")
    stop = whole[len(whole) // 2 :][:3]
    parts = list(llm.stream("Once upon a time", stop=[stop]))
    assert "".join(parts) == whole.partition(stop)[0]


def test_new_tokens_are_called_back(llm: RaLMSpecLLM, chat: ChatRaLMSpec) -> None:
    class Listener(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard = ""

        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            self.heard += token

    for stream in (llm.stream, chat.stream):
        listener = Listener()
        config: Any = {"callbacks": [listener]}
        chunks: list[Any] = list(stream(QUESTIONS[0], config=config))
        said = [c if isinstance(c, str) else str(c.text) for c in chunks]
        assert listener.heard == "".join(said) != ""


def test_streaming_makes_invoke_call_back(chat: ChatRaLMSpec) -> None:
    class Listener(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard = ""

        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            self.heard += token

    for streaming in (False, True):
        listener = Listener()
        speaking = chat.model_copy(update={"streaming": streaming})
        answer = speaking.invoke(QUESTIONS[0], config={"callbacks": [listener]})
        assert listener.heard == (answer.text if streaming else "")


def test_a_trace_has_the_settings_of_the_call(chat: ChatRaLMSpec) -> None:
    class Listener(BaseCallbackHandler):
        def __init__(self) -> None:
            self.metadata: dict[str, Any] = {}

        def on_chat_model_start(
            self, *args: Any, metadata: Any = None, **kwargs: Any
        ) -> None:
            self.metadata = metadata

    listener = Listener()
    chat.invoke(QUESTIONS[0], max_tokens=3, config={"callbacks": [listener]})
    assert listener.metadata["ls_provider"] == "ralmspec"
    assert listener.metadata["ls_model_name"] == chat.engine.path.stem
    assert listener.metadata["ls_temperature"] == 0
    assert listener.metadata["ls_max_tokens"] == 3


def test_a_pickled_chat_model_answers_as_it_did(gguf: str, model: Model) -> None:
    documents = [Document(page_content=text) for text in QUESTIONS[:9]]
    embeddings = DeterministicFakeEmbedding(size=8)
    store = InMemoryVectorStore.from_documents(documents, embeddings)
    chat = ChatRaLMSpec(model_path=gguf, retriever=store, max_tokens=8)
    answer = chat.invoke(QUESTIONS[0])
    other = pickle.loads(pickle.dumps(chat))  # noqa: S301  our own
    assert other.invoke(QUESTIONS[0]).text == answer.text


def test_speculation_off_asks_the_store_at_every_step(chat: ChatRaLMSpec) -> None:
    slow = chat.model_copy(update={"speculation": False})
    stats = slow.invoke(QUESTIONS[0]).response_metadata["speculation"]
    assert stats["guesses"] == 0
    assert stats["store_calls"] == stats["steps"]


@pytest.mark.parametrize("wrap", ["store", "as_retriever"])
def test_any_vector_store_can_be_the_retriever(
    wrap: str, gguf: str, corpus: Corpus
) -> None:
    store = InMemoryVectorStore.from_documents(corpus.documents[:30], corpus.embeddings)
    given = store if wrap == "store" else store.as_retriever(search_kwargs={"k": 2})
    llm = RaLMSpecLLM(model_path=gguf, retriever=given, max_tokens=8)
    assert llm.invoke(QUESTIONS[0])
    assert llm.retriever.k == (4 if wrap == "store" else 2)


def test_a_filter_is_a_wall(gguf: str, corpus: Corpus) -> None:
    store = InMemoryVectorStore(corpus.embeddings)
    for number, document in enumerate(corpus.documents[:40]):
        tenant = "red" if number % 2 else "blue"
        copy = document.model_copy(update={"metadata": {"tenant": tenant}})
        store.add_documents([copy])
    for tenant in ("red", "blue"):
        retriever = RaLMSpecRetriever(
            vectorstore=store,
            filter=lambda d, tenant=tenant: d.metadata["tenant"] == tenant,
        )
        chat = ChatRaLMSpec(model_path=gguf, retriever=retriever, max_tokens=24)
        for question in QUESTIONS[:3]:
            used = chat.invoke(question).response_metadata["documents"]
            assert {d.metadata["tenant"] for d in used} == {tenant}


def test_retriever_batch_is_one_store_call(
    retriever: RaLMSpecRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = [retriever.invoke(question) for question in QUESTIONS]
    calls: list[int] = []
    search = retriever.store.search

    def spy(queries: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(queries))
        return search(queries, *args, **kwargs)

    monkeypatch.setattr(retriever.store, "search", spy)
    assert retriever.batch(QUESTIONS) == one_by_one
    assert asyncio.run(retriever.abatch(QUESTIONS)) == one_by_one
    assert calls == [len(QUESTIONS)] * 2
    assert [len(d) for d in retriever.batch(QUESTIONS, k=2)] == [2] * len(QUESTIONS)


def test_retriever_batch_opens_a_run_for_every_query(
    retriever: RaLMSpecRetriever,
) -> None:
    class Listener(BaseCallbackHandler):
        def __init__(self) -> None:
            self.started: list[str] = []
            self.ended = 0

        def on_retriever_start(
            self, serialized: Any, query: str, **kwargs: Any
        ) -> None:
            self.started.append(query)

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            self.ended += len(documents)

    listener = Listener()
    retriever.batch(QUESTIONS[:3], config={"callbacks": [listener]})
    assert listener.started == QUESTIONS[:3]
    assert listener.ended == 9


def test_retriever_session_guesses_and_verifies(retriever: RaLMSpecRetriever) -> None:
    session = retriever.session(k=1)
    assert session.speculate(QUESTIONS[0]) == []
    truth = session.verify(QUESTIONS[:3])
    assert truth == [documents[:1] for documents in retriever.batch(QUESTIONS[:3])]
    assert session.speculate(QUESTIONS[1]) == truth[1]
    assert session.verify([]) == []
    assert session.stats.store_calls == 1
    assert session.stats.queries == 3


def test_num_tokens_are_the_models(llm: RaLMSpecLLM) -> None:
    text = "one two three"
    assert llm.get_token_ids(text) == llm.engine.weights.tokenize(text)
    assert llm.get_num_tokens(text) == len(llm.get_token_ids(text))


def test_a_cached_answer_is_not_served_from_a_changed_store(
    gguf: str, corpus: Corpus
) -> None:
    store = InMemoryVectorStore.from_documents(corpus.documents[:5], corpus.embeddings)
    chat = ChatRaLMSpec(
        model_path=gguf, retriever=store, max_tokens=4, cache=InMemoryCache()
    )
    question = QUESTIONS[0]
    first = chat.invoke(question).response_metadata["documents"]
    assert chat.invoke(question).response_metadata["documents"] == first
    better = Document(page_content=question, id="better")
    store.add_documents([better])
    assert chat.invoke(question).response_metadata["documents"][0].id == "better"


def test_a_copy_with_another_filter_is_another_retriever(corpus: Corpus) -> None:
    store = InMemoryVectorStore.from_documents(corpus.documents[:20], corpus.embeddings)
    titles = [document.metadata["title"] for document in corpus.documents[:2]]
    one = RaLMSpecRetriever(
        vectorstore=store, filter=lambda d: d.metadata["title"] == titles[0]
    )
    other = one.model_copy(
        update={"filter": lambda d: d.metadata["title"] == titles[1]}
    )
    assert {d.metadata["title"] for d in one.invoke("x")} == {titles[0]}
    assert {d.metadata["title"] for d in other.invoke("x")} == {titles[1]}
    assert one.key != other.key
    with pytest.raises(ValidationError, match="frozen"):
        one.filter = None  # type: ignore[misc]


def test_a_copy_with_another_context_has_it(llm: RaLMSpecLLM) -> None:
    assert llm.engine.n_ctx == 2048
    copy = llm.model_copy(update={"n_ctx": 512})
    assert copy.engine.n_ctx == 512
    assert copy.engine.weights is llm.engine.weights
    with pytest.raises(UnknownArgumentError, match=r"'n_cxt'.*'n_ctx'"):
        llm.model_copy(update={"n_cxt": 512})


@pytest.mark.parametrize("kind", [RaLMSpecLLM, ChatRaLMSpec, ChatRapid])
def test_a_loaded_model_needs_its_file_no_more(
    kind: Any,
    gguf: str,
    retriever: RaLMSpecRetriever,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"context": "Lists."} if kind is ChatRapid else {"retriever": retriever}
    file = tmp_path / "model.gguf"
    file.symlink_to(gguf)
    monkeypatch.chdir(tmp_path)
    face = kind(model_path="model.gguf", max_tokens=8, n_ctx=1024, **own)
    answer = texts(face.stream(QUESTIONS[0]))
    monkeypatch.chdir(tmp_path.parent)
    assert texts([face.invoke(QUESTIONS[0])]) == answer
    file.unlink()
    file.write_bytes(b"something else")
    monkeypatch.chdir(tmp_path)
    assert texts([face.invoke(QUESTIONS[0])]) == answer
    assert texts(face.stream(QUESTIONS[0])) == answer
    assert face.get_num_tokens("one two") == 2
    face.n_ctx = 512  # only now the file is looked at
    with pytest.raises(ModelFileError, match=r"model\.gguf"):
        face.invoke(QUESTIONS[0])


def texts(pieces: Iterable[Any]) -> str:
    return "".join(p if isinstance(p, str) else str(p.text) for p in pieces)


def test_an_assigned_argument_loads_another_model(llm: RaLMSpecLLM) -> None:
    first = llm.engine
    assert llm.engine is first
    llm.n_ctx = 512
    assert llm.engine is not first
    assert llm.engine.n_ctx == 512
    assert llm.engine.weights is first.weights
    with pytest.raises(ContextOverflowError, match="n_ctx=512"):
        llm.invoke("word " * 600)
    llm.n_ctx = 2048
    assert llm.engine is first


def test_another_model_has_read_no_context_and_timed_no_drafts(gguf: str) -> None:
    text = "A list is sorted by sort."
    chat = ChatRapid(model_path=gguf, context=text, n_ctx=512, max_tokens=8)
    chat.invoke(QUESTIONS[0])
    contexts = chat._contexts
    assert contexts._kept
    assert chat._costs
    assert chat._estimates
    chat.invoke(QUESTIONS[1])
    assert chat._contexts is contexts
    chat.n_ctx = 384
    assert chat.engine.n_ctx == 384
    assert not chat._contexts._kept
    assert not chat._costs
    assert not chat._estimates


def test_invalidate_makes_cached_answers_stale(gguf: str, corpus: Corpus) -> None:
    store = InMemoryVectorStore.from_documents(corpus.documents[:5], corpus.embeddings)
    chat = ChatRaLMSpec(
        model_path=gguf, retriever=store, max_tokens=4, cache=InMemoryCache()
    )
    used = chat.invoke(QUESTIONS[0]).response_metadata["documents"][0]
    store.delete([used.id])
    store.add_documents([Document(page_content="something else", id="else")])
    chat.retriever.invalidate()
    again = chat.invoke(QUESTIONS[0]).response_metadata["documents"]
    assert used.id not in {document.id for document in again}


def test_a_run_is_traced_even_if_the_model_is_missing(
    retriever: RaLMSpecRetriever,
) -> None:
    class Listener(BaseCallbackHandler):
        def __init__(self) -> None:
            self.names: list[Any] = []
            self.errors: list[BaseException] = []

        def on_llm_start(
            self, serialized: Any, prompts: Any, *, metadata: Any = None, **kwargs: Any
        ) -> None:
            self.names.append(metadata["ls_model_name"])

        def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
            self.errors.append(error)

    listener = Listener()
    llm = RaLMSpecLLM(model_path="/no/such/thing.gguf", retriever=retriever)
    with pytest.raises(ModelFileError):
        llm.invoke("x", config={"callbacks": [listener]})
    assert listener.names == ["thing"]
    assert isinstance(listener.errors[0], ModelFileError)


async def test_retriever_takes_k_asynchronously(retriever: RaLMSpecRetriever) -> None:
    assert len(await retriever.ainvoke(QUESTIONS[0], k=2)) == 2
    with pytest.raises(UnknownArgumentError, match="'kk'"):
        await retriever.ainvoke(QUESTIONS[0], kk=2)
    with pytest.raises(UnknownArgumentError, match="'kk'"):
        retriever.invoke(QUESTIONS[0], kk=2)


def test_one_stop_string_may_be_given_bare(llm: RaLMSpecLLM) -> None:
    whole = llm.invoke("Once upon a time")
    word: Any = whole.split()[3]
    assert llm.invoke("Once upon a time", stop=word) == whole.partition(word)[0]
    with pytest.raises(InvalidValueError, match="got ''"):
        llm.invoke("Once upon a time", stop=[""])


def test_a_batch_is_refused_before_any_of_it_runs(llm: RaLMSpecLLM) -> None:
    llm.engine.forget_prefixes()
    with pytest.raises(ContextOverflowError):
        llm.generate(["Cats are", "word " * 3000])
    assert not llm.engine._prefixes._snapshots, "nothing was prefilled"


def test_an_image_is_refused(chat: ChatRaLMSpec) -> None:
    block = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(InvalidValueError, match="'image_url'"):
        chat.invoke([HumanMessage([{"type": "text", "text": "What?"}, block])])


def test_a_session_embeds_a_query_once(
    retriever: RaLMSpecRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = retriever.store.encode

    def spy(texts: Any) -> Any:
        encoded.extend(texts)
        return encode(texts)

    monkeypatch.setattr(retriever.store, "encode", spy)
    session = retriever.session(k=1)
    session.verify(["one"])
    session.speculate("two")
    session.verify(["two"])
    assert encoded == ["one", "two"]
