from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_ralmspec.errors import ContextOverflowError
from langchain_ralmspec.rapid import context
from langchain_ralmspec.rapid.context import ContextCache

WEIGHTS = SimpleNamespace(
    tokenize=lambda text: [*text.encode()], piece=lambda token: bytes([token])
)
MODEL: Any = SimpleNamespace(weights=WEIGHTS, n_ctx=2048, require_size=lambda *_: None)
EMBEDDINGS = DeterministicFakeEmbedding(size=8)


def read(cache: ContextCache, text: str, **settings: Any) -> context.LongContext:
    usual = {"n_other": 100, "may_truncate": True, "chunk_tokens": 64}
    return cache.read(text, MODEL, **{**usual, "embeddings": EMBEDDINGS, **settings})


def test_a_context_is_read_once_for_its_settings() -> None:
    cache = ContextCache()
    first = read(cache, "A text. " * 40)
    assert bytes(first.tokens).decode() == "A text. " * 40
    assert read(cache, "A text. " * 40, n_other=500) is first
    others: list[dict[str, Any]] = [
        {"chunk_tokens": 32}, {"embeddings": None}, {"namespace": "red"},
    ]  # fmt: skip
    for other in others:
        assert read(cache, "A text. " * 40, **other) is not first
    assert read(cache, "A text! " * 40) is not first
    assert read(cache, "A text. " * 40) is first


def test_the_latest_contexts_are_kept() -> None:
    cache = ContextCache()
    texts = [f"Text {number}." for number in range(context._N_KEPT + 1)]
    kept = [read(cache, text) for text in texts]
    assert read(cache, texts[-1]) is kept[-1]
    assert read(cache, texts[1]) is kept[1]
    assert read(cache, texts[0]) is not kept[0]


def test_what_does_not_fit_is_dropped_with_a_warning_or_refused() -> None:
    cache, text = ContextCache(), "word " * 500
    with pytest.warns(RuntimeWarning, match=r"last 964 of .* 2500 .* room for 1536"):
        cut = read(cache, text)
    assert (len(cut.tokens), cut.n_dropped) == (1536, 964)
    with pytest.warns(RuntimeWarning, match="dropped"):
        assert read(cache, text, n_other=400) is cut, "questions share the context"
    with pytest.raises(ContextOverflowError, match=r"2500 .*take 100.*n_ctx=2048"):
        read(cache, text, may_truncate=False)
    with pytest.raises(ContextOverflowError, match="take 2000"):
        read(cache, text, n_other=2000)


def test_a_context_is_cut_between_two_characters() -> None:
    with pytest.warns(RuntimeWarning, match=r"last 1722 of .* 3000 .* room for 1280"):
        cut = read(ContextCache(), "文字書類字" * 200, n_other=547)
    assert bytes(cut.tokens).decode() == ("文字書類字" * 200)[:426]


def test_a_long_text_is_made_tokens_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def tokenize(text: str) -> list[int]:
        asked.append(text)
        return [*text.encode()]

    monkeypatch.setattr(WEIGHTS, "tokenize", tokenize)
    cache, text = ContextCache(), "word " * 500
    for n_other in (100, 600, 100):
        with pytest.warns(RuntimeWarning, match="dropped"):
            read(cache, text, n_other=n_other)
    assert asked == [text]


def test_there_is_an_index_where_there_are_embeddings() -> None:
    cache, text = ContextCache(), "One sentence. " * 30
    index = read(cache, text).index
    assert index is not None
    found = index.retrieve("Which?", 50, -1.0)
    assert 0 < sum(len(chunk.tokens) for chunk in found) <= 50
    assert read(cache, text, embeddings=None).index is None
