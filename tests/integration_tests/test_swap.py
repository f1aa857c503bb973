"""A chain that retrieves once, and the model that takes its place."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import (
    ChatPromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    ChatRaLMSpec,
    InvalidValueError,
    RaLMSpecLLM,
    documents_of,
)
from langchain_ralmspec.base.chain_prompt import ChainPrompt
from langchain_ralmspec.base.messages import turns_of
from langchain_ralmspec.engine.heads import FEWEST, LEAST_PART
from langchain_ralmspec.engine.sequence import Sequence
from langchain_ralmspec.engine.slots import Slots
from langchain_ralmspec.ralm.prompt import BLOCK
from langchain_ralmspec.stores.base import Hit

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.vectorstores import VectorStoreRetriever

    from langchain_ralmspec.engine import Model
    from tests.integration_tests.conftest import Corpus

TUTORIAL = ChatPromptTemplate.from_template(
    "Answer the question based only on the following context:\n{context}\n\n"
    "Question: {question}\n"
)
HUB = ChatPromptTemplate.from_template(
    "You are an assistant for question-answering tasks. Use the following pieces of "
    "retrieved context to answer the question. If you don't know the answer, just say "
    "that you don't know.\nQuestion: {question} \nContext: {context} \nAnswer:"
)
WITH_HISTORY = ChatPromptTemplate.from_messages(
    [
        ("system", "Be brief. {context}"),
        MessagesPlaceholder("chat_history"),
        ("human", "{input}"),
    ]
)
QUESTIONS = (
    "How is a heap queue sorted?",
    "What does a context manager do when it exits?",
    "Which module parses command line arguments?",
    "How are dates formatted?",
)
HISTORY = [HumanMessage("Hello."), AIMessage("Hello! What would you like to know?")]


def joined(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def read_by_chain(chat: ChatRaLMSpec, prompt: Any, values: dict[str, Any]) -> list[int]:
    """What a chain's model reads: the filled prompt in the model's template."""
    turns = turns_of(prompt.format_prompt(**values).to_messages())
    rendered = chat.engine.template.render(turns)
    return chat.engine.weights.tokenize(rendered, special=True)


def read_here(
    chat: ChatRaLMSpec, asked: list[Any], documents: list[Document]
) -> list[int]:
    """What the model reads for a conversation, documents included."""
    model = chat.engine
    prompt = chat._prompt(model, asked)
    hits = [Hit(str(each.id), each, 0.0) for each in documents]
    tokens = chat._layout(model, prompt).laid_out(model.weights, hits).tokens
    return [*prompt.head, *tokens, *prompt.tail]


@pytest.mark.parametrize("prompt", [TUTORIAL, HUB, HUB.messages[0].prompt])  # type: ignore[union-attr]
def test_the_swap_reads_what_the_chain_reads(
    prompt: Any, gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    chat = ChatRaLMSpec.from_chain(
        retriever=passages, prompt=prompt, model_path=gguf, n_ctx=4096, max_tokens=4
    )
    for question in QUESTIONS:
        answer = chat.invoke(question)
        found = passages.invoke(question)
        assert [d.id for d in documents_of(answer)] == [d.id for d in found]
        assert len(answer.response_metadata["steps"]) == 1
        values = {"context": joined(found), "question": question}
        asked = [HumanMessage(question)]
        assert read_here(chat, asked, found) == read_by_chain(chat, prompt, values)
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["input_tokens"] == len(
            read_here(chat, asked, found)
        )
        counted = chat.get_num_tokens_from_messages([*asked])
        assert counted == len(read_here(chat, asked, []))


def test_history_takes_its_place(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    parts: dict[str, Any] = {"retriever": passages, "model_path": gguf, "n_ctx": 4096}
    chat = ChatRaLMSpec.from_chain(prompt=WITH_HISTORY, max_tokens=4, **parts)
    values: Any = {"input": QUESTIONS[0], "chat_history": HISTORY}
    (answer, same) = (
        chat.invoke(values),
        chat.invoke([*HISTORY, HumanMessage(QUESTIONS[0])]),
    )
    assert answer.content == same.content
    found = passages.invoke(QUESTIONS[0])
    assert [d.id for d in documents_of(answer)] == [d.id for d in found]
    here = read_here(chat, [*HISTORY, HumanMessage(QUESTIONS[0])], found)
    filled = values | {"context": joined(found)}
    assert here == read_by_chain(chat, WITH_HISTORY, filled)
    # A placeholder that may stay empty is one, too.
    optional = ChatPromptTemplate.from_messages(
        [WITH_HISTORY.messages[0], ("placeholder", "{chat_history}"), ("human", "{q}")]
    )
    chat = ChatRaLMSpec.from_chain(prompt=optional, max_tokens=4, **parts)
    other: Any = {"q": QUESTIONS[0]}
    for given in (other, other | {"chat_history": HISTORY}):
        asked = ChainPrompt.of(optional).messages(given)
        read = read_by_chain(chat, optional, given | {"context": joined(found)})
        assert read_here(chat, asked, found) == read
    # Without a placeholder it stands before the prompt's own message.
    chat = ChatRaLMSpec.from_chain(prompt=TUTORIAL, max_tokens=4, **parts)
    tokens = read_here(chat, [*HISTORY, HumanMessage(QUESTIONS[0])], found)
    text = b"".join(map(model.weights.piece, tokens)).decode()
    assert text.index("Hello!") < text.index("based only on") < text.index("Question:")


@pytest.mark.parametrize("policy", ["stride", "once", "flare", "iter-retgen"])
def test_speculation_changes_no_answer_to_a_prompt(
    policy: Any, gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    own: dict[str, Any] = {
        "max_tokens": 24,
        "retrieval_policy": policy,
        "documents_per_step": 2,
        "max_document_tokens": 100,
    }
    chat = ChatRaLMSpec.from_chain(
        retriever=passages, prompt=HUB, model_path=gguf, **own
    )
    slow = chat.model_copy(update={"speculation": False})
    for question in QUESTIONS[:2]:
        (one, other) = (chat.invoke(question), slow.invoke(question))
        assert one.content == other.content
        assert one.response_metadata["steps"] == other.response_metadata["steps"]
        assert "".join(str(c.text) for c in chat.stream(question)) == one.content


def test_once_asks_for_as_many_as_the_chain(
    gguf: str, model: Model, corpus: Corpus
) -> None:
    asked: list[int] = []

    class Counting(InMemoryVectorStore):
        def similarity_search(self, query: str, k: int = 4, **own: Any) -> Any:
            asked.append(k)
            return super().similarity_search(query, k=k, **own)

    store = Counting(corpus.embeddings)
    store.add_documents(corpus.documents[:8])
    own: dict[str, Any] = {
        "model_path": gguf,
        "prompt": TUTORIAL,
        "n_ctx": 4096,
        "max_tokens": 1,
    }
    reranked = store.as_retriever(search_kwargs={"k": 8}) | RunnableLambda(
        lambda found: found[::-1][:6]
    )
    for retriever, k, n_found in (
        (store.as_retriever(), 4, 4),
        (store.as_retriever(search_kwargs={"k": 3}), 3, 3),
        (reranked, 8, 6),
    ):
        asked.clear()
        chat = ChatRaLMSpec.from_chain(retriever=retriever, **own)
        answer = chat.invoke(QUESTIONS[0])
        assert asked == [k]
        found = retriever.invoke(QUESTIONS[0])
        assert len(found) == n_found
        assert [d.id for d in documents_of(answer)] == [d.id for d in found]


def test_the_model_decodes_the_whole_prompt(
    gguf: str, passages: VectorStoreRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ChatRaLMSpec.from_chain(
        retriever=passages, prompt=TUTORIAL, model_path=gguf, max_tokens=1,
        kv_cache_bytes=0,
    )  # fmt: skip
    chat.invoke(QUESTIONS[0])  # measures what the model can do, too
    decoded: list[int] = []
    decode = Slots.decode

    def watched(self: Slots, kv: Any, tokens: Any, **how: Any) -> Any:
        decoded.extend(tokens)
        return decode(self, kv, tokens, **how)

    monkeypatch.setattr(Slots, "decode", watched)
    for question in QUESTIONS[:3]:
        decoded.clear()
        chat.invoke(question)
        values = {"context": joined(passages.invoke(question)), "question": question}
        assert decoded == read_by_chain(chat, TUTORIAL, values)


def test_turns_of_a_conversation_are_read_once(
    gguf: str, passages: VectorStoreRetriever
) -> None:
    talk = ChatPromptTemplate.from_messages(
        [
            MessagesPlaceholder("history"),
            ("human", "By this:\n{context}\nAnswer {question}"),
        ]
    )
    chat = ChatRaLMSpec.from_chain(
        retriever=passages, prompt=talk, model_path=gguf, max_tokens=4,
        kv_cache_bytes=2**29 + 5,  # a model of its own, that has read nothing
    )  # fmt: skip
    told = [HumanMessage("What is a heap? " * 12), AIMessage("A heap is a tree. " * 12)]
    cached: list[int] = []
    for history in (told, [*told, HumanMessage("Why?"), AIMessage("So it is. " * 30)]):
        question = QUESTIONS[len(cached)]
        values: Any = {"question": question, "history": history}
        answer = chat.invoke(values)
        cached.append(answer.response_metadata["speculation"]["cached_tokens"])
        cold = chat.model_copy(update={"kv_cache_bytes": 0}).invoke(values)
        assert answer.content == cold.content
    n_told = len(chat.engine.weights.tokenize("".join(str(m.content) for m in told)))
    assert cached[0] == 0
    assert cached[1] > n_told - LEAST_PART


def test_a_bound_on_documents_holds_for_any_retriever(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    chat = ChatRaLMSpec.from_chain(
        retriever=passages | RunnableLambda(lambda found: found[:2]),
        prompt=TUTORIAL,
        model_path=gguf,
        max_tokens=1,
        max_document_tokens=20,
    )
    answer = chat.invoke(QUESTIONS[0])
    assert len(documents_of(answer)) == 2
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] < 150


def test_once_streams_every_token_and_ends_as_others_do(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    chat = ChatRaLMSpec.from_chain(
        retriever=passages, prompt=TUTORIAL, model_path=gguf, max_tokens=12
    )
    pieces = [str(chunk.text) for chunk in chat.stream(QUESTIONS[0])]
    assert len([piece for piece in pieces if piece]) > 6
    answer = chat.invoke(QUESTIONS[0])
    assert answer.response_metadata["finish_reason"] == "length"
    stop = str(answer.content)[8:12]
    stopped = chat.invoke(QUESTIONS[0], stop=[stop])
    assert stopped.content == str(answer.content).split(stop)[0]
    assert stopped.response_metadata["finish_reason"] == "stop"
    whole = (chat | StrOutputParser()).batch([QUESTIONS[0], QUESTIONS[0]])
    assert whole == [answer.content] * 2


def test_what_was_read_is_not_read_again(
    gguf: str, passages: VectorStoreRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    prefill = Sequence.prefill

    def counted(self: Sequence, tokens: Any) -> None:
        read.append(len(tokens))
        prefill(self, tokens)

    monkeypatch.setattr(Sequence, "prefill", counted)
    chat = ChatRaLMSpec(
        model_path=gguf, retriever=passages, retrieval_policy="once", max_tokens=4,
        kv_cache_bytes=2**29 + 1,  # a model of its own, that has read nothing
    )  # fmt: skip
    first = chat.invoke(QUESTIONS[0])
    n_tokens = sum(read)
    assert all(n >= FEWEST for n in read), "none of a few tokens"
    assert chat.invoke(QUESTIONS[0]).content == first.content
    assert sum(read) == n_tokens
    # The first three documents of the four need not be read.
    fewer = chat.model_copy(update={"documents_per_step": 3})
    cold = fewer.model_copy(update={"kv_cache_bytes": 0}).invoke(QUESTIONS[0])
    read.clear()
    assert fewer.invoke(QUESTIONS[0]).content == cold.content
    assert not read


def test_documents_stand_behind_a_long_history(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    chat = ChatRaLMSpec(model_path=gguf, retriever=passages, max_document_tokens=40)
    question = HumanMessage(QUESTIONS[0])
    long = [HumanMessage("Tell me of heaps. " * 40), AIMessage("They are trees.")]
    placed = {
        (position, len(history)): chat.model_copy(
            update={"document_position": position}
        )._prompt(model, [*history, question])
        for position in ("auto", "head", "question")
        for history in ([], HISTORY, long)
    }
    told = [SystemMessage("Be brief. " * 40), question]
    behind = chat.model_copy(update={"document_position": "question"})
    assert chat._prompt(model, told) == behind._prompt(model, told)
    assert placed["auto", 0] == placed["head", 0] != placed["question", 0]
    auto = chat._prompt(model, [*HISTORY, question])
    assert len(auto.head) < BLOCK
    auto = chat._prompt(model, [*long, question])
    assert len(auto.head) > BLOCK > len(auto.tail)
    # With each turn, only the newest of the history has to be read.
    next_ = [*long, question, AIMessage("By its keys."), HumanMessage("Which keys?")]
    after = chat._prompt(model, next_)
    assert after.head[:BLOCK] == auto.head[:BLOCK]


def test_a_filled_prompt_is_warned_of_once(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    chat = ChatRaLMSpec(model_path=gguf, retriever=passages, max_tokens=2)
    filled = HUB.invoke({"context": "A heap is a tree. " * 9, "question": "What?"})
    question = HumanMessage("What is a heap?")
    with pytest.warns(UserWarning, match="its last 32 tokens.* as prompt=… and send"):
        chat.invoke(filled)
    whole = ChatRaLMSpec.from_chain(
        retriever=passages, prompt=TUTORIAL, model_path=gguf, max_tokens=2
    )
    with pytest.warns(UserWarning, match="all of it.*the chain, send the question"):
        whole.invoke(filled)
    system = "Use the following pieces of retrieved context to answer the question."
    told = [SystemMessage(f"{system}\n\n" + "A heap is a tree. " * 40), question]
    other = ChatRaLMSpec(model_path=gguf, retriever=passages, max_tokens=2)
    with pytest.warns(UserWarning, match="the system message looks like.* as prompt=…"):
        other.invoke(told)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat.invoke(filled)
        chat = ChatRaLMSpec(model_path=gguf, retriever=passages, max_tokens=2)
        chat.invoke([SystemMessage(system + " Be brief."), question])
        chat.invoke("What is a heap?")
        chat.invoke("Explain, in your own words, what a heap queue is. " * 5)
        own = {"query_source": lambda messages: messages[-1].text[-5:]}
        chat = chat.model_copy(update=own)
        chat.invoke(filled)


def test_queries_are_made_of_what_query_source_gives(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    own: dict[str, Any] = {"model_path": gguf, "retriever": passages, "max_tokens": 2}
    for policy in ("once", "stride"):
        settings = {**own, "retrieval_policy": policy, "documents_per_step": 1}
        for face in (ChatRaLMSpec, RaLMSpecLLM):
            plain = face(**settings)
            odd = face(**settings, query_source=lambda _: QUESTIONS[1])
            run, other = plain.start(QUESTIONS[1]), odd.start(QUESTIONS[0])
            _ = [*run], [*other]
            assert run.documents[0].id == other.documents[0].id
    bad: list[tuple[Any, str]] = [
        (lambda _: 3, "must give a string .*got 3"),
        (lambda _: " ", "must give a .* not blank, got ' '"),
        (lambda messages: messages[7], "failed: IndexError: list index"),
    ]
    for source, said in bad:
        with pytest.raises(InvalidValueError, match=f"query_source {said}"):
            ChatRaLMSpec(**own, query_source=source).invoke("What?")


def test_a_cached_answer_is_to_one_prompt(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    own: dict[str, Any] = {"retriever": passages, "model_path": gguf, "max_tokens": 6}
    cache = InMemoryCache()
    one = ChatRaLMSpec.from_chain(prompt=TUTORIAL, cache=cache, **own)
    other = ChatRaLMSpec.from_chain(prompt=HUB, cache=cache, **own)
    assert one.invoke("What?").id == one.invoke("What?").id
    assert len(cache._cache) == 1
    other.invoke("What?")
    assert len(cache._cache) == 2


def test_an_answer_to_a_prompt_of_another_class_is_not_cached(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    class Dated(ChatPromptTemplate):
        """May tell the time."""

    parts: dict[str, Any] = {"retriever": passages, "model_path": gguf}
    prompts = (
        (Dated.from_messages(TUTORIAL.messages), True),
        (TUTORIAL.partial(), False),
        (PromptTemplate.from_template("{context} {question} not_implemented"), False),
        (
            PromptTemplate.from_template("{context} {question} {now}").partial(
                now=lambda: "now"
            ),
            True,
        ),
    )
    for prompt, is_refused in prompts:
        chat = ChatRaLMSpec.from_chain(prompt=prompt, **parts)
        assert (chat._uncacheable() is not None) == is_refused
