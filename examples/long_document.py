"""Two questions about one long text: the second one starts at once.

Needs ``model.gguf`` and a folder ``minilm``; the start page of the docs says how to get
them.
"""

import heapq
import json
import textwrap

from langchain_ralmspec import RapidChain, SentenceTransformerEmbeddings

# Any text will do; this one is on every machine.
text = "\n\n".join(
    textwrap.dedent(part.__doc__ or "")
    for part in (heapq, heapq.heappush, heapq.merge, json, json.dumps, json.loads)
)
chain = RapidChain(
    model_path="model.gguf",
    embeddings=SentenceTransformerEmbeddings("minilm"),
    n_ctx=4096,
    max_tokens=32,
)
for question in ("What is a heap?", "What does json.dumps return?"):
    result = chain.invoke({"question": question, "context": text})
    counts = result["speculation"]
    print(question, result["answer"].strip())
    print(
        f"  {counts['prompt_tokens']} tokens of prompt, {counts['cached_tokens']} of "
        f"them kept from before; first token after {counts['first_token']:.2f} s"
    )
