"""Questions about several files read as one text, with the page of each quote.

Needs ``model.gguf``; the start page of the docs says how to get it.
"""

import inspect
import json
import textwrap

from langchain_core.documents import Document

from langchain_ralmspec import RapidChain

# %% Pages of several files
# Any loader's documents will do (PyPDFLoader gives one a page); these are on every
# machine.
FILES = {"json.dumps": json.dumps, "json.loads": json.loads, "textwrap": textwrap}
pages = [
    Document(part, metadata={"source": name, "page": number})
    for name, thing in FILES.items()
    for number, part in enumerate((inspect.getdoc(thing) or "").split("\n\n"), 1)
]
chain = RapidChain(model_path="model.gguf", n_ctx=2048, max_tokens=48)

# %% A question, and the page of each quote
question = (
    "Repeat what the text says of the argument ``sort_keys``: If ``sort_keys`` is"
)
result = chain.invoke({"question": question, "context": pages})
print(result["answer"].strip())
for quote in result["source_documents"]:
    place = quote.metadata
    print(
        f"  {place['source']}, page {place['page']}, characters {place['start_index']} "
        f"to {place['end_index']}: {quote.page_content!r:.60}"
    )

# %% Another question
# Another question: the files are not read again. A file that is added behind the
# others is read alone.
again = chain.invoke({"question": "What is indentation?", "context": pages})
print(again["answer"].strip())
print(again["speculation"]["cached_tokens"], "tokens were read before")
