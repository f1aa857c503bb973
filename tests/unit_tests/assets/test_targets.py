from collections.abc import Callable
from pathlib import Path

import pytest

from langchain_ralmspec.assets import targets
from langchain_ralmspec.errors import InvalidValueError


def test_a_target_may_name_a_quantisation(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, quantization: str, progress: Callable[..., None]) -> Path:
        return Path(f"{name} {quantization}")

    monkeypatch.setattr(targets, "model_path", found)
    assert targets.find_gguf("smollm2-135m:F16") == "smollm2-135m F16"
    with pytest.raises(InvalidValueError, match="'minilm' writes no text"):
        targets.find_gguf("minilm")
    with pytest.raises(InvalidValueError, match="'other:F16' is neither"):
        targets.find_gguf("other:F16")


def test_an_encoder_is_a_name_or_a_folder(tmp_path: Path) -> None:
    for nothing in ("smollm2-135m", str(tmp_path)):
        with pytest.raises(InvalidValueError, match="nor one of minilm"):
            targets.find_embeddings(nothing)
