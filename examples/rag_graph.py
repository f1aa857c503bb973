"""A RAG graph with history: one line swapped, the retrieve node gone.

Needs ``model.gguf`` and a folder ``minilm``; the start page of the docs says how to get
them.
"""

from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_ralmspec import ChatRaLMSpec, SentenceTransformerEmbeddings, documents_of

# %% Documents to answer from
store = InMemoryVectorStore.from_texts(
    [
        "heapq.heappush() pushes an item onto a heap.",
        "heapq.nsmallest() returns the n smallest elements.",
        "bisect.insort() inserts an item into a sorted list.",
    ],
    SentenceTransformerEmbeddings("minilm"),
)
# %% The prompt of the chain, and the model that takes its place
prompt = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer in one sentence."),
        ("placeholder", "{history}"),
        ("human", "{context}\n\nQuestion: {question}"),
    ]
)
# was: chat = prompt | ChatLlamaCpp(model_path="model.gguf"), behind a retrieve node
chat = ChatRaLMSpec.from_chain(
    retriever=store.as_retriever(search_kwargs={"k": 2}),
    prompt=prompt,
    model_path="model.gguf",
    max_tokens=32,
)


# %% A graph with one node: it answers, and says what from
class State(MessagesState):
    """The conversation, and what the last answer was found in."""

    context: list[Document]


def answer(state: State) -> dict[str, object]:
    """Look the last question up, and answer it behind the history."""
    message = chat.invoke(state["messages"])
    return {"messages": [message], "context": documents_of(message)}


builder = StateGraph(State)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = builder.compile(checkpointer=InMemorySaver())

# %% A conversation
thread = {"configurable": {"thread_id": "1"}}
for question in ("How do I push an item onto a heap?", "And the smallest ones?"):
    state = graph.invoke({"messages": [("user", question)]}, thread)
    print(question, "→", state["messages"][-1].text.strip())
    print("  from:", state["context"][0].page_content)
print(len(state["messages"]), "messages are kept")
