"""FAISS's threads."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@contextmanager
def one_thread(faiss: ModuleType) -> Iterator[None]:
    """Let FAISS use one thread; OpenMP keeps this number per calling thread."""
    earlier = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(earlier)
