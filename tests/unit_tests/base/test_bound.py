"""What is bound to a model, or to a choice of some, comes to what is made of that."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel

from langchain_ralmspec import ChatRaLMSpec, InvalidValueError, RaLMSpecLLM
from langchain_ralmspec.base.local import PreparedAnswer


def look() -> str:
    """Look."""
    return "x"


class Verdict(BaseModel):
    """A verdict."""

    good: bool


def heard(model: Any, config: Any) -> list[dict[str, Any]]:
    """What arguments a call comes to each time."""
    given: list[dict[str, Any]] = []

    def answer(self: Any, *asked: Any) -> PreparedAnswer:
        given.append(dict(asked[2]))
        usage: Any = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        return PreparedAnswer(iter(['{"good": true}']), dict, lambda: usage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChatRaLMSpec, "_answer", answer)
        patch.setattr(ChatRaLMSpec, "_begins_inside_thought", False, raising=False)
        with suppress(Exception):  # no call is made
            model.invoke("?", config)
    return given


def of(tenant: str) -> dict[str, str]:
    return {"tenant": tenant}


def test_tools_come_to_the_alternative_with_what_is_bound_to_that() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    chat = ChatRaLMSpec(model_path="m.gguf", retriever=store)
    field = ConfigurableField(id="tenant")
    alternatives = chat.bind(filter=of("a")).configurable_alternatives(
        field,
        default_key="a",
        b=chat.bind(filter=of("b")),
        c=lambda: chat.bind(filter=of("c")),
    )
    for made in (
        alternatives,
        alternatives.bind_tools([look]),
        alternatives.with_config(tags=["x"]).bind_tools([look]),
        alternatives.with_structured_output(Verdict),
        alternatives.with_structured_output(Verdict, method="function_calling"),
    ):
        for tenant in ("a", "b", "c"):
            (given,) = heard(made, {"configurable": {"tenant": tenant}})
            assert given["filter"] == of(tenant)


def test_tools_come_to_what_a_config_makes_of_a_bound_chat() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    chat = ChatRaLMSpec(model_path="m.gguf", retriever=store)
    field = ConfigurableField(id="kw")
    made = chat.bind(filter=of("a")).configurable_fields(kwargs=field)
    config = {"configurable": {"kw": {"filter": of("b")}}}
    for each in (made, made.bind_tools([look]), made.with_structured_output(Verdict)):
        (given,) = heard(each, config)
        assert given["filter"] == of("b")


def test_what_is_asked_of_a_configured_choice_is_asked_of_what_it_chooses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RaLMSpecLLM, "get_num_tokens", lambda self, _: self.max_tokens)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    small = RaLMSpecLLM(model_path="m.gguf", retriever=store, max_tokens=1)
    big = small.model_copy(update={"max_tokens": 2})
    fields = small.configurable_fields(max_tokens=ConfigurableField(id="size"))
    others = small.configurable_alternatives(ConfigurableField(id="n"), big=big)
    for made, values in ((fields, {"size": 2}), (others, {"n": "big"})):
        assert made.with_config(configurable=values).get_num_tokens("x") == 2
        more = made.with_config(configurable={**values, "other": 3})
        with pytest.raises(InvalidValueError, match="does not know of the config"):
            more.generate(["x"])
