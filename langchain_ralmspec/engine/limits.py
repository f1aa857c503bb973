"""What llama.cpp, or the machine, would not survive: refused before it is tried."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from langchain_ralmspec.engine.context import KV_BITS
from langchain_ralmspec.errors import ContextOverflowError, InvalidValueError
from langchain_ralmspec.machine import MAX_THREADS, most_memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_ralmspec.engine.context import KVType
    from langchain_ralmspec.engine.weights import Weights

MAX_CONTEXT = 2**24
"""Tokens of a sequence: with the 256 sequences that llama.cpp can have at most, their
cells are still counted in 32 bits. No model was trained on more than ten million."""

RANGES: dict[str, tuple[int, int | None]] = {
    "n_ctx": (0, MAX_CONTEXT),
    "n_batch": (1, MAX_CONTEXT),
    "n_threads": (1, MAX_THREADS),
    "n_gpu_layers": (-1, 2**31 - 1),
    "n_slots": (1, 256),
    "kv_cache_bytes": (0, None),
    "max_queue": (0, None),
}
"""Least and most, if there is one, of the numbers that :meth:`Model.load` takes."""

_CELL_BYTES = 48  # that llama.cpp notes of a token's place in the KV, at least


def require_ranges(**given: int) -> None:
    """Raise an :class:`InvalidValueError` for what llama.cpp would not survive."""
    for name, value in given.items():
        least, most = RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int):
            msg = f"{name} must be a whole number, got {value!r}"
            raise InvalidValueError(msg)
        if value < least or (most is not None and value > most):
            bounds = f"at least {least}" + (
                "" if most is None else f" and at most {most}"
            )
            msg = f"{name} must be {bounds}, got {value}"
            raise InvalidValueError(msg)


def require_size(texts: Iterable[str], n_ctx: int, weights: Weights) -> None:
    """Raise a :class:`ContextOverflowError` for more bytes than tokens can have."""
    size = sum(len(text.encode(errors="replace")) for text in texts)
    if size > n_ctx and size > n_ctx * weights.longest_token:
        msg = (
            f"the request has {size} bytes of text, more than n_ctx={n_ctx} tokens can "
            "have; shorten it, or raise n_ctx"
        )
        raise ContextOverflowError(msg)


_KV_BLOCKS: dict[KVType, int] = {"f16": 1, "q8_0": 32}  # numbers with one scale


def known_kv_type(given: str) -> KVType:
    """The type of the KV with a name; an :class:`InvalidValueError` for others."""
    for name in KV_BITS:
        if given == name:
            return name
    msg = f"kv_type must be one of {[*KV_BITS]}, got {given!r}"
    raise InvalidValueError(msg)


def attention_for(kv_type: KVType, flash_attention: bool | None) -> bool | None:  # noqa: FBT001
    """Whether to use flash attention, which a KV of few bits takes.

    Raises:
        InvalidValueError: it takes it, and it is turned off.
    """
    if kv_type == "f16":
        return flash_attention
    if flash_attention is False:
        msg = f"kv_type={kv_type!r} needs flash attention, which is turned off"
        raise InvalidValueError(msg)
    return True


def host_bytes(weights: Weights, n_tokens: int, kv_type: KVType) -> int:
    """Bytes of memory, that of a GPU aside, that a KV of so many tokens takes."""
    of_a_token = weights.kv_bytes_per_token if weights.n_gpu_layers == 0 else 0
    of_a_token = math.ceil(of_a_token * KV_BITS[kv_type] / KV_BITS["f16"])
    return n_tokens * (of_a_token + _CELL_BYTES)


def require_kv(weights: Weights, n_ctx: int, n_slots: int, kv_type: KVType) -> None:
    """Raise an :class:`InvalidValueError` for a KV that cannot be held.

    As it grows to that, the system would end the process.
    """
    block = _KV_BLOCKS[kv_type]
    if any(width % block for width in weights.head_widths):
        msg = (
            f"kv_type={kv_type!r} takes {block} numbers together, and the model's keys "
            f"and values have {weights.head_widths}; leave kv_type out"
        )
        raise InvalidValueError(msg)
    wanted, most = host_bytes(weights, n_ctx * n_slots, kv_type), most_memory()
    if most is not None and wanted > most:
        msg = (
            f"n_ctx={n_ctx} takes {wanted / 2**30:.1f} GiB for the KV of {n_slots} "
            f"sequences, and this machine can give {most / 2**30:.1f} GiB; lower n_ctx"
        )
        raise InvalidValueError(msg)
