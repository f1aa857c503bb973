"""Texts into entries: the hidden state at every token, and the token behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from langchain_ralmspec.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Sequence as Tokens

    from numpy.typing import NDArray

    from langchain_ralmspec.engine import Model

# A text's first token stays, BOS or not: attention rests there (arXiv 2309.17453).
# Without it the cosine of SmolLM2's keys and those of a longer context is 0.80, not
# 0.996.
_KEPT = 1


def entries_of(
    model: Model, tokens: Tokens[int]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Keys and next tokens of one text, call by call.

    A text longer than the context is read in steps of half of it, the first half
    making room each time: a key has seen at least half a context before it, and no
    token is computed twice.

    Args:
        model: whose ``n_ctx`` is the longest context of a key.
        tokens: of the text, BOS included where the model wants one.

    Yields:
        ``(n, dimension)`` keys and ``(n,)`` tokens.
    """
    sequence = model.new_sequence()
    step = max(1, min(model.n_batch, model.n_ctx // 2))
    for start in range(0, len(tokens) - 1, step):
        part = tokens[start : min(start + step, len(tokens) - 1)]
        excess = sequence.length + len(part) - model.n_ctx
        if excess <= 0:
            _, keys = sequence.observe(part, n_logits=0)
        else:
            old = min(sequence.length - _KEPT, max(excess, step))
            try:
                _, keys = sequence.observe(part, n_logits=0, forget=old, keep=_KEPT)
            except DecodeError:  # a memory that cannot be cut: begin again
                sequence = model.new_sequence()
                _, keys = sequence.observe(part, n_logits=0)
        following = tokens[start + 1 : start + 1 + len(part)]
        yield keys, np.asarray(following, np.int32)
