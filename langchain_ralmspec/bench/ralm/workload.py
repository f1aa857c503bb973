"""What is retrieved from: passages, their vectors, and the store that holds them."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_ralmspec.assets.cache import cache_dir
from langchain_ralmspec.assets.corpus import Passage, load_passages, stdlib_passages
from langchain_ralmspec.assets.embeddings import embed_cached
from langchain_ralmspec.assets.models import MODELS
from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.assets.targets import find_encoder
from langchain_ralmspec.bench.ralm.distractors import DistractedRows, distractor_vectors
from langchain_ralmspec.bench.servers.chroma import ChromaServer
from langchain_ralmspec.bench.servers.embeddings import hosted_embeddings
from langchain_ralmspec.bench.servers.relay import Relay
from langchain_ralmspec.errors import InvalidValueError, MissingExtraError
from langchain_ralmspec.files import replacing_folder
from langchain_ralmspec.machine import free_memory
from langchain_ralmspec.stores import (
    BM25Store,
    FaissStore,
    SentenceTransformerEmbeddings,
)

StoreName = Literal["faiss-flat", "faiss-hnsw", "chroma", "chroma-http", "bm25"]

_MODULES = {"faiss": "faiss", "chroma": "langchain_chroma", "bm25": "bm25s"}
"""What the extra of a store installs; the store's name begins with the extra's."""

_MAX_LATENCY = 10.0  # seconds each way; nothing is as far as that
# The paper's (section 5.1), for both the links and the width of building.
_HNSW_LINKS = 64
_HNSW_CONSTRUCTION = 40
_COLLECTION = "ralmspec"


@dataclass(frozen=True)
class Corpus:
    """Passages, and what embeds them; ``embedding`` names the encoder in the cache."""

    passages: list[Passage]
    embeddings: SentenceTransformerEmbeddings
    embedding: str

    @classmethod
    def load(cls, path: Path | None = None, embedding: str = "minilm") -> Corpus:
        """Read JSON lines of passages, or Python's docstrings when there is no path.

        ``embedding`` is a packaged encoder's name or a folder.
        """
        encoder = cls.of([], embedding)  # an unknown one is refused before any work
        passages = load_passages(path) if path else stdlib_passages()
        return replace(encoder, passages=passages)

    @classmethod
    def of(cls, passages: list[Passage], embedding: str) -> Corpus:
        """Passages that are there already, and an encoder by name or folder."""
        folder = find_encoder(embedding)
        name = embedding if embedding in MODELS else str(folder)
        return cls(passages, SentenceTransformerEmbeddings(str(folder)), name)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """One row for each passage; computed at first use, and kept on disk."""
        texts = [f"{p.title}. {p.text}" if p.title else p.text for p in self.passages]
        folder = cache_dir() / "embeddings"
        with bar("embedding passages") as advance:
            return embed_cached(texts, self.embeddings, self.embedding, folder, advance)

    @property
    def documents(self) -> list[Document]:
        """The passages as stores take them."""
        return [
            Document(page_content=p.text, id=p.id, metadata={"title": p.title})
            for p in self.passages
        ]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A store to measure.

    Attributes:
        distractors: random vectors in it beside the passages; FAISS only.
        latency: seconds that a request takes each way; a Chroma server only.
        embedding_server: seconds that a network adds to a request for the vectors of
            queries; None embeds them in this process.
    """

    store: StoreName
    distractors: int = 0
    latency: float = 0.0
    embedding_server: float | None = None

    def check(self) -> None:
        """Refuse, before any work, what cannot be built or is not installed."""
        if self.store not in get_args(StoreName):
            known = ", ".join(get_args(StoreName))
            raise InvalidValueError(f"unknown store {self.store!r}; known: {known}")
        if self.distractors and not self.store.startswith("faiss"):
            raise InvalidValueError(
                f"distractors are vectors in a FAISS index, but the store is "
                f"{self.store!r}; use faiss-flat or faiss-hnsw"
            )
        if self.latency and self.store != "chroma-http":
            raise InvalidValueError(
                f"a latency needs a server to be far from, but the store is "
                f"{self.store!r}; use chroma-http"
            )
        if not 0 <= self.latency <= _MAX_LATENCY:
            raise InvalidValueError(
                f"the latency must be between 0 and {1e3 * _MAX_LATENCY:g} ms, "
                f"got {1e3 * self.latency:g}"
            )
        self._check_embedding_server()
        extra = self.store.partition("-")[0]
        if importlib.util.find_spec(_MODULES[extra]) is None:
            raise MissingExtraError.of(_MODULES[extra], extra)

    @property
    def is_remote(self) -> bool:
        """Whether several calls may wait at once without computing on these cores."""
        return self.store == "chroma-http" or self.embedding_server is not None

    def _check_embedding_server(self) -> None:
        if self.embedding_server is None:
            return
        if self.store == "bm25":
            raise InvalidValueError(
                "an embedding server needs queries to embed, but the store is 'bm25', "
                "which compares words; use another one"
            )
        if not 0 <= self.embedding_server <= 2 * _MAX_LATENCY:
            raise InvalidValueError(
                "the embedding server must be between 0 and "
                f"{2e3 * _MAX_LATENCY:g} ms away, got {1e3 * self.embedding_server:g}"
            )
        if importlib.util.find_spec("langchain_openai") is None:
            raise MissingExtraError.of("langchain_openai", "bench")

    @contextmanager
    def opened(self, corpus: Corpus) -> Iterator[Any]:
        """Give the filled store, for ``RaLMSpecRetriever``, until the block ends."""
        with ExitStack() as stack:
            encoder: Embeddings = corpus.embeddings
            if self.embedding_server is not None:
                hosted = hosted_embeddings(
                    corpus.embeddings.model_path, self.embedding_server
                )
                encoder = stack.enter_context(hosted)
            if self.store == "chroma":
                yield stack.enter_context(_chroma(corpus, encoder))
            elif self.store == "chroma-http":
                far = _chroma_http(corpus, encoder, self.latency)
                yield stack.enter_context(far)
            elif self.store == "bm25":
                yield BM25Store.from_documents(corpus.documents)
            else:
                graph = self.store == "faiss-hnsw"
                yield _faiss(corpus, encoder, self.distractors, graph=graph)

    def replica(self, corpus: Corpus) -> Any:
        """What guesses are looked up in beside the session's cache.

        Built of a flat index; for Chroma and HNSW, whose answers no other index gives,
        an exact local index; none for BM25, which takes a millisecond itself.
        """
        if self.store == "faiss-flat":
            return "auto"
        if self.store == "bm25":
            return None
        return _faiss(corpus, corpus.embeddings, self.distractors, graph=False)


