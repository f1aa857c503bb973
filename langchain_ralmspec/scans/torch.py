"""Torch, where it may be used."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


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
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch
