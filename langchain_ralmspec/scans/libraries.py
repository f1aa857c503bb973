"""Torch where it may be used, FAISS, and its threads."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from langchain_ralmspec.errors import MissingExtraError


def loaded_torch() -> ModuleType | None:
    """Torch where the process has imported it already, as local embeddings do.

    We do not import it for a search: that takes 2 seconds, and a second OpenMP
    runtime beside FAISS's can crash on macOS (faiss-wheels issue 73).
    """
    if sys.modules.get("torch") is None:
        return None
    import torch  # waits for a thread that is still importing it

    return torch


def installed_torch() -> ModuleType | None:
    """Torch, imported now if it is installed."""
    if importlib.util.find_spec("torch"):
        import torch  # noqa: F401
    return loaded_torch()


def installed_faiss() -> ModuleType:
    """FAISS; raises a :class:`MissingExtraError` where it is not installed."""
    try:
        import faiss
    except ImportError as cause:
        raise MissingExtraError.of("faiss", "faiss") from cause
    return faiss


@contextmanager
def one_thread(faiss: ModuleType) -> Iterator[None]:
    """Let FAISS use one thread; OpenMP keeps this number per calling thread."""
    earlier = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(earlier)
