"""How many threads decode."""

from __future__ import annotations

import warnings

from langchain_ralmspec.machine import cores

_CROWDED = 16  # threads a core; on two cores, 32 threads took 0.4 s a token, two 0.07


def default_threads() -> tuple[int, int]:
    """Threads for single tokens and for batches: half of the cores, and all.

    A single token is bound by memory, and its hundreds of small operations each end in
    a barrier: a second hyper-thread, or one put to sleep while another library
    computed, costs more than it brings (two cores: 8 ms with one thread, 7 to 28 ms
    with two).
    """
    n = cores()
    return max(1, n // 2), n


def threads_for(n_threads: int | None) -> tuple[int, int]:
    """Threads for single tokens and for batches, where so many are asked for."""
    if n_threads is None:
        return default_threads()
    if n_threads > _CROWDED * cores():
        warnings.warn(
            f"n_threads={n_threads} on {cores()} usable cores: they will wait for one "
            "another, for seconds a token; leave it out, or give the cores",
            RuntimeWarning,
            stacklevel=3,
        )
    return n_threads, n_threads
