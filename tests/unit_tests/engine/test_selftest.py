from __future__ import annotations

import gc
import itertools
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_ralmspec.engine import selftest
from langchain_ralmspec.errors import DecodeError


class FakeSequence:
    """Logits are the sum of the tokens, plus noise that depends on the call."""

    def __init__(self, model: FakeModel, snapshot: list[int] | None = None) -> None:
        self._model, self._tokens = model, list(snapshot or [])

    def prefill(self, tokens: list[int]) -> None:
        self._tokens += tokens

    def score(self, tokens: list[int]) -> NDArray[np.float32]:
        noise = next(self._model.noises)
        if len(tokens) > self._model.exact_size:
            noise += 1
        first = len(self._tokens)
        self._tokens += tokens
        rows = range(first, len(self._tokens))
        return np.array([[sum(self._tokens[: row + 1]) + noise] for row in rows])

    def extend(self, tokens: list[int]) -> NDArray[np.float32]:
        last: NDArray[np.float32] = self.score(tokens)[-1]
        return last

    def truncate(self, length: int) -> None:
        if not self._model.rolls_back:
            raise DecodeError("recurrent")
        del self._tokens[length:]

    def save(self) -> list[int]:
        return self._tokens[:]


class FakeModel:
    """A model with the faults that are given."""

    def __init__(
        self,
        n_ctx: int = 600,
        exact_size: int = 99,
        *,
        rolls_back: bool = True,
        noises: Any = None,
    ) -> None:
        self.n_ctx, self.exact_size, self.rolls_back = n_ctx, exact_size, rolls_back
        self.noises = noises or itertools.repeat(0)
        self.weights = SimpleNamespace(n_vocab=9)
        self.n_sequences = 0

    def new_sequence(self, snapshot: Any = None) -> FakeSequence:
        self.n_sequences += 1
        return FakeSequence(self, snapshot)


@pytest.mark.parametrize(
    ("faults", "is_repeatable"),
    [
        ({}, True),
        ({"rolls_back": False}, False),
        ({"noises": itertools.count()}, False),
        ({"noises": itertools.count(), "n_ctx": 74}, True),  # too small for the test
    ],
)
def test_what_repeats_itself_is_found_out(
    faults: dict[str, Any], is_repeatable: bool
) -> None:
    model: Any = FakeModel(**faults)
    assert selftest.is_repeatable(model) == is_repeatable


@pytest.mark.parametrize("rolls_back", [True, False])
def test_what_rolls_back_is_found_out(rolls_back: bool) -> None:
    model: Any = FakeModel(rolls_back=rolls_back)
    assert selftest.can_roll_back(model) == rolls_back


@pytest.mark.parametrize(
    ("exact_size", "n_ctx", "expected"),
    [(99, 600, 32), (8, 600, 8), (7, 600, 5), (1, 600, 1), (99, 95, 1), (99, 96, 32)],
)
def test_the_largest_exact_batch_is_found(
    exact_size: int, n_ctx: int, expected: int
) -> None:
    model: Any = FakeModel(n_ctx, exact_size)
    assert selftest.exact_batch_size(model) == expected


def test_a_model_is_examined_once_and_not_kept_alive() -> None:
    one: Any = FakeModel()
    other: Any = FakeModel(rolls_back=False)
    for _ in range(2):
        assert selftest.can_roll_back(one)
        assert not selftest.can_roll_back(other)
    assert one.n_sequences == other.n_sequences == 1
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
