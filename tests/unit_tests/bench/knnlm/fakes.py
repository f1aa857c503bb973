"""A datastore without a model, and a model of words without weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_ralmspec.answer.events import Committed
from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.knnlm import KNNDatastore
from tests.unit_tests.knnlm.fakes import write_entries
from tests.unit_tests.rapid.fakes import Clock

DIMENSION = 32
SHA256 = "5a" * 32


def write_datastore(
    folder: Path, n_entries: int = 400, sha256: str = SHA256
) -> KNNDatastore:
    """Keys from a normal distribution, and the tokens 0, 1, 2 … behind them."""
    random = np.random.default_rng(7)
    deviations = np.linspace(0.5, 1.5, DIMENSION)
    keys = random.standard_normal((n_entries, DIMENSION)) * deviations + 3.0
    model: dict[str, Any] = {"model_sha256": sha256, "model_name": "fake"}
    write_entries(folder, keys.astype(np.float16), typical_distance=10.0, **model)
    return KNNDatastore.load(folder)


class Words:
    """Weights whose tokens are words, numbered as they are met."""

    text_start = ()
    sha256 = SHA256

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def tokenize(self, text: str) -> list[int]:
        return [self.known.setdefault(word, len(self.known)) for word in text.split()]

    def piece(self, token: int) -> bytes:
        return f" {list(self.known)[token]}".encode()


class FakeSequence:
    """Logits that favour the token after, and hidden states that tell it."""

    def __init__(self, n_ctx: int) -> None:
        self._n_vocab, self._n_ctx, self.length = 500, n_ctx, 0

    def observe(
        self, tokens: Sequence[int], *, n_logits: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.length += len(tokens)
        assert self.length <= self._n_ctx
        logits = np.zeros((n_logits, self._n_vocab), np.float32)
        logits[np.arange(n_logits), np.asarray(tokens) + 1] = 5.0
        hidden = np.asarray(tokens, np.float32)[:, np.newaxis]
        return logits, np.repeat(hidden, DIMENSION, axis=1)


def fake_model(n_ctx: int = 6) -> Any:
    return SimpleNamespace(
        weights=Words(),
        path=Path("fake.gguf"),
        n_ctx=n_ctx,
        n_batch=4,
        new_sequence=lambda: FakeSequence(n_ctx),
    )


CLOCK = Clock()


class Continued:
    """A run that takes as long as its books say."""

    def __init__(self, stats: SpeculationStats, tokens: list[int]) -> None:
        self.stats, self.tokens = stats, tokens
        self.steps = [Committed((token,), b"") for token in tokens]

    def __iter__(self) -> Any:
        CLOCK.now += self.stats.seconds
        return iter(["some ", "text"])


@dataclass
class FakeLLM:
    """Continues any prompt in the same seconds, and remembers who was asked."""

    name: str
    stats: SpeculationStats
    tokens: Sequence[int] = (1, 2, 3)
    log: list[tuple[str, str]] = field(default_factory=list)

    engine = SimpleNamespace(forget_prefixes=lambda: None)
    mixture = SimpleNamespace(temperature=2.0)

    def start(self, prompt: str) -> Any:
        self.log.append((self.name, prompt))
        return Continued(self.stats, list(self.tokens))


SLOW = SpeculationStats(
    steps=10,
    store_calls=10,
    queries=10,
    tokens_kept=10,
    seconds_generating=1.0,
    seconds_searching=3.5,
    seconds_waiting=4.0,
    seconds=5.0,
)
SPEC = SpeculationStats(
    steps=10,
    guesses=9,
    right_guesses=8,
    rounds=3,
    store_calls=4,
    queries=10,
    tokens_kept=10,
    tokens_rolled_back=2,
    verifications=[(3, 0.7), (3, 0.7), (3, 0.7)],
    plans={"sequential": 1, "lookup 3": 3},
    seconds_generating=1.0,
    seconds_guessing=0.09,
    seconds_searching=2.0,
    seconds_waiting=2.5,
    seconds=4.0,
)
AUTO = replace(
    SPEC,
    guesses=10,
    right_guesses=8,
    verifications=[(5, 0.9), (5, 0.9)],
    plans={"lookup 5": 2},
    seconds=2.5,
)
"""Sequential: a = 0.1 and b(1) = 0.4. Verifications of both rows lie on 0.4 + 0.1·s."""
