"""A tiny language model and a tiny store, both harsher than the real ones.

The model's logits depend on the *shapes* of all decode calls on a path, not on its
tokens alone, so that a loop which rebuilds what the other loop continued gives other
tokens. The store can be one whose wide searches find other documents than its narrow
ones, and its encoder adds rounding noise to batches.
"""

import hashlib
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from langchain_core.documents import Document
from numpy.typing import NDArray

from langchain_ralmspec.answer.sampling import Sampler
from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.answer.transcript import Transcript
from langchain_ralmspec.ralm import (
    Branch,
    FixedStride,
    Flare,
    IterRetGen,
    Prompt,
    QueryText,
    Request,
    RetrievalPolicy,
    Session,
    Writer,
)
from langchain_ralmspec.speculation import Estimates, Plan, Scheduler
from langchain_ralmspec.stores.base import Hit, MaxNorm, Metric, Query
from langchain_ralmspec.stores.replica import Replica

N_VOCAB = 16
END = 0
DIMENSION = 3


def random_of(*parts: object) -> np.random.Generator:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


class Sieve:
    """A constraint that forbids half of the tokens, by all that was written before."""

    def restrict(
        self, logits: NDArray[np.float32], generated: Sequence[int], n_best: int
    ) -> NDArray[np.float32]:
        allowed = random_of("sieve", list(generated)).random(len(logits)) < 0.5
        allowed[END] = True
        return np.where(allowed, logits, np.float32(-np.inf))


