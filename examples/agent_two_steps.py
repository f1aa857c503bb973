"""An agent that needs two look-ups, the second made of what the first one found.

Needs ``qwen.gguf`` and a folder ``minilm``::

    ln -sfn "$(ralmspec models path qwen2.5-coder-1.5b)" qwen.gguf

A model of this size sees by itself when to look up, so nothing forces its calls.
"""

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver

from langchain_ralmspec import ChatRapid, SentenceTransformerEmbeddings

# %% Documents of which none answers the question alone
store = InMemoryVectorStore.from_texts(
    [
        "The manager of the Oslo office is Ingrid Solberg.",
        "The manager of the Berlin office is Paul Weber.",
        "Ingrid Solberg has the phone number 555 0142.",
        "Paul Weber has the phone number 555 0199.",
    ],
    SentenceTransformerEmbeddings("minilm"),
)
look_up = create_retriever_tool(
    store.as_retriever(search_kwargs={"k": 1}),
    "look_up",
    "Look up one fact about an office or a person in the directory.",
)

# %% The agent
# The form is shown once more: this model's own template shows it with doubled braces,
# and a call that is written so is none.
RULES = """\
Each call of look_up finds one fact. Where it only names somebody, look up that name \
next. Write a call as
<tool_call>
{"name": "look_up", "arguments": {"query": "…"}}
</tool_call>"""
chat = ChatRapid(model_path="qwen.gguf", context=RULES, n_ctx=2048, max_tokens=48)
agent = create_agent(chat, [look_up], checkpointer=InMemorySaver())

# %% Each step as it is done
thread = {"configurable": {"thread_id": "1"}}


def ask(question: str) -> None:
    """Print what the agent does until it answers, a step at a time."""
    print(question)
    asked = {"messages": [("user", question)]}
    for step in agent.stream(asked, thread, stream_mode="updates"):
        for message in (m for update in step.values() for m in update["messages"]):
            if isinstance(message, ToolMessage):
                print("  found:", message.text)
            elif isinstance(message, AIMessage):
                for call in message.tool_calls:
                    print("  looks up:", call["args"]["query"])
                if message.text:
                    print("  says:", message.text)


ask("What is the phone number of the manager of the Oslo office?")

# %% The thread is resumed: the agent knows what it has found
ask("Whose phone number was that?")
print(len(agent.get_state(thread).values["messages"]), "messages are kept")
