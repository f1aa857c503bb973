"""What token prefixes begin with alike, in whole parts.

A call's results depend on its shape. Tokens of whole parts, each read in calls of its
own from the beginning on, have the same KV whatever comes behind them, to the bit;
those of a part that is cut otherwise do not. So prefixes are told apart by their parts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

LEAST_SHARED = 16
"""Tokens of the last part at least of what prefixes share, or others join it.

As many take as long beside others as a call of its own takes more: SmolLM2 reads 17
tokens alone in 84 ms and beside 500 others in 42 ms (two cores).
"""

LEAST_TURN = 64
"""Tokens of the turns of a conversation that are a part, at least.

In calls of so many SmolLM2 reads 640 tokens 10 % slower than in calls of 512 (two
cores), once; shorter parts would be slower still.
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The first parts of a prefix.

    Attributes:
        key: a checksum of their tokens and of where each part ends.
        length: number of their tokens.
    """

    key: bytes
    length: int


def parted(tokens: Sequence[int], size: int) -> list[Sequence[int]]:
    """Tokens in parts of ``size``, the last of them shorter."""
    return _cut(tokens, range(0, len(tokens), size))


def parted_behind(
    tokens: Sequence[int], size: int, n_shared: int, turns: Container[int]
) -> list[Sequence[int]]:
    """Tokens in parts of ``size``, behind what other prefixes begin with as well.

    That ends where :func:`n_apart` has it, and is parted between the turns of a
    conversation; so one that has grown begins with all its parts but the last. At the
    end, what is too little for a part joins the one before it: a call with few tokens
    takes longer a token than one with many (SmolLM2, two cores: 39 tokens 1.4 times as
    long as 256).

    Args:
        tokens: a prefix.
        size: tokens of a part at most, but for the last one.
        n_shared: how many of the tokens others begin with.
        turns: tokens that a turn begins or ends with.
    """
    *shared, start = _turns(tokens[:n_shared], size, turns)
    rest = [*range(start, len(tokens), size)]
    if len(rest) > 1 and (len(tokens) - start) % size:
        del rest[-1]
    return _cut(tokens, [*shared, *rest])


def n_apart(tokens: Sequence[int], size: int, turns: Container[int]) -> int:
    """How many tokens have parts of their own, of those that prefixes begin with."""
    return _turns(tokens, size, turns)[-1]


def _turns(tokens: Sequence[int], size: int, turns: Container[int]) -> list[int]:
    """Where the parts of a conversation start, and where the last of them ends."""
    starts = [0]
    for number, token in enumerate(tokens):
        n = number - starts[-1]
        if n == size or (n >= LEAST_TURN and token in turns):
            starts.append(number)
    if len(tokens) - starts[-1] >= min(LEAST_SHARED, size):
        starts.append(len(tokens))
    return starts


def _cut(tokens: Sequence[int], starts: Iterable[int]) -> list[Sequence[int]]:
    return [tokens[at:end] for at, end in pairwise([*starts, len(tokens)])]


def start_within(namespace: str | None, start: bytes) -> bytes:
    """Where the keys of heads begin that are found within a namespace alone.

    ``None`` is the one that all share; ``start`` is as in :func:`heads_of`.
    """
    if namespace is None:
        return start
    # No token has these bytes, so no text of those who share is found under this key.
    label = b"kv_namespace=" + namespace.encode(errors="surrogatepass")
    return hashlib.sha256(start + label).digest()


def heads_of(parts: Sequence[Sequence[int]], start: bytes = b"") -> list[Head]:
    """The first part of a prefix, its first two parts, and so on up to all of it.

    ``start`` is what the KV depends on besides the tokens.
    """
    heads: list[Head] = []
    key, length = start, 0
    for part in parts:
        # Every checksum is as long, so none runs over into the tokens behind it.
        key = hashlib.sha256(key + np.array(part, "<i4").tobytes()).digest()
        length += len(part)
        heads.append(Head(key, length))
    return heads
