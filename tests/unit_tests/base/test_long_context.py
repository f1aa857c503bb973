from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from pydantic import ValidationError

from langchain_ralmspec import (
    ChatRapid,
    Draft,
    RapidChain,
    UnknownArgumentError,
)

KINDS = [RapidChain, ChatRapid]


class Own:
    name = "own"

    def propose(self, prefix: Any, n: int) -> Draft:
        return Draft()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"drafter": "lookup"},
        {"drafter": ["lookup", "text:other.gguf"]},
        {"n_gpu_layers": -1},  # look-up alone, without embeddings
    ],
)
@pytest.mark.parametrize("transfer", ["paper", "exact"])
def test_transfer_needs_a_drafter_with_probabilities(
    kind: Any, settings: dict[str, Any], transfer: str
) -> None:
    with pytest.raises(ValidationError, match=f"transfer='{transfer}'.*drafter=.*self"):
        kind(model_path="model.gguf", transfer=transfer, **settings)
    kind(model_path="model.gguf", transfer=transfer, eta=0, **settings)
    lossless = kind(model_path="model.gguf", **settings)
    with pytest.raises(ValidationError, match="has none here"):
        lossless.model_copy(update={"transfer": transfer})


@pytest.mark.parametrize("drafter", ["self", "other.gguf", ["lookup", "self"], Own()])
def test_a_drafter_that_may_have_them_will_do(drafter: Any) -> None:
    RapidChain(model_path="model.gguf", drafter=drafter, transfer="paper")


def test_auto_will_do_on_a_gpu() -> None:
    embeddings = DeterministicFakeEmbedding(size=8)
    on_gpu: dict[str, Any] = {"n_gpu_layers": -1, "embeddings": embeddings}
    RapidChain(model_path="model.gguf", transfer="paper", **on_gpu)


@pytest.mark.parametrize("kind", KINDS)
def test_a_retriever_is_a_context(kind: Any) -> None:
    with pytest.raises(UnknownArgumentError, match="retriever as the context"):
        kind(model_path="model.gguf", retriever=object())


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            "{context} {question} {context}",
            r"\{context\} must stand once.* got 2 times",
        ),
        (
            "{context}{context}\n{question}",
            r"\{context\} must stand once.* got 2 times",
        ),
        ("{question} {context}", "behind it"),
        ("{question} {context} {question}", "behind it"),
        ("{context}", "behind it"),
        ("{question}", "behind it"),
    ],
)
def test_the_context_of_a_template_stands_once_before_the_question(
    template: str, told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        RapidChain(model_path="model.gguf", prompt_template=template)
    twice = "{context}\n{question}\n{question}"  # each is filled in
    RapidChain(model_path="model.gguf", prompt_template=twice)
