"""The saved KV of a sequence, for contexts with another number of sequences.

llama.cpp keeps sequences in streams, one each, and loads what it has saved of one only
where there are as many. It saves a mark, the sequence's number and that of streams, and
then for every stream a count of tokens, with what is kept of these behind it. Only one
stream has any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBER = np.dtype("<u4")
_N_HEAD = 3  # numbers, the last of them that of streams


def is_saved_so(state: NDArray[np.uint8], n_streams: int) -> bool:
    """Whether this is how an empty sequence is saved, the first of ``n_streams``."""
    if state.size != (_N_HEAD + n_streams) * _NUMBER.itemsize:
        return False
    expected = [0, n_streams, *[0] * n_streams]  # behind the mark
    return bool(np.array_equal(state.view(_NUMBER)[1:], expected))


def with_streams(state: NDArray[np.uint8], n_streams: int) -> NDArray[np.uint8]:
    """The same KV as a context with ``n_streams`` sequences would have saved it.

    What is no saved KV stays as it is, for llama.cpp to refuse.
    """
    size = _NUMBER.itemsize
    n_before = _number_of_streams(state)
    if n_before in (0, n_streams):
        return state
    head, rest = state[: _N_HEAD * size].copy(), state[_N_HEAD * size :]
    head.view(_NUMBER)[-1] = n_streams
    counts = rest[: n_before * size].view(_NUMBER)
    n_empty = int(np.argmax(counts != 0))  # before the full one; 0 where all are empty
    full = rest[n_empty * size : rest.size - (n_before - n_empty - 1) * size]
    return np.concatenate([head, full, np.zeros((n_streams - 1) * size, np.uint8)])


def _number_of_streams(state: NDArray[np.uint8]) -> int:
    """How many a saved KV has; 0 where it is none."""
    n_bytes = _N_HEAD * _NUMBER.itemsize
    if state.size < n_bytes:
        return 0
    number = int(state[:n_bytes].view(_NUMBER)[-1])
    return number if state.size >= n_bytes + number * _NUMBER.itemsize else 0