samplers = st.builds(
    Sampler,
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    top_k=st.integers(0, 5),
    top_p=st.sampled_from([0.5, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 100),
    constraint=st.sampled_from([None, Sieve()]),
)


@dataclass
class FakePath:
    """Logits are a hash of the prefix and of the list of chunks decoded on it."""

    prefix: tuple[int, ...]
    end_bias: float
    chunks: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(map(len, self.chunks))

    def truncate(self, length: int) -> None:
        assert len(self.prefix) <= length <= self.length
        while self.length > length:
            self.chunks.pop()
        assert self.length == length, "a roll-back into the middle of a batch"

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        assert tokens, "an empty batch"
        self.chunks.append(tuple(tokens))
        rng = random_of(self.prefix, self.chunks)
        logits = rng.normal(size=N_VOCAB).astype(np.float32)
        logits[END] += self.end_bias
        return logits


def piece(token: int) -> bytes:
    """One letter a token; token 0 is invisible and the last one ends a sentence."""
    if token == END:
        return b""
    return b"." if token == N_VOCAB - 1 else bytes([ord("a") + token])


class FakeVocabulary:
    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        raise AssertionError("nothing is tokenized here")

    def piece(self, token: int) -> bytes:
        return piece(token)

    def is_end(self, token: int) -> bool:
        return token == END


@dataclass
class FakeStore:
    """Brute force over small integer vectors, so that exact ties are common."""

    n_documents: int
    metric: Metric = "inner_product"
    top_k_is_stable: bool = True
    seed: int = 0
    fail_after: int | None = None
    seconds: float = 0.0  # a search takes up to so long
    searches: list[int] = field(default_factory=list)
    prepared: list[int] = field(default_factory=list)  # after so many searches
    tells_max_norm: bool = False  # so that guesses can be proven
    jitter: float = 0.0  # takes vectors off the grid, so that there are no ties
    dimension: int | None = DIMENSION

    def __post_init__(self) -> None:
        rng = random_of("documents", self.seed)
        self.vectors = rng.integers(-2, 3, (self.n_documents, DIMENSION))
        self.vectors[:, 0] = 1  # none is zero: cosine stays defined
        jitter = self.jitter * rng.normal(size=self.vectors.shape)
        self.vectors = (self.vectors + jitter).astype(np.float32)
        lengths = np.linalg.norm(self.vectors, axis=1)
        longest = 1.0 if self.metric == "cosine" else float(lengths.max(initial=0))
        self._max_norm = MaxNorm(1.0001 * longest)

    def encode(self, texts: Sequence[str]) -> list[Query]:
        batched = len(texts) > 1
        return [Query(t, self._vector(t, len(texts)), batched) for t in texts]

    def _vector(self, text: str, batch: int) -> NDArray[np.float32]:
        rng = random_of("query", text)
        vector = rng.integers(-2, 3, DIMENSION).astype(np.float32)
        vector[0] = 1
        if batch > 1:
            noise = random_of("noise", text, batch).normal(size=DIMENSION)
            vector += 1e-7 * noise.astype(np.float32)
        return vector

    def search(
        self, queries: Sequence[Query], k: int, *, with_vectors: bool = False
    ) -> list[list[Hit]]:
        self.searches.append(len(queries))
        if self.seconds:
            time.sleep(random.random() * self.seconds)  # noqa: S311  not a secret
        if self.fail_after is not None and len(self.searches) > self.fail_after:
            msg = "the store died"
            raise ConnectionError(msg)
        return [self._search(query, k, with_vectors=with_vectors) for query in queries]

    def _search(self, query: Query, k: int, *, with_vectors: bool) -> list[Hit]:
        assert isinstance(query.vector, np.ndarray)
        q, vectors = query.vector.astype(np.float64), self.vectors.astype(np.float64)
        if self.metric == "squared_l2":
            scores = -((vectors - q) ** 2).sum(axis=1)
        else:
            scores = (vectors * q).sum(axis=1)
        if self.metric == "cosine":
            scores = scores / np.sqrt((vectors**2).sum(axis=1) * (q**2).sum())
        rows = sorted(range(self.n_documents), key=lambda row: (-scores[row], row))
        if not self.top_k_is_stable:
            # A search of another width misses other documents.
            rows = [row for row in rows if (row + k) % 3] or rows
        return [
            Hit(
                id=f"{row:03}",
                document=Document(page_content=f"document {row}"),
                score=float(scores[row]),
                vector=self.vectors[row] if with_vectors else None,
            )
            for row in rows[:k]
        ]

    def max_norm(self) -> MaxNorm | None:
        return self._max_norm if self.tells_max_norm else None

    def prepare(self) -> None:
        self.prepared.append(len(self.searches))

    def count(self) -> int:
        return self.n_documents


def wrap(owner: Any, name: str, before: Callable[..., object]) -> None:
    """Do something with a method's positional arguments before it is called."""
    method = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before(*args)
        return method(*args, **kwargs)

    setattr(owner, name, wrapped)


@dataclass(frozen=True)
class Plans(Scheduler):
    """Follows given plans in turn, whatever they cost."""

    given: Sequence[Plan] = ()
    turns: Iterator[int] = field(default_factory=itertools.count)

    def plan(self) -> Plan:
        return self.given[next(self.turns) % len(self.given)]


def follow(*plans: Plan) -> Plans:
    return Plans(Estimates(), given=plans)


def always(stride: int, policy: str = "lookup", in_flight: int = 0) -> Plans:
    """One plan for all of a request."""
    return follow(Plan(policy, stride, in_flight))


def make_request(
    store: FakeStore,
    *,
    question: Sequence[int] = (3, 4, 5),
    retrieval: str = "stride",
    threshold: float = 0.2,
    rounds: int = 3,
    depth: int = 1,
    prefetch_k: int | None = 1,
    stride: int = 4,
    max_tokens: int = 24,
    window: int = 6,
    stops: Sequence[str] = (),
    sampler: Sampler | None = None,
    end_bias: float = 0.0,
    on_empty: Literal["answer", "error"] = "answer",
    replica: Replica | None = None,
) -> Request:
    """A request over the fakes; fresh at every call."""
    vocabulary, stats = FakeVocabulary(), SpeculationStats()
    transcript = Transcript(vocabulary, max_tokens=max_tokens, stops=stops)
    prompt = Prompt(head=(1,), tail=(2, *question), question=tuple(question))

    def open_branch(hits: tuple[Hit, ...]) -> Branch:
        tokens = (*prompt.head, *(int(hit.id) for hit in hits))
        return Branch(FakePath(tokens, end_bias), behind=(6,))

    tail = QueryText(prompt.question, transcript, vocabulary, window)
    policies: dict[str, RetrievalPolicy] = {
        "stride": FixedStride(tail, stride),
        "flare": Flare(tail, threshold),
        "iter-retgen": IterRetGen(replace(tail, window=0), rounds),
    }
    writer = Writer(prompt, transcript, sampler or Sampler(), open_branch)
    session = Session(
        store,
        depth=depth,
        prefetch_k=prefetch_k,
        stats=stats,
        on_empty=on_empty,
        replica=replica,
    )
    return Request(writer, session, policies[retrieval])


class _NotAvailable:
    """A missing value as pandas has it: of nothing it says whether it is true."""

    def __bool__(self) -> bool:
        msg = "boolean value of NA is ambiguous"
        raise TypeError(msg)

    def __eq__(self, other: object) -> Any:
        return self

    __hash__ = None  # type: ignore[assignment]


NOT_AVAILABLE = _NotAvailable()
