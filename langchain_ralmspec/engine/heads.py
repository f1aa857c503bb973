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
    from collections.abc import Container, Sequence

LEAST_PART = 64
"""Tokens of a part at least, which ends where something does that others begin with.

In calls of so many SmolLM2 reads 640 tokens 10 % slower than in calls of 512, in calls
of 128 3 % slower (two cores; not measured on a GPU). Fewer take longer still: without
the kernel that llama.cpp's flash attention has for 64 and more, 32 tokens behind 480
take twice as long each.
"""

FEWEST = 16
"""Tokens of any part at least: of the first one before documents, and of the last one.

SmolLM2 reads 494 tokens in 899 ms, 28 of them first and then the others in 907, and
the others alone, where these 28 are found, in 855 (two cores). Fewer than half as many
spare less than one run differs from another.
"""

_ALIGNMENT = 4
"""Tokens that some kernels (of Q4_K, say) compute together, and a rest otherwise."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first parts of a prefix.

    Attributes:
        key: a checksum of their tokens and of where each part ends.
        length: number of their tokens.
    """

    key: bytes
    length: int


def aligned(n_tokens: int) -> int:
    """So many tokens, or up to three fewer: where a part may end behind which more is.

    Wherever texts are cut so, in calls of ``LEAST_PART`` tokens or more, their tokens
    have the same KV, to the bit, on processors and with flash attention (measured with
    Q4_0, Q8_0, F16 and Q4_K_M; whoever counts on it measures it).
    """
    return n_tokens - n_tokens % _ALIGNMENT


def parted(
    tokens: Sequence[int],
    size: int,
    ends: Sequence[int] = (),
    controls: Container[int] = (),
) -> list[Sequence[int]]:
    """Tokens in parts, each of which is read in calls of its own.

    A part ends where something does that other prefixes begin with as well: the text
    before all documents, a turn of the conversation in it, a document. What is shorter
    than ``LEAST_PART`` goes on into the next part, or at the end into the one before.
    So prefixes that begin with the same turns or documents begin with the same parts.
    All but the last end where they may by :func:`aligned`.

    Args:
        tokens: a prefix.
        size: tokens of a part; the last one of something takes what is too little. So
            many are in each, but for the last one, where nothing ends anywhere.
        ends: after how many tokens something ends, in order: first what stands before
            all documents, then each of them.
        controls: control tokens; turns begin and end with some of them.
    """
    if not ends:
        borders = [*range(0, len(tokens), size), len(tokens)]
    else:
        borders = _borders(tokens, size, ends, controls)
    return [tokens[at:end] for at, end in pairwise(borders)]


def _borders(
    tokens: Sequence[int], size: int, ends: Sequence[int], controls: Container[int]
) -> list[int]:
    """Where parts begin and end."""
    n_before, *_ = ends
    turns = (at for at, token in enumerate(tokens[:n_before]) if token in controls)
    found = [0]
    for end in (*turns, *ends):
        is_first, stop = end == n_before and len(found) == 1, aligned(end)
        least = min(FEWEST if is_first else LEAST_PART, size)
        if least <= stop - found[-1] and stop < len(tokens):
            found += _blocks(found[-1], stop, size)
    if found[-1] and len(tokens) - found[-1] < min(FEWEST, size):
        found.pop()
    return [*found, *_blocks(found[-1], len(tokens), size)]


def _blocks(start: int, stop: int, size: int) -> list[int]:
    """Ends of blocks of ``size``, the last of which takes what is too little."""
    ends = [*range(start + size, stop, size), stop] if stop > start else []
    if len(ends) > 1 and (stop - start) % size:
        del ends[-2]
    return ends


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
