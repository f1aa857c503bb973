"""Is decoding repeatable, bit for bit, on this machine with these settings?

Speculation keeps the sequential loop's answer only if decoding the same tokens in the
same chunks gives the same logits after a roll-back, after a trip through host memory,
and whatever other sequences hold. This measures it instead of trusting llama.cpp.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from langchain_ralmspec.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from langchain_ralmspec.engine.model import Model
    from langchain_ralmspec.engine.sequence import Sequence

T = TypeVar("T")

_PREFIX, _TAIL, _SINGLES = 64, 8, 3  # one call of every shape that the loops use
_LONG_PREFIX = 544  # attention is split for single tokens behind 512
_BATCHES = (2, 3, 4, 5, 8, 16, 32)  # kernels change between some of these


def _once_per_model(examine: Callable[[Model], T]) -> Callable[[Model], T]:
    """Keep the result of an examination as long as its model lives."""
    results: weakref.WeakKeyDictionary[Model, T] = weakref.WeakKeyDictionary()

    @wraps(examine)
    def kept(model: Model) -> T:
        if model not in results:
            results[model] = examine(model)
        return results[model]

    return kept


@_once_per_model
def can_roll_back(model: Model) -> bool:
    """Whether a sequence can be cut; those of recurrent models cannot."""
    sequence = model.new_sequence()
    sequence.prefill([0, 0, 0])
    try:
        sequence.truncate(2)
    except DecodeError:
        return False
    return True


@_once_per_model
def is_repeatable(model: Model) -> bool:
    """Whether one text decoded four ways gives the same bits every time.

    False for models that cannot be rolled back (recurrent ones). True where the context
    is too small (75 tokens) for the test, and so for any document.
    """
    n = _PREFIX + _TAIL + _SINGLES
    if n > model.n_ctx:
        return True
    if not can_roll_back(model):
        return False
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, model.weights.n_vocab, size=n).tolist()
    others = rng.integers(0, model.weights.n_vocab, size=n // 2).tolist()

    first, noise = model.new_sequence(), model.new_sequence()
    first.prefill(tokens[:_PREFIX])
    snapshot = first.save()
    reference = _decode_rest(first, tokens)
    noise.prefill(others)
    restored = model.new_sequence(snapshot)
    runs = [_decode_rest(restored, tokens)]
    restored.truncate(_PREFIX)
    runs.append(_decode_rest(restored, tokens))
    first.truncate(0)
    first.prefill(tokens[:_PREFIX])
    runs.append(_decode_rest(first, tokens))
    return all(np.array_equal(run, reference) for run in runs)


@_once_per_model
def exact_batch_size(model: Model) -> int:
    """Up to how many tokens a call gives the bits that its tokens give one by one.

    1 where even two do not, or where the context is too small for the test.
    """
    prefix = min(_LONG_PREFIX, model.n_ctx - max(_BATCHES))
    if prefix < _PREFIX:
        return 1
    rng = np.random.default_rng(1)
    n = prefix + max(_BATCHES)
    tokens = rng.integers(0, model.weights.n_vocab, size=n).tolist()
    sequence = model.new_sequence()
    sequence.prefill(tokens[:prefix])
    singles = np.stack([sequence.extend([token]) for token in tokens[prefix:]])
    exact = 1
    for size in _BATCHES:
        sequence.truncate(prefix)
        rows = sequence.score(tokens[prefix : prefix + size])
        if not np.array_equal(rows, singles[:size]):
            break
        exact = size
    return exact


def _decode_rest(sequence: Sequence, tokens: list[int]) -> NDArray[np.float32]:
    rows = [sequence.extend(tokens[_PREFIX : _PREFIX + _TAIL])]
    rows += [sequence.extend([token]) for token in tokens[_PREFIX + _TAIL :]]
    return np.stack(rows)
