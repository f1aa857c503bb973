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
    """The same KV as a context with ``n_streams`` sequences would have saved it."""
    size = _NUMBER.itemsize
    head = state[: _N_HEAD * size].view(_NUMBER).copy()
    n_before = int(head[-1])
    if n_before == n_streams:
        return state
    head[-1] = n_streams
    counts = state[head.nbytes : head.nbytes + n_before * size].view(_NUMBER)
    before_full = int(np.argmax(counts != 0))  # 0 where all are empty
    start = head.nbytes + before_full * size
    end = state.size - (n_before - before_full - 1) * size
    empty = np.zeros(n_streams - 1, _NUMBER)
    return np.concatenate([head.view(np.uint8), state[start:end], empty.view(np.uint8)])
