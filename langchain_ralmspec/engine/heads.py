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
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Head:
    """The first parts of a prefix.

    Attributes:
        key: a checksum of their tokens and of where each part ends.
        length: number of their tokens.
    """

    key: bytes
    length: int


def parted(
    tokens: Sequence[int], size: int, n_shared: int | None = None
) -> list[Sequence[int]]:
    """Tokens in parts of ``size``, the last of them shorter.

    Where ``n_shared`` is given, a last part that would be shorter joins the one before
    it, unless that ends within so many tokens, which other prefixes begin with as well.
    A call with few tokens takes longer a token than one with many (SmolLM2, two cores:
    39 tokens 1.4 times as long as 256).
    """
    starts = [*range(0, len(tokens), size)]
    is_short = len(tokens) % size > 0
    if n_shared is not None and is_short and starts[-1] > n_shared:
        del starts[-1]
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
