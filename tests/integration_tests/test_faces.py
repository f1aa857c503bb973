"""The LLM and the chat model, as an application uses them."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    ContextOverflowError,
    InvalidValueError,
    ModelFileError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    SpeculationStats,
    UnknownArgumentError,
    documents_of,
)
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.templates import ChatTemplate
from tests.integration_tests.conftest import QUESTIONS, Corpus, Listener


@pytest.fixture
def llm(gguf: str, model: Model, retriever: RaLMSpecRetriever) -> RaLMSpecLLM:
    return RaLMSpecLLM(model_path=gguf, retriever=retriever, max_tokens=24)


@pytest.fixture
def chat(gguf: str, model: Model, retriever: RaLMSpecRetriever) -> ChatRaLMSpec:
    return ChatRaLMSpec(model_path=gguf, retriever=retriever, max_tokens=24)


def texts(pieces: Iterable[Any]) -> str:
    return "".join(p if isinstance(p, str) else str(p.text) for p in pieces)


def n_read(message: AIMessage) -> int:
    """Tokens of the prompt that a message answers."""
    assert message.usage_metadata
    return message.usage_metadata["input_tokens"]


@pytest.mark.parametrize("name", ["llm", "chat"])
async def test_every_way_in_gives_one_answer(
    name: str, request: pytest.FixtureRequest
) -> None:
    face: Any = request.getfixturevalue(name)
    prompt, other = "Question: How do I copy an object?\nAnswer:", "Once"
    answer = texts([face.invoke(prompt)])
    assert answer
    assert texts(face.stream(prompt)) == answer
    assert texts(face.batch([prompt, other])[:1]) == answer
    assert texts([await face.ainvoke(prompt)]) == answer
    assert texts((await face.abatch([other, prompt]))[1:]) == answer
    assert texts([piece async for piece in face.astream(prompt)]) == answer


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
        assert {d.id for d in documents_of(generation)} == ids
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
    assert documents_of(message)
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
    prompt = "Once upon a time"
    ((generation,),) = llm.generate([prompt], max_tokens=3).generations
    assert generation.generation_info
    assert generation.generation_info["speculation"]["tokens_kept"] <= 3
    whole = llm.invoke(prompt)
    word: Any = whole.split()[2]
    for answer in (
        llm.invoke(prompt, stop=[word]),
        llm.invoke(prompt, stop=word),  # one may be given bare
        llm.bind(stop=[word]).invoke(prompt),
    ):
        assert answer == whole.partition(word)[0]
    within = whole[len(whole) // 2 :][:3]
    parts = llm.stream(prompt, stop=[within])
    assert "".join(parts) == whole.partition(within)[0]
    with pytest.raises(InvalidValueError, match="got ''"):
        llm.invoke(prompt, stop=[""])


def test_new_tokens_are_called_back(llm: RaLMSpecLLM, chat: ChatRaLMSpec) -> None:
    for stream in (llm.stream, chat.stream):
        listener = Listener()
        config: Any = {"callbacks": [listener]}
        said = texts(stream(QUESTIONS[0], config=config))
        assert listener.tokens == said != ""
    for streaming in (False, True):
        listener = Listener()
        speaking = chat.model_copy(update={"streaming": streaming})
        answer = speaking.invoke(QUESTIONS[0], config={"callbacks": [listener]})
        assert listener.tokens == (answer.text if streaming else "")


def test_a_trace_has_the_settings_of_the_call(chat: ChatRaLMSpec) -> None:
    listener = Listener()
    chat.invoke(QUESTIONS[0], max_tokens=3, config={"callbacks": [listener]})
    assert listener.metadata["ls_provider"] == "ralmspec"
    assert listener.metadata["ls_model_name"] == chat.engine.path.stem
    assert listener.metadata["ls_temperature"] == 0
    assert listener.metadata["ls_max_tokens"] == 3


def test_a_pickled_chat_model_answers_as_it_did(
    gguf: str, model: Model, corpus: Corpus
) -> None:
    documents = [Document(page_content=text) for text in QUESTIONS[:9]]
    store = InMemoryVectorStore.from_documents(documents, corpus.embeddings)
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
            used = documents_of(chat.invoke(question))
            assert {d.metadata["tenant"] for d in used} == {tenant}


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

    def used() -> Any:
        return documents_of(chat.invoke(QUESTIONS[0]))

    first = used()
    assert used() == first
    store.add_documents([Document(page_content=QUESTIONS[0], id="better")])
    assert used()[0].id == "better"
    # As many as before, of the same ids.
    store.add_documents([Document(page_content="something else", id="better")])
    assert used() == first


@pytest.mark.parametrize("kind", [RaLMSpecLLM, ChatRaLMSpec, ChatRapid])
def test_a_loaded_model_needs_its_file_no_more(
    kind: Any,
    gguf: str,
    retriever: RaLMSpecRetriever,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own: dict[str, Any] = {"retriever": retriever}
    if kind is ChatRapid:  # whose drafter is the model once more, in another context
        embeddings = DeterministicFakeEmbedding(size=8)
        own = {"context": "Lists.", "drafter": "self", "embeddings": embeddings}
        own |= {"exact_batches": True}
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


def test_a_copied_or_assigned_argument_loads_another_model(llm: RaLMSpecLLM) -> None:
    first = llm.engine
    assert llm.engine is first
    assert first.n_ctx == 2048
    with pytest.raises(UnknownArgumentError, match=r"'n_cxt'.*'n_ctx'"):
        llm.model_copy(update={"n_cxt": 512})
    copy = llm.model_copy(update={"n_ctx": 512})
    assert copy.engine.n_ctx == 512
    assert copy.engine.weights is first.weights
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
    assert contexts._contexts._kept
    assert chat._costs
    assert chat._estimates.sources
    chat.invoke(QUESTIONS[1])
    assert chat._contexts is contexts
    chat.n_ctx = 384
    assert chat.engine.n_ctx == 384
    assert not chat._contexts._contexts._kept
    assert not chat._costs
    assert not chat._estimates.sources


def test_a_run_is_traced_even_if_the_model_is_missing(llm: RaLMSpecLLM) -> None:
    listener = Listener()
    llm.model_path = "/no/such/thing.gguf"
    with pytest.raises(ModelFileError):
        llm.invoke("x", config={"callbacks": [listener]})
    assert listener.began == [("llm", False)]
    assert listener.metadata["ls_model_name"] == "thing"
    assert isinstance(listener.errors[0], ModelFileError)


def test_a_batch_is_refused_before_any_of_it_runs(llm: RaLMSpecLLM) -> None:
    llm.engine.forget_prefixes()
    with pytest.raises(ContextOverflowError):
        llm.generate(["Cats are", "word " * 3000])
    assert not llm.engine._prefixes._kept, "nothing was prefilled"


def test_an_image_is_refused(chat: ChatRaLMSpec) -> None:
    block = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(InvalidValueError, match="'image_url'"):
        chat.invoke([HumanMessage([{"type": "text", "text": "What?"}, block])])


@pytest.mark.parametrize("speculation", [True, False])
@pytest.mark.parametrize("kind", [RaLMSpecLLM, ChatRaLMSpec])
def test_a_greeting_is_answered_without_documents(
    kind: Any, speculation: bool, gguf: str
) -> None:
    documents = [Document("A heap is a binary tree.", id="heap")]
    retriever = RaLMSpecRetriever.from_documents(documents)
    face = kind(
        model_path=gguf, retriever=retriever, max_tokens=8, speculation=speculation
    )
    run = face.start("Hello")
    assert "".join(run)
    assert run.steps[0].hits == ()


def test_messages_are_counted_as_the_model_reads_them(
    gguf: str, retriever: RaLMSpecRetriever
) -> None:
    text = "A list is sorted by its method sort. " * 9
    told = [HumanMessage(QUESTIONS[0]), AIMessage("So."), HumanMessage(QUESTIONS[1])]
    bound = ChatRapid(model_path=gguf, context=text, n_ctx=0, max_tokens=2)
    assert "max_input_tokens" not in (bound.profile or {})
    count = bound.get_num_tokens_from_messages(told)
    assert count == n_read(bound.invoke(told))
    assert (bound.profile or {})["max_input_tokens"] == bound.engine.n_ctx

    free = bound.model_copy(update={"context": None})
    there = [HumanMessage(f"{text}\n\n{QUESTIONS[0]}"), *told[1:]]
    used = n_read(free.invoke(there))
    assert free.get_num_tokens_from_messages(there) == used

    chat = ChatRaLMSpec(model_path=gguf, retriever=retriever, max_tokens=2)
    used = n_read(chat.invoke(told))
    shown = documents_of(chat.invoke(told))[-1].page_content
    assert chat.get_num_tokens_from_messages(told) < used
    assert used - chat.get_num_tokens_from_messages(told) <= (
        chat.get_num_tokens(shown) + 9
    )
    # What is no conversation is counted all the same: LangChain trims by that.
    assert chat.get_num_tokens_from_messages(told[1:2]) > 0
    assert chat.get_num_tokens_from_messages([ToolMessage("x", tool_call_id="1")]) > 0
    long = chat.get_num_tokens_from_messages([HumanMessage("word " * 90_000)])
    assert long > 90_000
    most = chat.get_num_tokens_from_messages(told) - 1
    kept = trim_messages(told, max_tokens=most, token_counter=chat)
    assert 0 < len(kept) < 3
