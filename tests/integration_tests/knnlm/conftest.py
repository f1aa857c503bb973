"""A datastore of passages about Python, and models that generate with it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from langchain_ralmspec import KNNDatastore, KNNLMSpecLLM
from langchain_ralmspec.assets.corpus import stdlib_passages
from langchain_ralmspec.engine import Model
from langchain_ralmspec.knnlm import datastore
from langchain_ralmspec.knnlm.keys import load_reader
from tests.integration_tests.conftest import QUESTIONS

N_TEXTS = 75
N_PROMPTS = 20


@pytest.fixture(scope="session")
def texts() -> list[str]:
    passages = stdlib_passages()
    return [passage.text for passage in passages[:: len(passages) // N_TEXTS]]


@pytest.fixture(scope="session")
def prompts(texts: list[str]) -> list[str]:
    """Beginnings of texts that are in the datastore, questions, and others."""
    known = [" ".join(text.split()[:12]) for text in texts[3::13]]
    others = ["Once upon a time", "The", "def add(a, b):\n    return", "É"]
    return [*known, *others, *QUESTIONS][:N_PROMPTS]


@pytest.fixture(scope="session")
def reader(gguf: str) -> Model:
    """The model as datastores are built with it."""
    return load_reader(gguf)


@pytest.fixture(scope="session")
def folder(
    texts: list[str], gguf: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("knnlm") / "store"
    return KNNDatastore.build(texts, model_path=gguf, path=path).path


@pytest.fixture(scope="session")
def store_of(folder: Path) -> Callable[[Any], KNNDatastore]:
    return cache(lambda index: KNNDatastore.load(folder, index=index.split(",")[0]))


@pytest.fixture
def few_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have few entries guessed from as many would be."""
    monkeypatch.setattr(datastore, "PROBED_FROM", 1)


@pytest.fixture
def make(gguf: str, model: Model, store_of: Callable[[str], KNNDatastore]) -> Any:
    usual = {"model_path": gguf, "datastore": store_of("flat"), "max_tokens": 16}

    def make(**settings: Any) -> KNNLMSpecLLM:
        given: dict[str, Any] = usual | settings
        return KNNLMSpecLLM(**given)

    return make
