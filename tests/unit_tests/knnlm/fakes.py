"""A tiny engine path and a tiny datastore, for properties over random runs.

Both are harsher than the real ones. What the model sees depends on the *shapes* of all
decode calls on a path, not on its tokens alone. Keys lie in clusters, and a probe finds
some of them only, so that guesses are right and wrong in turn. They are of small
integers, so that neighbours are often equally near.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from langchain_ralmspec.engine import Sequence as TokenSequence
from langchain_ralmspec.engine.kv import KV
from langchain_ralmspec.engine.slots import Slots
from langchain_ralmspec.errors import DecodeError
from langchain_ralmspec.knnlm import Neighbours
from langchain_ralmspec.knnlm.entries import EntryWriter, Manifest
from tests.unit_tests import fakes
from tests.unit_tests.fakes import DIMENSION, END, N_VOCAB, random_of

N_CLUSTERS = 10
NOISE = 0.4  # a batch adds or takes so much; true distances are whole numbers
MARGIN = 2 * NOISE  # what is so far behind may be nearest all the same


def centres(seed: int) -> NDArray[np.float32]:
    return random_of("centres", seed).integers(-9, 10, (N_CLUSTERS, DIMENSION)) * 1.0


@dataclass
class FakePath:
    """What is seen is a hash of the prefix and of the list of calls behind it."""

    prefix: tuple[int, ...]
    seed: int
    end_bias: float
    n_ctx: int
    calls: list[tuple[int, ...]] = field(default_factory=list)
    n_decoded: int = 0

    def __post_init__(self) -> None:
        self._centres = centres(self.seed)

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(map(len, self.calls))

    def truncate(self, length: int) -> None:
        assert len(self.prefix) <= length <= self.length
        while self.length > length:
            self.calls.pop()
        assert self.length == length, "a roll-back into the middle of a call"

    def observe(
        self, tokens: Sequence[int], *, n_logits: int = 1
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert tokens, "an empty call"
        assert self.length + len(tokens) <= self.n_ctx, "the context is full"
        self.calls.append(tuple(tokens))
        self.n_decoded += len(tokens)
        rng = random_of(self.seed, self.prefix, self.calls)
        logits = rng.normal(size=(len(tokens), N_VOCAB)).astype(np.float32)
        logits[:, END] += self.end_bias
        # Where the keys lie that resemble this text is told by its last token.
        hidden = self._centres[np.asarray(tokens) % N_CLUSTERS]
        hidden = hidden + rng.integers(-1, 2, hidden.shape)
        return logits[-n_logits:], hidden.astype(np.float32)


class FakeVocabulary(fakes.FakeVocabulary):
    """One letter a token, the end too: it must not get into the text."""

    def piece(self, token: int) -> bytes:
        return bytes([ord("a") + token])


@dataclass
class FakeDatastore:
    """Brute force over the entries of a corpus that wanders from cluster to cluster.

    ``is_approximate``: searches miss some entries, and some find none.
    ``is_rounded``: what a key scores depends on the batch; true distances decide.
    ``can_probe``: what a probe finds is a part of the entries, by the query.
    """

    n_entries: int
    seed: int = 0
    is_approximate: bool = False
    is_rounded: bool = False
    can_probe: bool = True
    searches: list[int] = field(default_factory=list)
    ks: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        rng = random_of("entries", self.seed)
        clusters = np.repeat(rng.integers(N_CLUSTERS, size=self.n_entries), 5)
        clusters = clusters[: self.n_entries]
        noise = rng.integers(-2, 3, (self.n_entries, DIMENSION))
        self.keys = (centres(self.seed)[clusters] + noise).astype(np.float32)
        # Mostly one token in a cluster, else any.
        usual = rng.integers(1, N_VOCAB, N_CLUSTERS)[clusters]
        others = rng.integers(N_VOCAB, size=self.n_entries)
        is_usual = rng.random(self.n_entries) < 0.7
        self.tokens = np.where(is_usual, usual, others).astype(np.int32)

    def __len__(self) -> int:
        return self.n_entries

    def prepare(self) -> None:
        """There is nothing to make."""

    def search(self, queries: NDArray[np.float32], k: int) -> list[Neighbours]:
        assert 1 <= k <= self.n_entries
        self.searches.append(len(queries))
        self.ks.add(k)
        return [
            self._nearest(query, self._candidates(query, k, len(queries)), k)
            for query in queries
        ]

    def probe(self, query: NDArray[np.float32], k: int) -> Neighbours:
        rng = random_of("probe", query.tobytes())
        rows = np.flatnonzero(rng.random(self.n_entries) < rng.random())
        return self._nearest(query, rows, k)

    def _nearest(
        self, query: NDArray[np.float32], rows: NDArray[np.int64], k: int
    ) -> Neighbours:
        distances = ((self.keys[rows] - query) ** 2).sum(axis=1)
        order = np.lexsort((rows, distances))[:k]
        return Neighbours(rows[order], distances[order], self.tokens[rows[order]])

    def _candidates(
        self, query: NDArray[np.float32], k: int, batch: int
    ) -> NDArray[np.int64]:
        scores = ((self.keys - query) ** 2).sum(axis=1)
        if self.is_rounded:
            rng = random_of("rounding", query.tobytes(), batch)
            scores = scores + rng.uniform(-NOISE, NOISE, len(scores))
        if self.is_approximate:
            scores[(np.arange(self.n_entries) + k) % 3 == 0] = np.inf
            if random_of("nothing", query.tobytes()).random() < 0.1:
                scores[:] = np.inf
        limit = np.partition(scores, k - 1)[k - 1] + MARGIN
        return np.flatnonzero((scores <= limit) & np.isfinite(scores))


def first_of(near: Neighbours, k: int) -> Neighbours:
    """The nearest ``k`` of some neighbours."""
    return Neighbours(near.rows[:k], near.distances[:k], near.tokens[:k])


def write_entries(
    folder: Path,
    keys: NDArray[Any],
    tokens: Sequence[int] | NDArray[Any] | None = None,
    **manifest: Any,
) -> Path:
    """A datastore's folder, as it is written when a model has read texts."""
    folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {
        "model_sha256": "0" * 64,
        "model_name": "tiny",
        "dimension": keys.shape[1],
        "key_type": str(keys.dtype),
        "typical_distance": 1.0,
    }
    empty = Manifest(**given | manifest)
    writer = EntryWriter(folder, empty)
    numbers = np.arange(len(keys)) if tokens is None else np.asarray(tokens)
    writer.add(keys, numbers.astype(np.int32))
    writer.close()
    Manifest(**given | manifest | {"n_entries": writer.n_entries}).write(folder)
    return folder


