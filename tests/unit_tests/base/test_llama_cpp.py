"""Every argument of LangChain's models over llama.cpp is taken, or told about."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.prompts import PromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from llama_cpp.llama_grammar import LlamaGrammar

from langchain_ralmspec import (
    ChatRaLMSpec,
    ChatRapid,
    RapidChain,
    UnknownArgumentError,
)
from langchain_ralmspec.base.llama_cpp import NO_COUNTERPART

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_community.chat_models import ChatLlamaCpp
    from langchain_community.llms import LlamaCpp

THEIRS = {*ChatLlamaCpp.model_fields} - {*BaseChatModel.model_fields} | (
    {*LlamaCpp.model_fields} - {*BaseLLM.model_fields}
)
PAGE = Path(__file__).parents[3] / "docs" / "from-llama-cpp.md"


def test_each_is_taken_or_has_a_sentence() -> None:
    assert THEIRS - {*RapidChain.model_fields} == {*NO_COUNTERPART}


@pytest.mark.parametrize("name", sorted(NO_COUNTERPART))
def test_what_is_refused_says_what_to_do(name: str) -> None:
    told = re.escape(f"RapidChain has no argument {name!r}: {NO_COUNTERPART[name]}")
    with pytest.raises(UnknownArgumentError, match=told):
        RapidChain(model_path="m.gguf", **{name: 1})  # type: ignore[arg-type]


def test_so_does_what_is_refused_in_a_call() -> None:
    chat = ChatRapid(model_path="m.gguf", context="A text.", streaming=True)
    given: dict[str, Any] = {"logprobs": True}
    with pytest.raises(
        UnknownArgumentError, match="'logprobs': there is no counterpart"
    ):
        chat.invoke("Why?", **given)


def table() -> dict[str, tuple[str, str, str]]:
    """What the page says of an argument: defaults there and here, and a sentence."""
    section = PAGE.read_text(encoding="utf-8").partition("## Arguments\n")[2]
    row = r"^\| `(\w+)` \| (.*?) ?\| (.*?) ?\| (.+) \|$"
    rows = re.findall(row, section, re.MULTILINE)
    return {name: (there, here, told) for name, there, here, told in rows}


def test_the_page_has_them_all_and_says_what_is_refused() -> None:
    told = table()
    assert {*told} == THEIRS
    taken = {*NO_COUNTERPART} & {*ChatRaLMSpec.model_fields}
    assert taken == {"streaming"}
    for name, sentence in NO_COUNTERPART.items():
        if name in taken:  # by chats; the page says who does not
            assert "RapidChain" in told[name][2]
            continue
        assert told[name][2].replace("`", "") == sentence


def test_the_page_has_the_defaults_of_both() -> None:
    for name, (there, here, _) in table().items():
        for model, shown in ((ChatLlamaCpp, there), (ChatRaLMSpec, here)):
            field = model.model_fields.get(name)
            if field is None:
                assert shown == "–"
            elif not field.is_required():
                default = field.get_default(call_default_factory=True)
                assert shown == f"`{default!r}`", name
            else:
                assert shown == ""


def test_a_grammar_is_taken_as_it_is_held_there() -> None:
    gbnf = 'root ::= "a"'
    there = ChatLlamaCpp.model_construct(
        model_path="m.gguf", grammar=LlamaGrammar.from_string(gbnf)
    )
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    prompt = PromptTemplate.from_template("{context} {question}")
    taken = ChatRaLMSpec.from_chain(retriever=store, prompt=prompt, llm=there)
    own = ChatRaLMSpec(model_path="m.gguf", retriever=store, grammar=there.grammar)
    assert taken.grammar == own.grammar == gbnf
