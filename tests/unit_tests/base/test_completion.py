"""Batches of every face: what fails is alone."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    InvalidValueError,
    KNNDatastore,
    KNNLMSpecLLM,
    RaLMSpecLLM,
)
from langchain_ralmspec.base.local import PreparedAnswer
from langchain_ralmspec.knnlm import datastore
from tests.unit_tests.knnlm.fakes import FakeReader

LLMS, CHATS = [RaLMSpecLLM, KNNLMSpecLLM], [ChatRaLMSpec, ChatRapid]


@pytest.fixture(params=[*LLMS, *CHATS])
def face(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """Answers with what it was asked, and refuses or fails at what says so."""

    def answer(self: Any, asked: Any, *_: Any) -> PreparedAnswer:
        text = asked if isinstance(asked, str) else asked[-1].text
        if "refused" in text:
            raise InvalidValueError("it is refused")

        def pieces() -> Any:
            yield text
            if "fails" in text:
                raise ConnectionError("the store is gone")

        usage: Any = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        return PreparedAnswer(pieces(), dict, lambda: usage)

    kind: Any = request.param
    monkeypatch.setattr(kind, "_answer", answer)
    if kind in LLMS:
        engine = SimpleNamespace(path=Path("m.gguf"), n_together=lambda n: n)
        monkeypatch.setattr(kind, "engine", engine)
    if kind is ChatRapid:
        return kind(model_path="m.gguf", context="A long text.")
    if kind is KNNLMSpecLLM:
        monkeypatch.setattr(datastore, "load_reader", lambda *_, **__: FakeReader())
        built = KNNDatastore.build(
            ["abcdefg"], model_path="m.gguf", path=tmp_path / "s"
        )
        return kind(model_path="m.gguf", datastore=built, k=1)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    return kind(model_path="m.gguf", retriever=store)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("config", [None, {"max_concurrency": 2}])
def test_only_the_failing_place_of_a_batch_is_an_exception(
    face: Any, config: Any, is_async: bool
) -> None:
    def batch(asked: list[Any], **words: Any) -> Any:
        if is_async:
            return asyncio.run(face.abatch(asked, config, **words))
        return face.batch(asked, config, **words)

    asked = ["one", "refused", 7, "it fails", "five"]
    found = batch(asked, return_exceptions=True)
    kinds = [type(each) for each in found[1:4]]
    assert kinds == [InvalidValueError, InvalidValueError, ConnectionError]
    assert [getattr(found[at], "text", found[at]) for at in (0, 4)] == ["one", "five"]
    assert batch([], return_exceptions=True) == []
    with pytest.raises(InvalidValueError, match="refused"):
        batch(asked[:2])


@pytest.mark.parametrize("given", [None, b"bytes", 7, {"a": 1}, [b"bytes"]])
def test_what_is_no_input_is_quoted(face: Any, given: Any) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(repr(given))):
        face.invoke(given)
