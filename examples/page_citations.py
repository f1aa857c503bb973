"""Questions about several files read as one text, with the pages that answer them.

Needs ``model.gguf`` and a folder ``minilm``; the start page of the docs says how to get
them.
"""

import inspect
import json
import textwrap

from langchain_core.documents import Document

from langchain_ralmspec import RapidChain, SentenceTransformerEmbeddings

# %% Pages of several files
# Any loader's documents will do (PyPDFLoader gives one a page); these are on every
# machine.
FILES = {"json.dumps": json.dumps, "json.loads": json.loads, "textwrap": textwrap}
pages = [
    Document(part, metadata={"source": name, "page": number})
    for name, thing in FILES.items()
    for number, part in enumerate((inspect.getdoc(thing) or "").split("\n\n"), 1)
]
# With embeddings, the sources are the parts nearest to the question, here of about 100
# tokens each. Without, they are what the answer quotes.
chain = RapidChain(
    model_path="model.gguf",
    embeddings=SentenceTransformerEmbeddings("minilm"),
    chunk_tokens=100,
    draft_context_tokens=200,
    n_ctx=2048,
    max_tokens=32,
)

# %% A question, and the pages
question = "What does the argument sort_keys do?"
result = chain.invoke({"question": question, "context": pages})
print(result["answer"].strip())
for part in result["source_documents"]:
    place = part.metadata
    print(
        f"  {place['source']}, page {place['page']}, characters {place['start_index']} "
        f"to {place['end_index']}: {part.page_content!r:.60}"
    )

# %% Another question
# Another question: the files are not read again. A file that is added behind the
# others is read alone.
again = chain.invoke({"question": "What is indentation?", "context": pages})
print(again["answer"].strip())
print(again["speculation"]["cached_tokens"], "tokens were read before")
