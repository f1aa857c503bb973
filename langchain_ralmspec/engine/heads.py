"""What token prefixes begin with alike, in whole decode calls, or in whole parts.

A call's results depend on its shape. Tokens of whole calls, read from the beginning in
the one canonical way, have the same KV whatever comes behind them, to the bit; those of
a last, shorter call do not. So a text that has grown goes on behind the whole calls.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_ENDS = ((), (-1,))
_UNSOUND = (OSError, ValueError, RecursionError, KeyError, TypeError)


BOUNDARY = -1
"""Between the parts of a key; no token has this id."""


def joined(parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The key of a prefix of which each part had decode calls of its own."""
    return tuple(token for part in parts for token in (BOUNDARY, *part))[1:]


def n_shared(key: tuple[int, ...], parts: Sequence[Sequence[int]]) -> int:
    """Number of first parts with which a key begins."""
    n, start = 0, 0
    for part in parts:
        end = start + len(part)
        if key[start:end] != tuple(part) or key[end : end + 1] not in _ENDS:
            break
        n, start = n + 1, end + 1
    return n


def n_common(one: Sequence[int], other: Sequence[int], step: int) -> int:
    """Tokens that two prefixes begin with alike, as whole calls of ``step``."""
    n, least = 0, min(len(one), len(other))
    while n + step <= least and one[n : n + step] == other[n : n + step]:
        n += step
    return n


def digests(start: Any, tokens: Sequence[int], step: int) -> list[str]:
    """Checksums of the first call's tokens, the first two calls', and so on.

    ``start`` is a hash of :mod:`hashlib` that what comes before has gone into.
    """
    running, made = start.copy(), []
    for at in range(step, len(tokens) + 1, step):
        running.update(np.array(tokens[at - step : at], "<i4").tobytes())
        made.append(running.hexdigest())
    return made


def best_entry(
    files: Iterable[Path], wanted: Sequence[str]
) -> tuple[str, int, int] | None:
    """Find the entry of a folder that begins with most of some heads.

    Returns:
        Its key, its number of tokens, and the number of heads in common; None where
        no entry has any.
    """
    found: list[tuple[int, str, int]] = []
    for file in files:
        # An unsound description tells of nothing here; who reads its entry is warned.
        with contextlib.suppress(*_UNSOUND):
            said = json.loads(file.read_bytes())
            heads, n_tokens = said["heads"], int(said["n_tokens"])
            pairs = zip(heads, wanted, strict=False)
            n = sum(own == other for own, other in pairs)
            found += [(n, file.stem, n_tokens)] if n else []
    n, key, n_tokens = max(found, default=(0, "", 0))
    return (key, n_tokens, n) if n else None
