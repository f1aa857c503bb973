"""Which form each scan of a FAISS index takes."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_ralmspec.scans import BATCHES, Scan
from langchain_ralmspec.stores import faiss_index

Scanned = list[tuple[str, int]]


def take(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Let every scan choose that form, if it may, and the smallest index have one."""

    def fastest(scan: Any) -> Any:
        wanted = form if form != "bfloat16" or scan._is_rounded else "torch"
        return dict.fromkeys(BATCHES, wanted) | {1: "rival"}

    monkeypatch.setattr(faiss_index, "SMALL_SCAN", 0)
    monkeypatch.setattr(Scan, "_fastest", fastest)


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> Scanned:
    """The form and the number of queries of each scan; bfloat16 is the fastest."""
    seen: Scanned = []
    found = Scan._found

    def spy(self: Scan, name: Any, queries: Any, k: int) -> Any:
        if k > 1:  # else it is only prepared
            seen.append((name, len(queries)))
        return found(self, name, queries, k)

    take(monkeypatch, "bfloat16")
    monkeypatch.setattr(Scan, "_found", spy)
    return seen
