"""Threads that hardly leave one another in peace."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def at_once(use: Callable[[int], object], n_threads: int = 4) -> None:
    """Call something in several threads, with their numbers; raises what they do."""
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(use, range(n_threads)))
    finally:
        sys.setswitchinterval(switching)
