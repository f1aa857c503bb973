"""Under a grammar, too: speculative against sequential, token by token."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import jsonschema
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage

from langchain_ralmspec import ChatRaLMSpec, ChatRapid, RaLMSpecRetriever, RapidChain
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.grammar import Grammar
from langchain_ralmspec.engine.schema_grammar import gbnf_of
from langchain_ralmspec.errors import GrammarError

TEXT = "Moby Dick was written by Herman Melville in 1851. It has 635 pages."
ASKED = "Tell of Moby Dick."


def an_object(*optional: str, **properties: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def an_array(of: Any, **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": of, **bounds}


WORD = {"type": "string", "maxLength": 9}
NUMBER = {"type": "number"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "enum": an_array({"enum": ["whale", "ship", 3, None, True]}, minItems=3),
    "const": an_object(kind={"const": "book"}, parts={"const": [1, {"a": "b"}]}),
    "string": an_object(author={"type": "string"}),
    "length": an_object(author={"type": "string", "minLength": 12, "maxLength": 20}),
    "pattern": an_object(isbn={"type": "string", "pattern": "^[0-9]{3}-[A-Z]{4}$"}),
    "date": an_object(on={"type": "string", "format": "date"}),
    "date-time": an_object(at={"type": "string", "format": "date-time"}),
    "uuid": an_object(id={"type": "string", "format": "uuid"}),
    "number": an_array(NUMBER, minItems=2, maxItems=4),
    "integer": an_object(year={"type": "integer"}, pages={"type": "integer"}),
    "boolean": an_array({"type": "boolean"}, minItems=4, maxItems=6),
    "bounds": an_array(WORD, minItems=3, maxItems=4),
    "nested": an_object(book=an_object(by=an_object(name=WORD), in_=an_array(NUMBER))),
    "optional": an_object("b", "d", a=WORD, b=WORD, c={"type": "null"}, d=NUMBER),
    "any-of": an_object(it={"anyOf": [WORD, {"type": "integer"}, an_object(a=WORD)]}),
    "one-of": an_array({"oneOf": [{"type": "boolean"}, WORD]}, minItems=3),
    "tuple": {"type": "array", "prefixItems": [WORD, NUMBER, {"const": "end"}]},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "recursion": {
        "$defs": {
            "node": an_object(
                "next", name=WORD, next={"anyOf": [{"$ref": "#/$defs/node"}, WORD]}
            )
        },
        "$ref": "#/$defs/node",
    },
    "unicode": an_object(**{"größe 🙂": WORD, '"k\\ey"': {"enum": ["é", "中文"]}}),
}
RAW = {
    "raw list": 'root ::= "[" item ("," item){7} "]"\nitem ::= "\\"" [a-z ]{1,9} "\\""',
    "raw lines": 'root ::= line{2,4}\nline ::= "- " [A-Z] [^\\n.]{0,12} ".\\n"',
}


WHOLE = {"const", "length", "pattern", "date", "boolean"}
"""Schemas that end by themselves soon; answers to the others are cut off."""


def n_tokens_of(name: str) -> int:
    return 64 if name in WHOLE else 16


def asked_for(name: str) -> dict[str, Any]:
    """What a call says of the form of its answer."""
    if name in RAW:
        return {"grammar": RAW[name]}
    schema = {"name": "it", "schema": SCHEMAS[name]}
    form = {"type": "json_schema", "json_schema": schema}
    return {"response_format": form, "max_tokens": n_tokens_of(name)}


def check_form(name: str, told: AIMessage, model: Model, tokens: list[int]) -> None:
    """The answer is of the form, by llama.cpp's word and, where it is whole, JSON's."""
    is_whole = told.response_metadata["finish_reason"] == "stop"
    assert is_whole or name not in WHOLE, name
    text = RAW.get(name) or gbnf_of(SCHEMAS[name])
    Grammar(model.weights, text)._follow(tokens)  # raises, where one is not allowed
    if name in SCHEMAS and is_whole:
        jsonschema.validate(json.loads(str(told.text)), SCHEMAS[name])


@pytest.fixture(scope="module")
def chat_of(gguf: str, model: Model) -> Callable[..., ChatRaLMSpec]:
    texts = [
        f"{TEXT} Book {n}: {['author', 'year', 'title'][n % 3]}." for n in range(40)
    ]
    documents = [Document(page_content=text) for text in texts]
    retriever = RaLMSpecRetriever.from_documents(documents)

    def make(**settings: Any) -> ChatRaLMSpec:
        own: dict[str, Any] = {
            "retrieval_stride": 2,
            "max_tokens": 16,
            "seed": 7,
            "n_ctx": 512,
        }
        return ChatRaLMSpec(model_path=gguf, retriever=retriever, **own, **settings)

    return make


@pytest.fixture(scope="module")
def sequential(chat_of: Callable[..., ChatRaLMSpec]) -> Callable[..., AIMessage]:
    @cache
    def told(name: str, temperature: float, policy: str) -> AIMessage:
        own = {"temperature": temperature, "retrieval_policy": policy}
        return chat_of(speculation=False, **own).invoke(ASKED, **asked_for(name))

    return told


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {"asynchronous": True, "speculation_stride": 3},
        {"asynchronous": False, "speculation_stride": 4},
        {"retrieval_policy": "flare", "speculation_stride": 2},
        {"retrieval_policy": "iter-retgen"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_both_loops_of_ralmspec(
    settings: dict[str, Any],
    temperature: float,
    model: Model,
    chat_of: Callable[..., ChatRaLMSpec],
    sequential: Callable[..., AIMessage],
) -> None:
    chat = chat_of(temperature=temperature, guess_policy="same", **settings)
    n_back = 0
    is_stride = chat.retrieval_policy == "stride"
    for name in (*SCHEMAS, *RAW) if is_stride else ("nested", "bounds", *RAW):
        told = chat.invoke(ASKED, **asked_for(name))
        slow = sequential(name, temperature, chat.retrieval_policy)
        one, other = told.response_metadata, slow.response_metadata
        for key in ("steps", "finish_reason"):
            assert one[key] == other[key], name
        assert told.text == slow.text
        n_back += one["speculation"]["tokens_rolled_back"]
        tokens = [token for step in one["steps"] for token in step["tokens"]]
        check_form(name, told, model, tokens)
    if is_stride:
        assert n_back > 0, "nothing was rolled back, so nothing was tested"


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_of_rapid(gguf: str, model: Model, temperature: float) -> None:
    own: dict[str, Any] = {"seed": 5, "exact_batches": True, "n_ctx": 512}
    own |= {"model_path": gguf, "temperature": temperature, "max_tokens": 16}
    text, lengths = f"{TEXT} " * 4, (0, 4)
    chats = [ChatRapid(draft_length=n, context=text, **own) for n in lengths]
    n_refused = 0
    for name in (*SCHEMAS, *RAW):
        slow, told = (chat.invoke(ASKED, **asked_for(name)) for chat in chats)
        one, other = told.response_metadata, slow.response_metadata
        assert told.text == slow.text, name
        assert one["finish_reason"] == other["finish_reason"], name
        drafts = one["speculation"]
        n_refused += sum(drafts["drafted"].values()) - sum(drafts["accepted"].values())
        # The chat tells no tokens; its chain does.
        grammar = RAW.get(name) or gbnf_of(SCHEMAS[name])
        longer = {**own, "grammar": grammar, "max_tokens": n_tokens_of(name)}
        chains = [RapidChain(draft_length=n, **longer) for n in lengths]
        plain, drafted = (chain.start(ASKED, text) for chain in chains)
        assert ["".join(drafted), drafted.tokens] == ["".join(plain), plain.tokens]
        check_form(name, told, model, drafted.tokens)
    assert n_refused > 0, "no draft was wrong, so nothing was tested"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "^a{1,1000000000}$"},
        {"type": "array", "items": {"type": "string"}, "maxItems": 10**9},
    ],
)
def test_a_schema_that_would_take_all_memory_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match="is more than 10000"):
        gbnf_of({"anyOf": [{"type": "null"}, an_object(author=part)]})
