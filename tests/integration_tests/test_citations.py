"""Every part of an answer is cited by the documents under which it was written."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, messages_to_dict
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from langchain_ralmspec import (
    ChatRaLMSpec,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    documents_of,
)
from langchain_ralmspec.engine import Model
from tests.integration_tests.conftest import QUESTIONS


@pytest.fixture
def chat(gguf: str, model: Model, retriever: RaLMSpecRetriever) -> ChatRaLMSpec:
    return ChatRaLMSpec(
        model_path=gguf, retriever=retriever, max_tokens=16, documents_per_step=2
    )


def summed(chunks: Any) -> AIMessageChunk:
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    assert isinstance(first, AIMessageChunk)
    return first


def annotations_of(message: AIMessage) -> list[Any]:
    """Of a message's one text block."""
    (block,) = message.content_blocks
    assert block["type"] == "text"
    assert block["text"] == message.text
    return block.get("annotations") or []


def by_letter(citations: list[Any], length: int) -> list[list[str]]:
    """The ids that each letter stands under; also that parts cover the text."""
    letters: list[list[str]] = []
    parts: dict[tuple[int, int], list[str]] = {}
    for each in citations:
        place = each["start_index"], each["end_index"]
        parts.setdefault(place, []).append(each["extras"]["document_id"])
    for (start, end), ids in parts.items():
        assert start == len(letters) < end, "neither gap nor overlap"
        letters += [ids] * (end - start)
    assert len(letters) == length
    assert all(a != b for a, b in pairwise(parts.values())), "joined"
    return letters


def of_steps(info: dict[str, Any], model: Model, length: int) -> list[list[str]]:
    """The same, told by the steps."""
    letters: list[list[str]] = []
    text = b""
    for step in info["steps"]:
        text += b"".join(map(model.weights.piece, step["tokens"]))
        n = len(text.decode("utf-8", "ignore")) - len(letters)
        letters += [step["documents"]] * n
    return letters[:length]


def test_parts_are_those_of_the_steps(
    chat: ChatRaLMSpec, gguf: str, retriever: RaLMSpecRetriever, model: Model
) -> None:
    n_parts = 0
    for number, question in enumerate(QUESTIONS[:20]):
        stop = [["the"], ["."], None][number % 3]
        message = chat.invoke(question, stop=stop)
        info, length = message.response_metadata, len(message.text)
        citations = info["citations"]
        assert by_letter(citations, length) == of_steps(info, model, length)
        for each in citations:
            document = documents_of(message)[each["extras"]["document"]]
            assert document.id == each["extras"]["document_id"]
            assert each["title"] == document.metadata["title"]
        n_parts += len(citations)
    assert n_parts > 50, "some answers have several parts"
    llm = RaLMSpecLLM(model_path=gguf, retriever=retriever, max_tokens=24)
    ((one,),) = llm.generate([QUESTIONS[0]]).generations
    assert one.generation_info
    cited = by_letter(one.generation_info["citations"], len(one.text))
    assert cited == of_steps(one.generation_info, model, len(one.text))


async def test_as_annotations_of_content_blocks(chat: ChatRaLMSpec) -> None:
    blocks = chat.model_copy(update={"output_version": "v1"})
    plain = chat.invoke(QUESTIONS[0])
    expected = plain.response_metadata["citations"]
    assert expected
    streaming = blocks.model_copy(update={"streaming": True})
    for message in (
        blocks.invoke(QUESTIONS[0]),
        await blocks.ainvoke(QUESTIONS[0]),
        streaming.invoke(QUESTIONS[0]),
        summed(blocks.stream(QUESTIONS[0])),
        summed([chunk async for chunk in blocks.astream(QUESTIONS[0])]),
    ):
        assert message.text == plain.text
        assert annotations_of(message) == expected
        assert "citations" not in message.response_metadata
        json.dumps(message.content)
    assert "index" not in json.dumps(blocks.invoke(QUESTIONS[0]).content[0]).replace(
        "_index", ""
    )
    whole = summed(chat.stream(QUESTIONS[0]))
    assert whole.response_metadata["citations"] == expected


def test_where_documents_are_and_what_they_are_called(gguf: str, model: Model) -> None:
    half = "a\ud83d"  # an id that no UTF-8 can hold
    documents = [
        Document("Cats purr.", id=half, metadata={"source": "https://cats.example/1"}),
        Document("Dogs bark.", metadata={"source": "dogs.txt", "title": "Dogs"}),
        Document("Birds sing.", metadata={"link": "ftp://birds", "title": 7}),
        Document("Fish swim."),
    ]
    retriever = RaLMSpecRetriever.from_documents(documents, kind="bm25", k=4)
    chat = ChatRaLMSpec(
        model_path=gguf, retriever=retriever, retrieval_policy="once", max_tokens=4
    )
    message = chat.invoke("cats purr dogs bark birds sing fish swim")
    told = {}
    for each in message.response_metadata["citations"]:
        text = documents_of(message)[each["extras"]["document"]].page_content
        told[text[:4]] = each.get("title"), each.get("url")
    assert told == {
        "Cats": ("https://cats.example/1", "https://cats.example/1"),
        "Dogs": ("Dogs", None),
        "Bird": ("7", None),
        "Fish": (None, None),
    }
    assert json.dumps(messages_to_dict([message]), ensure_ascii=False).encode()
    ids = [document.id for document in documents_of(message)]
    assert "a\ufffd" in ids
    assert "a\ufffd" in message.response_metadata["steps"][0]["documents"]


def test_nothing_is_cited_where_nothing_was_found(chat: ChatRaLMSpec) -> None:
    nothing: Any = RunnableLambda(lambda _: [])
    empty = chat.model_copy(update={"retriever": nothing, "output_version": "v1"})
    assert annotations_of(empty.invoke("Why?")) == []


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_calls_of_tools_are_not_cited(chat: ChatRaLMSpec) -> None:
    for version in ("v0", "v1"):
        own = chat.model_copy(update={"output_version": version, "max_tokens": 64})
        calling = own.bind_tools([add], tool_choice="add")
        for message in (
            calling.invoke("Add 1 and 2"),
            summed(calling.stream("Add 1 and 2")),
        ):
            assert message.tool_calls[0]["name"] == "add"
            assert not message.response_metadata.get("citations")
            kinds = [block["type"] for block in message.content_blocks]
            assert "text" not in kinds
        speaking = own.bind_tools([add], tool_choice="none")
        told = speaking.invoke("Why?")
        assert told.text
        if version == "v1":
            assert annotations_of(told)
