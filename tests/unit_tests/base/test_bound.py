"""What is bound to a model, or to a choice of some, comes to what is made of that."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    InvalidValueError,
    RaLMSpecLLM,
    RapidChain,
)
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


def faces() -> dict[str, Any]:
    own: dict[str, Any] = {"model_path": "m.gguf"}
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    return {
        "chat": ChatRaLMSpec(retriever=store, **own),
        "llm": RaLMSpecLLM(retriever=store, **own),
        "rapid": ChatRapid(context="A text.", **own),
        "chain": RapidChain(**own),
    }


READING = [
    *(("chat", name) for name in ("start", "warm", "passages_of", "warm_up")),
    *(("llm", name) for name in ("generate", "warm", "passages_of")),
    *(("rapid", name) for name in ("generate_prompt", "warm_up")),
    *(("chain", name) for name in ("start", "preload", "warm_up")),
]


@pytest.mark.parametrize(("face", "name"), READING)
def test_what_reads_elsewhere_than_was_bound_is_refused(face: str, name: str) -> None:
    plain = faces()[face]
    field = ConfigurableField(id="n")
    for made in (
        plain.bind(kv_namespace="red"),
        plain.bind(kv_namespace="red").with_config(tags=["x"]),
        plain.with_config(tags=["x"]).bind(kv_namespace="red"),
        plain.with_listeners(on_start=None).bind(kv_namespace="red"),
        plain.bind(kv_namespace="red").configurable_fields(kwargs=field),
        plain.bind(kv_namespace="red").with_fallbacks([plain]),
        plain.with_fallbacks([plain]).bind(kv_namespace="red"),
        plain.configurable_alternatives(field, b=plain).bind(kv_namespace="red"),
    ):
        with pytest.raises(
            InvalidValueError, match=rf"{name}\(\) does not know of the"
        ):
            getattr(made, name)
    for other in (plain, plain.bind(max_tokens=3)):
        assert callable(getattr(other, name))


def test_a_chain_reads_into_the_namespace_that_is_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RapidChain, "preload", lambda self, _: self.kv_namespace)
    field = ConfigurableField(id="kv")
    chain = faces()["chain"].configurable_fields(kv_namespace=field)
    assert chain.preload("A text.") is None
    assert chain.with_config(configurable={"kv": "red"}).preload("A text.") == "red"


def test_a_bound_chain_passes_on_what_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Any, inputs: Any, run_manager: Any, **given: Any) -> Any:
        yield {"answer": str(given), "asked": next(inputs)}

    monkeypatch.setattr(RapidChain, "_answer", answer)
    plain, asked = faces()["chain"], {"question": "?"}
    bound = plain.bind(kv_namespace="red")
    for made in (bound, bound.with_fallbacks([plain]), bound.with_config(tags=["x"])):
        expected = {"answer": "{'kv_namespace': 'red'}", "asked": asked}
        assert made.invoke(asked) == expected
        assert list(made.stream(asked)) == [expected]
        assert made.batch([asked]) == [expected]
    assert callable(bound.get_num_tokens)
