"""``ralmspec demo``: watch a local model answer, and see what speculation saves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from rich import box
from rich.console import Console
from rich.table import Table

from langchain_ralmspec.chat_model import ChatRaLMSpec
from langchain_ralmspec.cli.cache import cache_dir
from langchain_ralmspec.cli.comparison import Answer, Comparison, Row
from langchain_ralmspec.cli.corpus import Passage, load_passages, stdlib_passages
from langchain_ralmspec.cli.embedding_cache import embed_cached
from langchain_ralmspec.cli.models import model_path
from langchain_ralmspec.cli.progress import bar, find_gguf
from langchain_ralmspec.errors import MissingExtraError
from langchain_ralmspec.retriever import RaLMSpecRetriever
from langchain_ralmspec.speculation import SpeculationStats
from langchain_ralmspec.stores import FaissStore, SentenceTransformerEmbeddings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WORTHWHILE = 0.5  # share of retrieval in a step, under which little can be won

QUESTIONS = [
    "How do I run a command in a new process and read what it prints?",
    "How do I find the most common elements of a list?",
    "How do I parse command line arguments?",
    "How do I make a temporary directory that is removed afterwards?",
    "How do I cache the results of a function?",
    "How do I read a ZIP archive?",
]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What to ask, of whom, and how.

    Attributes:
        store: ``"faiss"`` or ``"chroma"``.
        questions: what to ask; questions about Python when None.
        limit: ask so many at most; all of them when None.
        corpus: JSON lines of passages; Python's docstrings when None.
        model: a GGUF file or the name of a packaged model.
        max_tokens: length of an answer.
        speculation_stride: guesses verified in one store call.
        guess_policy: ``"lookup"`` or ``"same"``.
    """

    store: str
    questions: list[str] | None
    limit: int | None
    corpus: Path | None
    model: str
    max_tokens: int
    speculation_stride: int
    guess_policy: str

    def run(self, json_file: Path | None = None) -> Comparison:
        """Answer every question with both loops; print and write the figures."""
        console = Console()
        chat = self._chat(console)
        questions = (self.questions or QUESTIONS)[: self.limit]
        _answer(chat, questions[0])  # untimed: page in the model
        rows = []
        for number, question in enumerate(questions, start=1):
            console.print(f"\n[bold]{number}. {question}[/bold]", highlight=False)
            rows.append(self._compare(chat, number, question, console))
        comparison = Comparison(rows)
        _report(comparison, console)
        if json_file:
            json_file.write_text(json.dumps(comparison.as_dict(), indent=2) + "\n")
            console.print(f"figures written to {json_file}", style="dim")
        return comparison

    def _compare(
        self, chat: ChatRaLMSpec, number: int, question: str, console: Console
    ) -> Row:
        def show(text: str) -> None:
            console.print(text, end="", highlight=False, markup=False, soft_wrap=True)

        slow = chat.model_copy(update={"speculation": False})
        answers = {}
        # In turn first, and without the documents' KV that the other has prefilled.
        for loop in (chat, slow) if number % 2 else (slow, chat):
            chat.engine.forget_prefixes()
            answers[loop.speculation] = _answer(
                loop, question, show if loop.speculation else None
            )
        row = Row(question, sequential=answers[False], speculative=answers[True])
        verdict = "yes" if row.identical else "NO"
        console.print(f"\n[dim]identical: {verdict}, {row.speedup:.2f}×[/dim]")
        return row

    def _chat(self, console: Console) -> ChatRaLMSpec:
        gguf = find_gguf(self.model)  # what may be mistyped goes before what is long
        passages = load_passages(self.corpus) if self.corpus else stdlib_passages()
        embeddings = SentenceTransformerEmbeddings(str(model_path("minilm")))
        texts = [f"{p.title}. {p.text}" if p.title else p.text for p in passages]
        with bar("embedding passages") as advance:
            folder = cache_dir() / "embeddings"
            vectors = embed_cached(texts, embeddings, "minilm", folder, advance)
        opened = (_faiss if self.store == "faiss" else _chroma)(
            passages, vectors, embeddings
        )
        console.print(
            f"{len(passages)} passages in {self.store}, model {Path(gguf).name}, "
            f"guess policy {self.guess_policy!r}, speculation stride "
            f"{self.speculation_stride}. A small model: judge its speed only.",
            style="dim",
        )
        return ChatRaLMSpec(
            model_path=gguf,
            retriever=RaLMSpecRetriever(vectorstore=opened),
            max_tokens=self.max_tokens,
            speculation_stride=self.speculation_stride,
            guess_policy=self.guess_policy,
        )


