"""Whatever is sent, an answer is exact and can be stored, or the error is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import BaseMessage, HumanMessage, messages_to_dict
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    RaLMSpecError,
    RaLMSpecLLM,
    documents_of,
)
from langchain_ralmspec.base.messages import turns_of
from langchain_ralmspec.engine import Model
from langchain_ralmspec.text import well_formed
from tests.integration_tests.fuzz import strategies as some


class Embeddings(DeterministicFakeEmbedding):
    """Takes halves of characters, as LangChain's own does not."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return super().embed_documents(list(map(well_formed, texts)))


EMBEDDINGS = Embeddings(size=16)


def store_of(documents: list[Document]) -> InMemoryVectorStore:
    return InMemoryVectorStore.from_documents(documents, EMBEDDINGS)


def outcome(answer: Callable[[], Any]) -> Any:
    """What a call gives; every error that it may raise says what to do."""
    try:
        return answer()
    except RaLMSpecError as error:
        return type(error), str(error)


@some.examples(12)
@given(some.conversations(), some.documents, some.stop_strings)
def test_a_conversation(
    gguf: str,
    model: Model,
    asked: list[BaseMessage],
    documents: list[Document],
    stop: list[str],
) -> None:
    chat = ChatRaLMSpec(
        model_path=gguf,
        retriever=store_of(documents),
        max_tokens=6,
        retrieval_stride=2,
        speculation_stride=2,
        max_document_tokens=40,
    )
    sequential = chat.model_copy(update={"speculation": False})

    def answered(by: ChatRaLMSpec) -> Any:
        message = by.invoke(asked, stop=stop)
        stored = json.dumps(messages_to_dict([message]), allow_nan=False)
        assert stored.encode()
        assert not any(well_formed(one) in message.text for one in stop)
        found = [(d.id, d.page_content) for d in documents_of(message)]
        return message.text, found, message.usage_metadata

    expected = outcome(lambda: answered(sequential))
    assert outcome(lambda: answered(chat)) == expected
    if isinstance(expected[0], str):
        pieces = [chunk.text for chunk in sequential.stream(asked, stop=stop)]
        assert "".join(pieces) == expected[0]


@some.examples(60)
@given(some.conversations())
def test_only_the_template_writes_control_tokens(
    model: Model, asked: list[BaseMessage]
) -> None:
    def controls(turns: list[dict[str, str]]) -> list[int]:
        before, after = model.template.around(turns, "Be brief.")
        known = set(model.weights.markers.controls.values())
        return [token for token in [*before, *after] if token in known]

    try:
        turns = turns_of(asked)
    except RaLMSpecError:
        return
    plain = [{"role": turn["role"], "content": "x"} for turn in turns]
    assert controls(turns) == controls(plain)


@some.examples(6)
@given(some.said, some.documents, st.booleans())
def test_a_completion(
    gguf: str, model: Model, prompt: str, documents: list[Document], special: bool
) -> None:
    llm = RaLMSpecLLM(
        model_path=gguf,
        retriever=store_of(documents),
        parse_special=special,
        max_tokens=5,
        retrieval_stride=2,
        max_document_tokens=40,
    )
    sequential = llm.model_copy(update={"speculation": False})
    expected = outcome(lambda: sequential.invoke(prompt))
    assert outcome(lambda: llm.invoke(prompt)) == expected
    assert llm.get_num_tokens(prompt) > 0


# A question of several paragraphs may look like a text and a question.
@pytest.mark.filterwarnings("ignore:taking .* for the question")
@pytest.mark.parametrize("bound", [True, False])
@some.examples(6)
@given(some.said, some.said)
def test_a_long_context(gguf: str, bound: bool, context: str, question: str) -> None:
    if bound:
        chat, text = ChatRapid(model_path=gguf, context=context), question
    else:
        chat, text = ChatRapid(model_path=gguf), f"{context}\r\n \r\n{question}"
    chat.max_tokens = 4
    message = outcome(lambda: chat.invoke([HumanMessage(text)]))
    if isinstance(message, BaseMessage):
        json.dumps(messages_to_dict([message]), allow_nan=False)
