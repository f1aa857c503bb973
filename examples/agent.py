"""An agent that looks things up by a tool, remembers, and streams.

Needs ``model.gguf`` and a folder ``minilm``; the start page of the docs says how to get
them. So small a model does not see by itself when to look up, so its first step is made
to; leave ``middleware`` out with a larger one.
"""

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, wrap_model_call
from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver

from langchain_ralmspec import ChatRapid, SentenceTransformerEmbeddings

# %% A tool that looks things up
store = InMemoryVectorStore.from_texts(
    [
        "heapq.heappush() pushes an item onto a heap.",
        "bisect.insort() inserts an item into a sorted list.",
    ],
    SentenceTransformerEmbeddings("minilm"),
)
look_up = create_retriever_tool(
    store.as_retriever(search_kwargs={"k": 1}),
    "look_up",
    "Look up how something is done in Python.",
)


# %% A small model is made to look up first
@wrap_model_call
def look_up_first(request: ModelRequest, handler: Any) -> Any:
    """Demand a call until there is a result behind the user's message."""
    has_result = isinstance(request.messages[-1], ToolMessage)
    return handler(request.override(tool_choice=None if has_result else "any"))


# %% The agent
# `context` is what the agent knows without looking up; it is read once.
chat = ChatRapid(
    model_path="model.gguf",
    context="You help with Python. Call look_up before you answer.",
    n_ctx=2048,
    max_tokens=48,
    repeat_penalty=1.2,  # so small a model repeats itself
)
agent = create_agent(
    chat, [look_up], middleware=[look_up_first], checkpointer=InMemorySaver()
)

# %% A conversation, streamed
thread = {"configurable": {"thread_id": "1"}}
for question in ("How do I push an item onto a heap?", "And into a sorted list?"):
    print(f"\n{question}")
    asked = {"messages": [("user", question)]}
    for message, _ in agent.stream(asked, thread, stream_mode="messages"):
        if isinstance(message, ToolMessage):
            print(f"  found: {message.text}")
        elif isinstance(message, AIMessageChunk):
            print(message.text, end="", flush=True)
print("\n", len(agent.get_state(thread).values["messages"]), "messages are kept")
