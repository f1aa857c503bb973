"""An answer with footnotes: which document each part of it was written under.

Needs ``model.gguf`` and a folder ``minilm``; the README says how to get them.
"""

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    ChatRaLMSpec,
    SentenceTransformerEmbeddings,
    documents_of,
)

DOCS = "https://docs.python.org/3/library"
store = InMemoryVectorStore.from_documents(
    [
        Document(text, metadata={"title": title, "source": f"{DOCS}/{page}.html"})
        for title, page, text in (
            ("argparse", "argparse", "ArgumentParser parses command line arguments."),
            ("add_argument", "argparse", "add_argument() says how one is parsed."),
            ("sys.argv", "sys", "sys.argv is the list of command line arguments."),
        )
    ],
    SentenceTransformerEmbeddings("minilm"),
)
chat = ChatRaLMSpec(
    model_path="model.gguf", retriever=store, max_tokens=48, output_version="v1"
)
message = chat.invoke("How do I parse arguments?")

(block,) = message.content_blocks
cited = block.get("annotations", [])
for each in cited:
    part = message.text[each["start_index"] : each["end_index"]]
    print(f"{part}[{each['extras']['document'] + 1}]", end="")
print()
notes = {each["extras"]["document"]: each for each in cited}
for number, document in enumerate(documents_of(message)):
    print(f"[{number + 1}] {notes[number]['title']}, {notes[number]['url']}")
    print(f"    {document.page_content}")