def _answer(chat: ChatRaLMSpec, question: str, show: Any = None) -> Answer:
    parts: list[str] = []
    info: dict[str, Any] = {}
    for chunk in chat.stream(question):
        parts.append(str(chunk.text))
        info = chunk.response_metadata or info
        if show:
            show(parts[-1])
    counted = dict(info["speculation"])
    counted.pop("guess_accuracy")
    return Answer("".join(parts), info["steps"], SpeculationStats(**counted))


def _documents(passages: list[Passage]) -> list[Document]:
    return [
        Document(page_content=p.text, id=p.id, metadata={"title": p.title})
        for p in passages
    ]


def _faiss(
    passages: list[Passage],
    vectors: NDArray[np.float32],
    embeddings: SentenceTransformerEmbeddings,
) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError.of("faiss", "faiss") from error
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return FaissStore(index, _documents(passages), embeddings)


def _chroma(
    passages: list[Passage],
    vectors: NDArray[np.float32],
    embeddings: SentenceTransformerEmbeddings,
) -> Any:
    try:
        import chromadb
        from langchain_chroma import Chroma
    except ImportError as error:
        raise MissingExtraError.of("langchain_chroma", "chroma") from error
    client = chromadb.EphemeralClient()
    collection = client.get_or_create_collection(
        "ralmspec-demo", configuration={"hnsw": {"space": "cosine"}}
    )
    size = client.get_max_batch_size()
    with bar("filling Chroma") as advance:
        for first in range(0, len(passages), size):
            part = passages[first : first + size]
            collection.add(
                ids=[p.id for p in part],
                documents=[p.text for p in part],
                metadatas=[{"title": p.title} for p in part],
                embeddings=vectors[first : first + size],
            )
            advance(first + len(part), len(passages))
    return Chroma(
        client=client, collection_name="ralmspec-demo", embedding_function=embeddings
    )


def _report(comparison: Comparison, console: Console) -> None:
    table = Table(title="sequential against speculative", box=box.SIMPLE_HEAD)
    for heading in (
        "",
        "sequential",
        "speculative",
        "speed-up",
        "identical",
        "right guesses",
        "store calls",
    ):
        table.add_column(heading.replace(" ", "\n"), justify="right")
    for number, row in enumerate(comparison.rows, start=1):
        slow, fast = row.sequential.stats, row.speculative.stats
        table.add_row(
            str(number),
            f"{slow.seconds:.2f} s",
            f"{fast.seconds:.2f} s",
            f"{row.speedup:.2f}×",
            "yes" if row.identical else "NO",
            f"{fast.right_guesses} of {fast.guesses}",
            f"{slow.store_calls} → {fast.store_calls}",
        )
    console.print()
    console.print(table)
    summary, bounds = comparison.summary(), comparison.bounds
    console.print(
        f"speed-up {summary['speedup_median']:.2f}× (median of "
        f"{summary['questions']}), ceiling 1 + b/a = {summary['ceiling']:.2f}× with "
        f"a = {1e3 * bounds.generation:.0f} ms to generate a stride and "
        f"b = {1e3 * bounds.retrieval:.0f} ms to retrieve",
        highlight=False,
    )
    share = bounds.retrieval / (bounds.generation + bounds.retrieval)
    if share < _WORTHWHILE:
        console.print(
            f"Retrieval is only {share:.0%} of a sequential step with this store, so "
            "there is little to win here; it pays with slow or remote stores."
        )
    calls = [
        sum(getattr(row, loop).stats.store_calls for row in comparison.rows)
        for loop in ("sequential", "speculative")
    ]
    console.print(f"store calls: {calls[0]} → {calls[1]}", highlight=False)
    console.print(f"identical: {'yes' if summary['identical'] else 'NO'}")
