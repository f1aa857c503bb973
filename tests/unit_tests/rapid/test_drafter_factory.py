from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.rapid import Chunk, Conversation
from langchain_ralmspec.rapid.drafter_factory import DrafterFactory
from tests.unit_tests.rapid.fakes import FakeModel, FakeWeights


@pytest.mark.parametrize("kind", ["self", "path", "text"])
def test_a_held_model_needs_its_file_no_more(kind: str, tmp_path: Path) -> None:
    loads: list[tuple[Any, int]] = []

    def load(source: Any, n_ctx: int) -> Any:
        loads.append((source, n_ctx))
        model = FakeModel(n_ctx=n_ctx)
        if kind == "self":
            model.weights = source
        return model

    factory, target, file = DrafterFactory(load), FakeWeights(), tmp_path / "x.gguf"
    file.touch()
    path = str(target.path if kind == "self" else file)
    wanted = {"self": kind, "path": path, "text": f"text:{path}"}[kind]

    def opened(n_tokens: int, wanted: str = wanted) -> Any:
        given: dict[str, Any] = {"target": target, "sampler": None}
        return factory.open(
            wanted,
            n_prompt=1,
            n_beside=8,
            conversation=Conversation(({"role": "user", "content": "?"},), "", "?"),
            chunks=[Chunk(0, (2,) * n_tokens, (b"a",) * n_tokens)],
            is_enough=lambda *_: False,
            **given,
        )

    first = opened(10)
    file.unlink()
    assert opened(20).model is first.model
    assert opened(600).model is not first.model, "it needs a longer context"
    source = target if kind == "self" else path
    assert loads == [(source, 1024), (source, 2048)]
    with pytest.raises(InvalidValueError, match=r"'other\.gguf' is neither"):
        opened(10, "other.gguf")


@pytest.mark.parametrize("kind", ["self", "path"])
def test_a_file_that_was_replaced_is_looked_at_again(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.touch()
    target = FakeWeights(path=file if kind == "self" else Path("target.gguf"))
    pieces, stamp = target.pieces, 0

    def load(source: Any, n_ctx: int) -> Any:
        model = FakeModel(n_ctx=n_ctx)
        model.weights = source
        if kind == "path":
            model.weights = FakeWeights(pieces=pieces, path=file, stamp=(stamp, 0))
        return model

    factory = DrafterFactory(load)

    def opened(n_tokens: int) -> Any:
        given: dict[str, Any] = {"target": target, "sampler": None}
        return factory.open(
            "self" if kind == "self" else str(file),
            n_prompt=1,
            n_beside=8,
            conversation=Conversation(({"role": "user", "content": "?"},), "", "?"),
            chunks=[Chunk(0, (2,) * n_tokens, (b"a",) * n_tokens)],
            is_enough=lambda *_: False,
            **given,
        )

    opened(10)
    pieces, stamp = tuple(reversed(pieces)), 1
    if kind == "self":  # the loaded target needs its file no more
        assert opened(600).model.weights is target
        target = FakeWeights(path=file, stamp=(1, 0))  # until it is loaded anew
        assert opened(600).model.weights is target
        return
    with pytest.raises(InvalidValueError, match="has another vocabulary"):
        opened(600)
