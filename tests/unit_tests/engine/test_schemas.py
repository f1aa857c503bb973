"""Schemas in the words of the converter, and those that no grammar can say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from langchain_ralmspec.engine.patterns import rewritten
from langchain_ralmspec.engine.schema_grammar import gbnf_of
from langchain_ralmspec.engine.schemas import inlined
from langchain_ralmspec.errors import GrammarError

REF = {"$ref": "#/$defs/tree_node"}
TREE = {"type": "object", "properties": {"next": REF}}


def rules_of(schema: Any) -> dict[str, str]:
    lines = gbnf_of({"type": "object", "properties": {"a": schema}}).splitlines()
    return dict(line.split(" ::= ", maxsplit=1) for line in lines)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"allOf": [{"enum": ["x", "y"]}], "description": "d"}, r'"\"x\"" | "\"y\""'),
        ({"type": ["string", "null"], "enum": ["x", None]}, r'"\"x\"" | "null"'),
        ({"type": ["integer", "null"], "minLength": 2}, "integer | null"),
        (
            {"type": "string", "pattern": r"^\d\.$"},
            r'"\"" [0-9] [\U0000002E] "\"" space',
        ),
        ({"type": "array"}, '"[" space (value ("," space value)*)? "]" space'),
        (
            {"type": "array", "items": {}},
            '"[" space (value ("," space value)*)? "]" space',
        ),
    ],
)
def test_nothing_is_passed_over(schema: dict[str, Any], value: str) -> None:
    assert rules_of(schema)["a"] == value


@pytest.mark.parametrize("schema", [{}, {"default": None}, True, {"not": {}}])
def test_what_says_nothing_is_anything(schema: Any) -> None:
    assert rules_of(schema)["a-kv"].endswith(' ":" space value')


def test_values_in_common_are_told_as_json_tells_them() -> None:
    both = {"allOf": [{"enum": [1, True, "1", 2.0, None]}, {"enum": [True, 2, "1", 0]}]}
    assert rules_of(both)["a"] == rules_of({"enum": [True, "1", 2.0]})["a"]


@pytest.mark.parametrize(
    "pattern", [r"^[^bdf\\]$", r"^[^a-cb-e\w]$", r"^[([]$", "^[]a]$"]
)
def test_a_class_holds_what_it_says(pattern: str) -> None:
    signs = r"\\U([0-9A-F]{8})"  # as GBNF has them
    made = re.sub(signs, lambda c: re.escape(chr(int(c[1], 16))), rewritten(pattern))
    letters = [chr(code) for code in range(32, 127) if chr(code) not in '"\\']
    kept = [letter for letter in letters if re.fullmatch(made, letter)]
    assert kept == [letter for letter in letters if re.fullmatch(pattern, letter)]


def test_parts_are_named_as_nothing_in_the_schema_is() -> None:
    named = {"part" + "t" * 9000: {"const": 1}, "a": REF}
    rules = gbnf_of({"properties": named, "$defs": {"tree_node": {"const": 3}}})
    assert f"part{'t' * 9001}0 ::= " in rules


def test_a_name_of_any_signs_is_that_of_a_rule() -> None:
    rules = gbnf_of({**REF, "$defs": {"tree_node": TREE}})
    assert "tree_node" not in rules
    assert "part0-next ::= part0" in rules
    named = {"part0": {"const": 1}, "a": REF, "$ref": {"const": 2}}
    rules = gbnf_of({"properties": named, "$defs": {"tree_node": {"const": 3}}})
    assert "a ::= partt0" in rules
    assert 'partt0 ::= "3"' in rules


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "say both type"),
        ({**REF, "minLength": 2, "$defs": {"tree_node": {"minLength": 3}}}, "say both"),
        ({"type": "value"}, "no type 'value'"),
        ({"type": ["string", "colour"]}, "no type 'colour'"),
        ({"enum": []}, r"enum is a list of something, got \[\]"),
        ({"anyOf": 3}, "anyOf is a list of something, got 3"),
        ({"items": 3}, "3 is no schema"),
        ({"$ref": "https://x.org/a"}, "nothing is at the .ref 'https://x.org/a'"),
        ({"$ref": 3}, "nothing is at the .ref 3"),
        ({"$ref": "#"}, "the .ref '#' leads to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "string"}]}, "the .ref '#' leads to"),
        (
            {
                "$defs": {"a": {"oneOf": [REF]}, "tree_node": {"$ref": "#/$defs/a"}},
                **REF,
            },
            "the .ref '#/.defs/tree_node' leads to itself",
        ),
        ({"pattern": "a"}, "the pattern .a. must begin with"),
        ({"pattern": r"^a\$"}, r"no grammar can say"),
        ({"pattern": "^(?=a)b$"}, r"no grammar can say '\(\?' within"),
        ({"pattern": r"^(a)\1$"}, r"no grammar can say '.*1' within"),
        ({"pattern": r"^a\b$"}, r"no grammar can say '.*b' within"),
        ({"pattern": "^a|b$"}, r"put brackets around what is beside \|"),
        ({"pattern": "^a++$"}, r"nothing is repeated by '\+'"),
        ({"pattern": "^(a$"}, "a bracket is open at the end"),
        ({"pattern": "^a)$"}, "no bracket is open"),
        ({"pattern": "^[a$"}, r"no grammar can say '\[a', a class without an end"),
        ({"pattern": "^[" * 100_000 + "$"}, "a class without an end"),
        ({"pattern": r"^[^\s\S]$"}, "allows nothing"),
    ],
)
def test_what_no_grammar_can_say_is_refused(schema: Any, told: str) -> None:
    with pytest.raises(GrammarError, match=told):
        gbnf_of(schema)


@pytest.mark.parametrize("word", ["allOf", "anyOf"])
def test_what_a_few_lines_multiply_is_refused(word: str) -> None:
    defined: dict[str, Any] = {"d40": {"type": "object"}}
    for n in range(40):
        below = {"$ref": f"#/$defs/d{n + 1}"}
        defined[f"d{n}"] = {"properties": {f"a{n}": {}}, word: [below, below]}
    schema = {"$defs": defined, "properties": {"a": {"$ref": "#/$defs/d0"}}}
    with pytest.raises(GrammarError, match="more than 20,000 steps"):
        gbnf_of(schema)
    assert inlined(schema) is schema


@pytest.mark.parametrize("more", [True, {"type": "integer"}])
def test_no_other_property_stands_behind_one_that_may_be_left_out(more: Any) -> None:
    """There the converter would forget the comma."""
    names = {"a": {"type": "string"}}
    schema = {"type": "object", "properties": names, "additionalProperties": more}
    assert "additional" not in gbnf_of(schema)
    assert "additional" in gbnf_of({**schema, "required": ["a"]})
