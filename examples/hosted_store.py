"""A store behind a network: the model writes while the store is on its way.

Needs ``model.gguf`` and a folder ``minilm``; the start page of the docs says how to get
them. CHROMA=host:port names a server of yours; without it one is started here.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import chromadb
from langchain_chroma import Chroma

from langchain_ralmspec import ChatRaLMSpec, SentenceTransformerEmbeddings
from langchain_ralmspec.bench.servers.chroma import ChromaServer

TEXTS = [
    "argparse.ArgumentParser parses command line arguments.",
    "ArgumentParser.add_argument() says how an argument is parsed.",
    "ArgumentParser.parse_args() returns the parsed arguments.",
    "sys.argv is the list of command line arguments.",
]

with ExitStack() as stack:
    address = os.environ.get("CHROMA")
    if address is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(ChromaServer(folder))
        address = f"{server.host}:{server.port}"
    host, _, port = address.partition(":")
    store = Chroma(
        "langchain_ralmspec_example",
        SentenceTransformerEmbeddings("minilm"),
        client=chromadb.HttpClient(host, int(port)),
    )
    store.add_texts(TEXTS, ids=[f"{number}" for number in range(len(TEXTS))])

    fast = ChatRaLMSpec(model_path="model.gguf", retriever=store, max_tokens=48)
    slow = fast.model_copy(update={"speculation": False})
    question = "How do I parse arguments?"
    for name, chat in (("sequential", slow), ("speculative", fast)):
        message = chat.invoke(question)
        stats = message.response_metadata["speculation"]
        print(f"{name}: {message.text.strip()!r:.60}")
        print(
            f"  {stats['queries']} queries in {stats['store_calls']} calls, "
            f"{stats['seconds_waiting']:.2f} s of {stats['seconds']:.2f} s waiting"
        )
