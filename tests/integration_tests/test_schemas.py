"""Schemas as grammars: what llama.cpp takes under them, and what a model answers."""

from __future__ import annotations

import json
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import jsonschema
import pytest
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, Field

from langchain_ralmspec import ChatRapid
from langchain_ralmspec.engine import Model
from langchain_ralmspec.engine.grammar import Grammar
from langchain_ralmspec.engine.schema_grammar import gbnf_of
from langchain_ralmspec.errors import GrammarError

ASKED = "Tell of Moby Dick."


def an_object(**properties: Any) -> dict[str, Any]:
    required = [*properties]
    return {"type": "object", "properties": properties, "required": required}


def a_string(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


WORD = {"type": "string", "maxLength": 9}
INTEGER = {"type": "integer"}
COLOUR = {"enum": ["red", "blue"]}
OF_COLOUR = {"$id": "https://a.org/a", "$defs": {"C": COLOUR}}
NODE = an_object(name=WORD, next={"anyOf": [{"$ref": "#/$defs/tree_node"}, INTEGER]})

TAKEN: list[tuple[Any, list[str], list[str]]] = [
    # allOf
    (
        an_object(c={"allOf": [{"$ref": "#/$defs/C"}], "description": "d"})
        | {"$defs": {"C": COLOUR}},
        ['{"c": "red"}'],
        ['{"c": {}}', '{"c": "green"}'],
    ),
    (
        {"allOf": [an_object(a=INTEGER), {"properties": {"b": INTEGER}}]},
        ['{"a": 1}', '{"a": 1, "b": 2}'],
        ["{}", '{"b": 2}'],
    ),
    (
        an_object(a=INTEGER) | {"anyOf": [an_object(b=INTEGER), an_object(c=INTEGER)]},
        ['{"a": 1, "b": 2}', '{"a": 1, "c": 2}'],
        ['{"a": 1}', '{"b": 2}'],
    ),
    # types that are lists
    ({"type": ["string", "null"], "enum": ["a", None]}, ['"a"', "null"], ['"b"']),
    (
        {"type": ["object", "null"], "properties": {"a": INTEGER}, "required": ["a"]},
        ['{"a": 1}', "null"],
        ['{"b": 1}', "{}"],
    ),
    (
        {"type": ["array", "string"], "items": INTEGER, "maxLength": 2},
        ["[1, 2]", '"ab"'],
        ['["a"]', '"abc"'],
    ),
    # anything
    (
        {"type": "array", "items": {}},
        ["[]", '[1, "a", [null], {"a": true}]'],
        ["1", "{}"],
    ),
    (an_object(v={"default": None}), ['{"v": 1}', '{"v": [{}]}'], ["{}"]),
    ({"type": "object", "required": ["a"]}, ['{"a": [1]}'], ["{}"]),
    (
        an_object(a=INTEGER) | {"additionalProperties": True},
        ['{"a": 1}', '{"a": 1, "b": [1]}'],
        ['{"b": 1}'],
    ),
    ({"type": "object", "additionalProperties": True}, ["{}", '{"a": [1]}'], ["1"]),
    ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a": 1}']),
    ({"type": "object", "properties": {}}, ["{}"], ['{"a": 1}']),
    ({"type": "object", "additionalProperties": INTEGER}, ['{"a": 1}'], ['{"a": ""}']),
    # references
    (
        {"$ref": "#/$defs/tree_node", "$defs": {"tree_node": NODE}},
        ['{"name": "a", "next": {"name": "b", "next": 1}}'],
        ['{"name": "a", "next": {}}'],
    ),
    (
        an_object(a={**an_object(b={"$ref": "#/$defs/C"}), **OF_COLOUR}),
        ['{"a": {"b": "red"}}'],
        ['{"a": {"b": 1}}'],
    ),
    (
        {"$ref": "#/$defs/tree_node", "$defs": {"tree_node": an_object(next={})}},
        ['{"next": 1}'],
        ["{}"],
    ),
    (
        an_object(C={"const": "C"}, d={"$ref": "#/$defs/C"}) | {"$defs": {"C": COLOUR}},
        ['{"C": "C", "d": "red"}'],
        ['{"C": "C", "d": "C"}'],
    ),
    (
        {"$ref": "#/$defs/string", "$defs": {"string": an_object(a=WORD)}},
        ['{"a": "b"}'],
        ['"b"'],
    ),
    (an_object(**{"$ref": WORD, '"é_': INTEGER}), [r'{"$ref": "a", "\"é_": 1}'], []),
    (
        an_object(a=INTEGER, b={"$ref": "#/properties/a", "description": "d"}),
        ['{"a": 1, "b": 2}'],
        ['{"a": 1, "b": ""}'],
    ),
    # the rest
    ({"const": {"$ref": ["a"]}}, ['{"$ref": ["a"]}'], ["{}"]),
    ({"anyOf": [{"anyOf": [WORD, INTEGER]}, {"const": None}]}, ["1", "null"], ["[]"]),
    (
        {"prefixItems": [WORD, INTEGER], "minItems": 2, "maxItems": 2},
        ['["a", 1]'],
        ['["a"]', '["a", 1, 2]'],
    ),
    (
        {"type": "array", "prefixItems": [WORD], "items": INTEGER, "minItems": 2},
        ['["a", 1]'],
        ['["a"]', '["a", "b"]'],
    ),
    ({"type": "array", "minItems": 1, "maxItems": 1}, ["[1]"], ["[]", "[1, 2]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    ({"minLength": 2}, ['"ab"'], ['"a"', "1"]),
    # patterns
    (a_string(r"^\d{3}-\w+\.\s\$$"), [r'"123-a_1. $"'], [r'"12-a. $"', r'"123-a, $"']),
    (a_string(r"^[\w.-]+@[\d\x41-\x43]+$"), ['"a.b-@1C"'], ['"a@D"', '"a b@1"']),
    (a_string(r"^\D\S\W$"), ['"aé!"', '"- -"'][:1], ['"1a!"', '"a !"', '"aaa"']),
    (a_string(r"^(?:a|b\|){2}c??[^a-c]$"), ['"ab|d"', '"aacd"'], ['"ad"', '"aac"']),
    (a_string(r'^.\\"\/\t?$'), [r'"a\\\"/"', r'"a\\\"/\t"'], ['"a"', r'"\\\\\"/"']),
    (a_string(r"^[^x]*$"), ['"a🙂é"'], ['"x"', '"""', '"a"b"', '"\\"']),
    (a_string("^[\"']a{,2}\u00fc{1}$"), ['"\'aaü"'], ['""aü"', '"aaaü"']),
    (a_string(r'^["\\]$'), [r'"\""', r'"\\"'], ['"a"']),
    (a_string(r"^(a|)\{()[]]$"), ['"a{]"', '"{]"'], ['"a"']),
    (a_string("^$"), ['""'], ['"a"']),
]


def takes(model: Model, text: str, said: str) -> bool:
    grammar = Grammar(model.weights, text)
    try:
        grammar._follow(model.weights.tokenize(said))
    except GrammarError:
        return False
    return bool(grammar._allowed(grammar._ends).any())


@pytest.mark.parametrize(("schema", "allowed", "forbidden"), TAKEN)
def test_what_a_schema_allows(
    model: Model, schema: Any, allowed: list[str], forbidden: list[str]
) -> None:
    text = gbnf_of(schema)
    assert [said for said in allowed if not takes(model, text, said)] == []
    assert [said for said in forbidden if takes(model, text, said)] == []
    for said in allowed:
        jsonschema.validate(json.loads(said), schema)


class Colour(Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class City(BaseModel):
    name: str = Field(max_length=9)


class Address(BaseModel):
    city: City
    kind: Literal[1, 2] | None


class Person(BaseModel):
    """A person."""

    home: Address
    code: str = Field(pattern=r"^\d{2}-\w{3}\.$")
    pair: tuple[int, bool]


class Mixed(BaseModel):
    """What else pydantic knows."""

    by: dict[str, int]
    on: date
    id: UUID
    more: Address | None = None
    any: Any = None
    many: list[Any] = []


class Tree(BaseModel):
    """A tree."""

    leaf: Literal["oak", "elm"]
    rest: list["Tree"] = Field(max_length=1)


class Painted(TypedDict):
    """What is painted."""

    colour: Annotated[Colour, ..., "of which colour"]


def planted(tree: Tree) -> str:
    """Plant a tree."""
    return tree.leaf


@pytest.fixture(scope="module")
def rapid(gguf: str) -> ChatRapid:
    return ChatRapid(
        model_path=gguf, context="Moby Dick is white.", max_tokens=128, n_ctx=1024
    )


MIXED = (
    '{"by": {"é": 1, "b": 2}, "on": "2024-02-29", '
    '"id": "12345678-1234-1234-1234-123456789abc"'
)


@pytest.mark.parametrize(
    ("rest", "is_allowed"),
    [
        ("}", True),
        (
            ', "more": {"city": {"name": "x"}, "kind": 2}, "any": [1], "many": [{}]}',
            True,
        ),
        (', "more": null, "any": "x"}', True),
        (', "more": {"city": {"name": "x"}, "kind": 3}}', False),
        (', "more": {}}', False),
        (', "many": 1}', False),
    ],
)
def test_what_a_class_allows(model: Model, rest: str, is_allowed: bool) -> None:
    text = gbnf_of(Mixed.model_json_schema())
    assert takes(model, text, MIXED + rest) is is_allowed
    if is_allowed:
        Mixed.model_validate_json(MIXED + rest)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("form", [Person, Tree, Painted])
def test_a_class_is_answered(rapid: ChatRapid, form: Any, method: Any) -> None:
    made = rapid.with_structured_output(form, method=method, repeat_penalty=1.1)
    told: Any = made.invoke(ASKED)
    if form is Painted:
        assert told["colour"] in {"red", "blue"}
    else:
        assert isinstance(told, form)


@pytest.mark.parametrize("form", [Person, Tree])
def test_a_schema_with_definitions_is_called(rapid: ChatRapid, form: Any) -> None:
    schema = form.model_json_schema()
    made = rapid.with_structured_output(
        schema, method="function_calling", repeat_penalty=1.1
    )
    form.model_validate(made.invoke(ASKED))
    named: dict[str, Any] = {"name": "f", "description": "d"}
    for tool in (
        {"type": "function", "function": {**named, "parameters": schema}},
        {**named, "input_schema": schema},
        StructuredTool(**named, args_schema=schema),
    ):
        bound = rapid.bind_tools([tool], tool_choice="any", repeat_penalty=1.1)
        (call,) = bound.invoke(ASKED).tool_calls
        form.model_validate(call["args"])


def test_a_function_of_what_is_in_itself_is_called(rapid: ChatRapid) -> None:
    bound = rapid.bind_tools([planted], tool_choice="any", repeat_penalty=1.1)
    (call,) = bound.invoke(ASKED).tool_calls
    Tree.model_validate(call["args"]["tree"])
