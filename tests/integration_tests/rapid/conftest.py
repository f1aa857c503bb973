"""A long context, and faces of RAPID over a real model."""

from typing import Any

import pytest

from langchain_ralmspec import DraftStats, RapidChain
from langchain_ralmspec.answer.run import Run
from tests.integration_tests.conftest import Corpus

N_CTX = 2048


@pytest.fixture(scope="module")
def context(corpus: Corpus) -> str:
    return "\n\n".join(corpus.texts[:18])[:4000]


@pytest.fixture(scope="module")
def make(gguf: str, corpus: Corpus) -> Any:
    held: list[Any] = []  # keeps the loaded model for the next test

    def make(kind: Any = RapidChain, **settings: Any) -> Any:
        defaults = {
            "model_path": gguf,
            "embeddings": corpus.embeddings,
            "n_ctx": N_CTX,
            "max_tokens": 24,
            "exact_batches": True,
        }
        face = kind(**{**defaults, **settings})
        if settings.keys() <= {"drafter", "draft_length", "max_tokens"}:
            held[:] = [face.engine]
        return face

    return make


def answered(chain: RapidChain, question: str, context: Any) -> Run[DraftStats]:
    run = chain.start(question, context)
    text = "".join(run)
    assert text or not run.tokens
    return run


def answer(chain: RapidChain, question: str, context: Any) -> list[int]:
    return answered(chain, question, context).tokens