def _faiss(
    corpus: Corpus, encoder: Embeddings, n_distractors: int, *, graph: bool
) -> FaissStore:
    import faiss

    dimension = corpus.vectors.shape[1]
    n_rows = len(corpus.vectors) + n_distractors
    _require_memory(n_rows, dimension)
    index: Any
    if graph:
        index = faiss.IndexHNSWFlat(dimension, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _HNSW_CONSTRUCTION
        put = index.add
    else:
        index = faiss.IndexFlatIP(dimension)
        put = _in_place(index, n_rows)
    distractors = distractor_vectors(n_distractors, dimension)
    with bar("indexing") as advance:
        done = 0
        for vectors in chain([corpus.vectors], distractors):
            put(vectors)
            done += len(vectors)
            advance(done, n_rows)
    rows = DistractedRows(corpus.documents, n_distractors)
    return FaissStore(index, rows, encoder)


def _in_place(index: Any, n_rows: int) -> Any:
    """Make room in a flat index once; gives a function that writes the next rows.

    ``add`` would have it grow by doubling, and so hold up to three times the vectors
    at once.
    """
    import faiss

    dimension = index.d
    index.codes.resize(n_rows * dimension * 4)
    index.ntotal = n_rows
    rows = faiss.rev_swig_ptr(index.get_xb(), n_rows * dimension)
    table = rows.reshape(n_rows, dimension)
    n_written = 0

    def put(vectors: NDArray[np.float32]) -> None:
        nonlocal n_written
        table[n_written : n_written + len(vectors)] = vectors
        n_written += len(vectors)

    return put


def _require_memory(n_rows: int, dimension: int) -> None:
    needed = n_rows * dimension * 4
    free = free_memory()
    if free is not None and needed > free:
        raise InvalidValueError(
            f"{n_rows} vectors of {dimension} numbers take {needed / 1e9:.1f} GB, but "
            f"only {free / 1e9:.1f} GB are free; use fewer distractors"
        )


@contextmanager
def _chroma(corpus: Corpus, encoder: Embeddings) -> Iterator[Any]:
    import chromadb

    client = chromadb.EphemeralClient(_settings())
    # Such clients of one process share what they hold.
    name = f"{_COLLECTION}-{uuid.uuid4().hex}"
    try:
        _fill(client, corpus, name)
        yield _langchain_chroma(client, encoder, name)
    finally:
        client.delete_collection(name)


@contextmanager
def _chroma_http(corpus: Corpus, encoder: Embeddings, latency: float) -> Iterator[Any]:
    import chromadb

    with ExitStack() as stack:
        # A copy, so that two runs at once, or one that is killed, do no harm.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "chroma"
        shutil.copytree(_chroma_folder(corpus), folder)
        at: ChromaServer | Relay = stack.enter_context(ChromaServer(folder))
        if latency:
            at = stack.enter_context(Relay(at.port, latency))
        client = chromadb.HttpClient(at.host, at.port, settings=_settings())
        yield _langchain_chroma(client, encoder, _COLLECTION)


def _chroma_folder(corpus: Corpus) -> Path:
    """Folder of a server that holds the corpus; filled once, and kept in the cache."""
    import chromadb

    target = cache_dir() / "chroma" / _key(corpus, chromadb.__version__)
    if not target.is_dir():
        with replacing_folder(target) as folder, ChromaServer(folder) as server:
            client = chromadb.HttpClient(server.host, server.port, settings=_settings())
            _fill(client, corpus, _COLLECTION)
    return target


def _key(corpus: Corpus, version: str) -> str:
    digest = hashlib.sha256(version.encode())
    for passage in corpus.passages:
        digest.update(repr(passage).encode("utf-8", "surrogatepass"))
    digest.update(corpus.vectors.data)
    return digest.hexdigest()[:32]


def _fill(client: Any, corpus: Corpus, name: str) -> None:
    collection = client.create_collection(
        name, configuration={"hnsw": {"space": "cosine"}}
    )
    passages, size = corpus.passages, min(1000, client.get_max_batch_size())
    with bar("filling Chroma") as advance:
        for first in range(0, len(passages), size):
            part = passages[first : first + size]
            collection.add(
                ids=[p.id for p in part],
                documents=[p.text for p in part],
                metadatas=[{"title": p.title} for p in part],
                embeddings=corpus.vectors[first : first + size],
            )
            advance(first + len(part), len(passages))


def _langchain_chroma(client: Any, encoder: Embeddings, name: str) -> Any:
    from langchain_chroma import Chroma

    return Chroma(client=client, collection_name=name, embedding_function=encoder)


def _settings() -> Any:
    from chromadb.config import Settings

    # Anew for every client: HttpClient writes its port into what it is given.
    return Settings(anonymized_telemetry=False)
