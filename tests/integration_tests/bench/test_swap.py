"""The swap of a chain that retrieves once, measured end to end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from langchain_ralmspec.bench import swap

if TYPE_CHECKING:
    from pathlib import Path


def test_both_chains_read_the_same_documents(tmp_path: Path) -> None:
    corpus, figures = tmp_path / "corpus.jsonl", tmp_path / "figures.json"
    texts = ("A heap is a tree.", "A list is a row.", "A set has no order.")
    lines = (json.dumps({"id": text[2], "text": text}) for text in texts)
    corpus.write_text("\n".join(lines), encoding="utf-8")
    told = swap.Benchmark(
        corpus=corpus, limit=2, k=2, max_tokens=3, n_ctx=512, json=figures
    ).run()
    assert swap.found_the_same(told)
    assert [*told["summary"]["rounds"]] == [*swap.ROUNDS]
    for answer in told["answers"]:
        for which in ("old", "new"):
            assert 0 < answer[which]["first_text"] <= answer[which]["seconds"]
    assert json.loads(figures.read_text("utf-8"))["summary"] == told["summary"]
    told["summary"]["same_documents"] = 1
    assert not swap.found_the_same(told)