class FakeReader:
    """A model whose hidden states tell what it has seen.

    Numbers of a hidden state: the token, how many tokens of its text are before it,
    and how many of those are in the model's memory. Letters are tokens.
    """

    def __init__(self, *, n_ctx: int = 8, n_batch: int = 4) -> None:
        self.n_ctx, self.n_batch = n_ctx, n_batch
        self.path = Path("tiny.gguf")
        self.weights = SimpleNamespace(
            sha256="0" * 64,
            n_embd=DIMENSION,
            text_start=(),
            tokenize=lambda text: [*text.encode()],
            controls=frozenset(),
            tokenize_prompt=lambda text, **_: ((), [*text.encode()]),
        )
        self.can_forget = True
        self.calls: list[int] = []
        self.firsts: list[int] = []  # tokens of the memory, after every call
        self._n_seen: dict[Any, int] = {}
        self._memory: dict[Any, list[int]] = {}

    def require_size(self, *texts: str) -> None:
        """Every text is taken."""

    def new_sequence(self) -> TokenSequence:
        return TokenSequence(cast(Slots, self))

    def observe(
        self,
        kv: KV,
        tokens: Sequence[int],
        *,
        n_logits: int,
        forget: int = 0,
        keep: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if forget and not self.can_forget:
            raise DecodeError("no way")
        kv.length -= forget
        assert kv.length + len(tokens) <= self.n_ctx, "the context is full"
        memory = self._memory.setdefault(kv, [])
        del memory[keep : keep + forget]
        memory += tokens
        self.firsts.append(memory[0])
        self.calls.append(len(tokens))
        before = np.arange(len(tokens))
        hidden = np.stack(
            [
                np.asarray(tokens),
                self._n_seen.setdefault(kv, 0) + before,
                kv.length + before,
            ],
            axis=1,
        )
        kv.length += len(tokens)
        self._n_seen[kv] += len(tokens)
        return np.empty((n_logits, N_VOCAB), np.float32), hidden.astype(np.float32)
