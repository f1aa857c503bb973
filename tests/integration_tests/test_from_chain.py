"""The parts of a chain that a model takes, and those that it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_community.chat_models import ChatLlamaCpp
from langchain_community.llms import LlamaCpp
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import (
    ChatPromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
)

from langchain_ralmspec import (
    ChatRaLMSpec,
    ContextOverflowError,
    InvalidValueError,
    UnknownArgumentError,
)
from langchain_ralmspec.base.chain_prompt import ChainPrompt
from tests.integration_tests.test_swap import QUESTIONS, TUTORIAL, WITH_HISTORY

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStoreRetriever

    from langchain_ralmspec.engine import Model


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("What of {context}? {question}", "must be a prompt template"),
        (PromptTemplate.from_template("What? {question}"), "no {context}"),
        (PromptTemplate.from_template("{context}"), "one variable beside"),
        (PromptTemplate.from_template("{context} {a} {b}"), r"\['a', 'b'\]"),
        (PromptTemplate.from_template("{context} {context} {a}"), "got 2 times"),
        (
            ChatPromptTemplate.from_messages(
                [
                    MessagesPlaceholder("one"),
                    MessagesPlaceholder("two"),
                    ("human", "{context} {q}"),
                ]
            ),
            r"\['one', 'two'\]",
        ),
    ],
)
def test_a_prompt_that_cannot_serve_is_refused(
    prompt: Any, said: str, passages: VectorStoreRetriever
) -> None:
    with pytest.raises(ValueError, match=said):
        ChatRaLMSpec.from_chain(
            retriever=passages, prompt=prompt, model_path="model.gguf"
        )


def test_where_no_model_is_given_both_ways_are_named(
    passages: VectorStoreRetriever,
) -> None:
    with pytest.raises(InvalidValueError, match=r"llm=….*model_path=…"):
        ChatRaLMSpec.from_chain(retriever=passages, prompt=TUTORIAL)
    arguments: dict[str, Any] = {"llm": object(), "retriever": passages}
    with pytest.raises(UnknownArgumentError, match="from_chain"):
        ChatRaLMSpec(**arguments)


@pytest.mark.parametrize(
    "beside", [{"system_prompt": "Be brief."}, {"document_position": "head"}]
)
def test_what_a_prompt_says_itself_is_refused(
    beside: dict[str, Any], gguf: str, passages: VectorStoreRetriever
) -> None:
    parts: dict[str, Any] = {"retriever": passages, "model_path": gguf}
    with pytest.raises(ValueError, match="has no effect beside prompt="):
        ChatRaLMSpec.from_chain(prompt=TUTORIAL, **beside, **parts)


def test_where_the_question_stands_is_known() -> None:
    hub = "Question: {question} \nContext: {context} \nAnswer:"
    for template, leads in (
        (TUTORIAL, False),
        (ChatPromptTemplate.from_template(hub), True),
    ):
        assert ChainPrompt.of(template).question_leads == leads
    assert not ChainPrompt.of(WITH_HISTORY).question_leads


def test_an_answer_can_be_watched_whatever_is_asked(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    chat = ChatRaLMSpec.from_chain(
        retriever=passages, model_path=gguf, prompt=WITH_HISTORY, max_tokens=8
    )
    values: dict[str, Any] = {"input": "What?", "chat_history": [("human", "Hi.")]}
    said = chat.invoke(values).text  # type: ignore[arg-type]
    run = chat.start(values)
    assert "".join(run) == said
    assert said in run.to_html()


def test_an_input_that_cannot_serve_is_refused(
    gguf: str, model: Model, passages: VectorStoreRetriever
) -> None:
    parts: dict[str, Any] = {"retriever": passages, "model_path": gguf}
    chat = ChatRaLMSpec.from_chain(prompt=TUTORIAL, **parts)
    talk: Any = ChatRaLMSpec.from_chain(prompt=WITH_HISTORY, **parts)
    for history in ("Human: hi", [3]):
        with pytest.raises(InvalidValueError, match="history"):
            talk.invoke({"input": "What?", "chat_history": history})
    for values in ({}, {"question": 3}, {"question": "a", "more": "b"}):
        with pytest.raises(InvalidValueError, match="the input must have 'question'"):
            chat.invoke(values)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="user message"):
        chat.invoke([AIMessage("That.")])
    small = ChatRaLMSpec.from_chain(prompt=TUTORIAL, n_ctx=256, **parts)
    with pytest.raises(ContextOverflowError, match=r"of documents and max_tokens=256"):
        small.invoke(QUESTIONS[0])
    with pytest.raises(ContextOverflowError, match="trim_messages"):
        chat.invoke([HumanMessage("heap " * 3000), AIMessage("So?"), HumanMessage("a")])


def test_the_arguments_of_a_llama_cpp_model_are_taken(
    gguf: str, passages: VectorStoreRetriever
) -> None:
    parts: dict[str, Any] = {"retriever": passages, "prompt": TUTORIAL}
    llm = ChatLlamaCpp(
        model_path=gguf,
        temperature=0.5,
        top_p=0.9,
        rope_freq_scale=0.5,
        verbose=False,
        tags=["kept"],
    )
    chat = ChatRaLMSpec.from_chain(llm=llm, temperature=0.0, **parts)
    assert (chat.model_path, chat.n_ctx, chat.repeat_penalty) == (gguf, 2048, 1.1)
    assert (chat.temperature, chat.top_p) == (0.0, 0.9)
    assert (chat.n_batch, chat.rope_freq_base, chat.rope_freq_scale) == (512, 0, 0.5)
    assert (chat.retrieval_policy, chat.n_documents) == ("once", 4)
    assert chat.tags == ["kept"]
    bound = llm.bind(stop=["\n"], max_tokens=9).bind(max_tokens=8)
    chat = ChatRaLMSpec.from_chain(llm=bound, **parts)
    assert (chat.stop, chat.max_tokens) == (["\n"], 8)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_kwargs": {"min_p": 0.1}}, "give what is in it as arguments"),
        ({"grammar_path": "list.gbnf"}, "give the file.s text as grammar=…"),
        ({"lora_path": "adapter.gguf"}, "merge the adapter"),
    ],
)
def test_what_a_llama_cpp_model_has_and_nothing_stands_for_is_refused(
    changed: dict[str, Any], said: str, gguf: str, passages: VectorStoreRetriever
) -> None:
    llm = ChatLlamaCpp(model_path=gguf, verbose=False)
    for name, value in changed.items():
        setattr(llm, name, value)
    parts: dict[str, Any] = {"retriever": passages, "prompt": TUTORIAL}
    with pytest.raises(UnknownArgumentError, match=said):
        ChatRaLMSpec.from_chain(llm=llm, **parts)
    with pytest.raises(InvalidValueError, match="llm must be a ChatLlamaCpp"):
        ChatRaLMSpec.from_chain(llm=passages, **parts)
    tools = ChatLlamaCpp(model_path=gguf, verbose=False).bind(tools=[])
    with pytest.raises(UnknownArgumentError, match="tools"):
        ChatRaLMSpec.from_chain(llm=tools, **parts)


@pytest.mark.parametrize("unbounded", [-1, 0, None])
def test_values_that_mean_something_else_there(
    unbounded: int | None, gguf: str, passages: VectorStoreRetriever
) -> None:
    parts: dict[str, Any] = {"retriever": passages, "prompt": TUTORIAL}
    llm = LlamaCpp(model_path=gguf, verbose=False, top_k=-1)
    llm.n_threads, llm.last_n_tokens_size = 0, -1
    llm.max_tokens = unbounded
    with pytest.raises(InvalidValueError, match=f"max_tokens={unbounded} of the llm"):
        ChatRaLMSpec.from_chain(llm=llm, **parts)
    chat = ChatRaLMSpec.from_chain(llm=llm, max_tokens=8, temperature=0.9, **parts)
    assert chat.n_threads is None
    sampler = chat._sampling({}).sampler(None)
    assert (sampler.top_k, sampler.last_n_tokens_size) == (0, 8)
    assert chat.invoke(QUESTIONS[0]).text
