"""LangGraph's ``interrupt()`` where documents are looked up: the graph pauses."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langchain_ralmspec import ChatRaLMSpec, ChatRapid


class State(TypedDict):
    """What is said."""

    answer: str


def asking_for_documents(_: str) -> list[Document]:
    return [Document(interrupt("Which document?"))]


def chat_that_asks(place: str, gguf: str) -> Any:
    own: dict[str, Any] = {"model_path": gguf, "max_tokens": 4}
    asking = RunnableLambda(asking_for_documents)
    if place == "context":
        return ChatRapid(context=asking, **own)
    own["retrieval_policy"] = "once"
    if place == "retriever":
        return ChatRaLMSpec(retriever=asking, **own)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document("Herman Melville wrote it.")])
    return ChatRaLMSpec(retriever=store, query_source=interrupt, **own)


@pytest.mark.parametrize("place", ["retriever", "query_source", "context"])
def test_a_graph_pauses_where_documents_are_asked_for(place: str, gguf: str) -> None:
    chat = chat_that_asks(place, gguf)

    def answer(_: State) -> State:
        return {"answer": chat.invoke("Who wrote it?").text}

    builder: Any = StateGraph(State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = builder.compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in graph.invoke({"answer": ""}, thread)
    resumed = graph.invoke(Command(resume="Herman Melville."), thread)
    assert "__interrupt__" not in resumed
    assert resumed["answer"]
