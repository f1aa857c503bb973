"""Files that are missing are found when a face is made; copies need none."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from langchain_ralmspec import (
    BM25Store,
    ChatRaLMSpec,
    ChatRapid,
    ModelFileError,
    RaLMSpecLLM,
    RaLMSpecRetriever,
    RapidChain,
)
from langchain_ralmspec.base import local, long_context
from tests.unit_tests.conftest import FIND_FILE, REQUIRE_KNOWN

STORE = RaLMSpecRetriever(vectorstore=BM25Store.from_documents([Document("a heap")]))
FACES: list[tuple[Any, dict[str, Any]]] = [
    (RaLMSpecLLM, {"retriever": STORE}),
    (ChatRaLMSpec, {"retriever": STORE}),
    (RapidChain, {}),
    (ChatRapid, {}),
]


@pytest.fixture(autouse=True)
def _looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_file", FIND_FILE)
    monkeypatch.setattr(long_context, "require_known", REQUIRE_KNOWN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and the rest")
    return file


@pytest.mark.parametrize(("kind", "own"), FACES)
def test_a_missing_file_is_found_at_once(
    kind: Any, own: dict[str, Any], file: Path
) -> None:
    with pytest.raises(ModelFileError, match=r"no model file at '/no/such\.gguf'"):
        kind(model_path="/no/such.gguf", **own)
    other = file.with_name("text.txt")
    other.write_text("once upon a time")
    with pytest.raises(ModelFileError, match=r"text\.txt' is not a GGUF file"):
        kind(model_path=str(other), **own)

    face = kind(model_path=str(file), **own)
    pickled = pickle.dumps(face)
    file.unlink()
    for copy in (
        face.model_copy(update={"max_tokens": 3}),
        pickle.loads(pickled),  # noqa: S301  our own
    ):
        assert copy.model_path == str(file)


def test_a_file_that_may_not_be_read_is_a_model_file_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def barred(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    for method in ("open", "is_file"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, barred)
            with pytest.raises(ModelFileError, match=r"model\.gguf' may not be read"):
                ChatRapid(model_path=str(file))


def test_a_configured_model_is_looked_for_when_it_is_configured(file: Path) -> None:
    chat = ChatRapid(model_path=str(file)).configurable_fields(
        model_path=ConfigurableField("path"), max_tokens=ConfigurableField("tokens")
    )
    other = chat.with_config(configurable={"tokens": 5, "path": str(file)})
    assert other.prepare()[0].max_tokens == 5
    assert other.prepare()[0] is other.prepare()[0], "with the model that it loads"
    missing = chat.with_config(configurable={"path": "/no/such.gguf"})
    with pytest.raises(ModelFileError, match=r"/no/such\.gguf"):
        missing.invoke("Who?", context="Ahab.")


@pytest.mark.parametrize("kind", [ChatRapid, RapidChain])
def test_what_is_configured_alike_is_made_once(
    kind: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kind(model_path=str(file), stop=["x"])
    fields = {
        "max_tokens": ConfigurableField("tokens"),
        "stop": ConfigurableField("s"),
        "model_path": ConfigurableField("path"),
    }

    def made(**configurable: Any) -> Any:
        # A binding of a chat knows itself what it configures.
        bound = model.configurable_fields(**fields).with_config(
            configurable=configurable
        )
        return bound.prepare({"configurable": configurable})[0]

    assert made() is model
    first, stop = made(tokens=5), ["y"]
    assert made(tokens=5) is first
    assert made(tokens=6).max_tokens == 6
    assert made(tokens=5, s=stop) is made(tokens=5, s=["y"])
    stop.append("z")
    assert made(tokens=5, s=stop).stop == ["y", "z"]
    assert made(path=Path(file)) is made(path=Path(file))
    model.max_tokens, model.temperature = 7, 0.5
    assert made(tokens=5) is not first
    assert made(tokens=5).temperature == 0.5
    first = made(tokens=5)
    for n in range(10, 13):
        made(tokens=n)
        assert made(tokens=5) is first
    for n in range(20, 24):
        made(tokens=n)
    assert made(tokens=5) is not first, "the latest are kept"
    first = made(tokens=5)
    closed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(kind, "_forget", lambda self: closed.append(id(self)))
        model.close()
    assert id(first) in closed
    assert made(tokens=5) is not first, "it was closed with the model"


@pytest.mark.parametrize(
    ("drafter", "message"),
    [
        ("lokup", "did you mean 'lookup'"),
        ("/no/such.gguf", r"'/no/such\.gguf' is neither"),
        (["lookup", "text:/no/such.gguf"], r"'text:/no/such\.gguf' is neither"),
    ],
)
def test_so_is_the_file_of_a_drafter(file: Path, drafter: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RapidChain(model_path=str(file), drafter=drafter)
    for sound in ("lookup", "self", "auto", str(file), f"text:{file}", file):
        RapidChain(model_path=str(file), drafter=sound)
