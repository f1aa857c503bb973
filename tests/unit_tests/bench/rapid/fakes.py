"""Chains that answer at once, for the benchmark of RAPID."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_ralmspec.engine.markers import Markers
from langchain_ralmspec.rapid import DraftStats
from langchain_ralmspec.speculation import Scheduler

N_VOCAB = 128
PLAIN_TEXT = "the cat sat"


class Letters(Embeddings):
    """How often letters occur."""

    def embed_query(self, text: str) -> list[float]:
        return [1.0 + text.count(letter) for letter in "aeiou"]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


class FakeWeights:
    """A token a letter."""

    has_chat_template = False
    text_start = (1,)
    markers = Markers({})

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return [ord(letter) % N_VOCAB for letter in text]

    def tokenize_runs(self, runs: Iterable[tuple[str, bool]]) -> list[int]:
        return self.tokenize("".join(text for text, _ in runs))

    def tokenize_prompt(
        self, text: str, *, special: bool
    ) -> tuple[tuple[int, ...], list[int]]:
        return self.text_start, self.tokenize(text)

    def piece(self, token: int) -> bytes:
        return bytes([token])


class FakePath:
    """The logits say how many tokens were read one by one."""

    def __init__(self, engine: FakeEngine, length: int) -> None:
        self.engine, self.length, self.n_extended = engine, length, -1

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self.length += len(tokens)
        self.n_extended += 1
        logits = np.zeros(N_VOCAB, np.float32)
        logits[3], logits[5] = 2 + self.n_extended, 1
        return logits

    def score(self, tokens: Sequence[int]) -> None:
        self.engine.scored.append(len(tokens))
        self.length += len(tokens)

    def truncate(self, length: int) -> None:
        self.length = length


class FakeEngine:
    """Remembers what it was asked for."""

    n_batch = 512
    n_ctx = 4096
    n_threads = (1, 2)

    def __init__(self) -> None:
        self.weights = FakeWeights()
        self.prefixes: set[tuple[int, ...]] = set()
        self.folder: set[tuple[int, ...]] | None = None
        self.scored: list[int] = []

    def require_size(self, *texts: str) -> None:
        assert all(texts)

    def open(self, prefix: tuple[int, ...]) -> FakePath:
        self.prefixes.add(prefix)
        if self.folder is not None:
            self.folder.add(prefix)
        return FakePath(self, len(prefix))

    def forget_prefixes(self) -> None:
        self.prefixes.clear()


@dataclass
class FakeRun:
    """Reads a document in 10 seconds, or in 1 from a folder, or in 0.1."""

    request: Any
    answer: str
    a_token: float
    stats: DraftStats
    finish_reason: str = "length"
    tokens: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        engine, stats = self.request.target, self.stats
        document = self.request.document
        is_kept = document in engine.prefixes
        is_filed = document in (engine.folder or ())
        stats.cached_tokens = len(document) if is_kept or is_filed else 0
        engine.open(document)
        stats.seconds += 0.1 if is_kept else 1.0 if is_filed else 10.0
        stats.first_token = stats.seconds
        for number, letter in enumerate(self.answer):
            drafted = bool(self.request.drafters) and number % 2 == 1
            self.tokens.append(ord(letter))
            if number:
                stats.seconds += self.a_token
            if drafted:
                stats.verified("lookup", 2, 1)
            elif number and not self.request.drafters:
                stats.verified(None, 0, 0)
            stats.tokens += 1
            yield letter


@dataclass
class FakeChain:
    """A row; answers every question with the same text."""

    name: str
    engine: FakeEngine
    log: list[tuple[str, str, str]]
    answer: str = PLAIN_TEXT
    a_token: float = 1.0
    drafts: bool = False
    finish_reason: str = "length"
    dropped: int = 0

    system_prompt = "system"
    prompt_template = None
    chunk_tokens = 8
    draft_context_share = 0.0
    draft_context_tokens = 16

    def start(self, question: str, context: str) -> FakeRun:
        self.log.append((self.name, question, context))
        stats = DraftStats(dropped_tokens=self.dropped)
        drafters = [SimpleNamespace(name="lookup")] if self.drafts else []
        tokens = tuple(self.engine.weights.tokenize(context))
        tail = tuple(self.engine.weights.tokenize(question))
        stats.prompt_tokens = 1 + len(tokens) + len(tail)
        request = SimpleNamespace(
            target=self.engine,
            document=(1, *tokens),
            tail=tail,
            drafters=drafters,
            scheduler=Scheduler(),
        )
        return FakeRun(request, self.answer, self.a_token, stats, self.finish_reason)
