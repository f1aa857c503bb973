"""A grammar of a few lines takes neither hours, nor memory, nor a thread's stack."""

from __future__ import annotations

import pytest

from langchain_ralmspec.engine.grammar_limits import require_bounded
from langchain_ralmspec.engine.schema_grammar import gbnf_of
from langchain_ralmspec.errors import GrammarError


def doubling(n: int, *, reverse: bool = False) -> str:
    """Rules of which each may skip twice as many parts as the one before."""
    rules = ['a0 ::= "x"?', *(f"a{i} ::= a{i - 1} a{i - 1}" for i in range(1, n + 1))]
    return "\n".join([f"root ::= a{n}", *(rules[::-1] if reverse else rules)])


def choices(n: int) -> str:
    """Rules of which each is twice a choice of the one before."""
    rules = (f"r{i} ::= r{i - 1} | r{i - 1}" for i in range(1, n + 1))
    return "\n".join(['r0 ::= "x"', *rules])


def recursive(n: int) -> str:
    """Rules of which each begins in twice as many ways as the one before."""
    rules = (f'r{i} ::= r{i - 1} | r{i - 1} "x"' for i in range(1, n + 1))
    return "\n".join(['r0 ::= "x"', *rules])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('root ::= "a"{5,2}', "repeats something from 5 to 2 times"),
        ('root ::= "a"{0000000000005,2}', "repeats something from 5 to 2 times"),
        ('root ::= "a"{2000} ' * 60, "120,000 times; 100,000 are the most"),
        (doubling(10), "more than 128 ways"),
        (doubling(4000), "more than 128 ways"),
        (doubling(4000, reverse=True), "more than 128 ways"),
        ("root ::= r18\n" + recursive(18), "ways to begin"),
        ("root ::= " + '("a"? | "b"?) ' * 80 + '"c"', "more than 128 ways"),
        ("root ::= " + '("a" | "b")* ' * 80, "more than 128 ways"),
        ('root ::= ("a"?){2000}', "more than 128 ways"),
        ('root ::= ((("a"?){99}){99}){99}', "more than 128 ways"),
        ('root ::= "b" ("" | "c") ' + '("" | "a") ' * 1000, "more than 128 ways"),
        (f'root ::= "y" a10\n{doubling(10)[13:]}', "more than 128 ways"),
        ('a ::= b? a\nb ::= "x"', "more than 128 ways"),  # begins with itself
        ('root ::= ("a"{5 #\n,2})', "has '{5 #.n,2}'; write"),
        ('#\rroot ::= "a"{5,2}\n', "repeats something from 5 to 2 times"),
        ("root ::= r40\n" + choices(40), "more than 20,000 ways to begin"),
        ("root ::= " + "(" * 600 + '"a"' + ")" * 600, "brackets 600 deep"),
        ("\n".join(f'r{i} ::= "a"' for i in range(6000)), "has 6,000 rules"),
    ],
)
def test_what_takes_too_much_is_refused(text: str, told: str) -> None:
    with pytest.raises(GrammarError, match=told):
        require_bounded(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'root ::= "a"{2,5} "b"{3} "c"{2,} "d"{,4} [^"{5,2}(]* # {5,2} ((',
        'root ::= "{5,2}" "\\"((((" "a"?',
        'root ::= "a"{0,2000} "b"{0,99999}',
        'root ::= "a"{9,' + "9" * 5000 + "}",
        "root ::= r12\n" + choices(12),
        'root ::= ws "a" ws\nws ::= | " " ws',
        'value ::= "[" (value ("," value)*)? "]" | "1"\nroot ::= value',
        doubling(5),
        "root ::= " + "[" * 200_000,
        "root ::= " + '"' + "\\" * 200_000,
        ")))) root ::= | | ? * {3} ) ::= (",
    ],
)
def test_what_is_bounded_is_left_to_llama_cpp(text: str) -> None:
    require_bounded(text)


def test_grammars_of_large_schemas_are_bounded() -> None:
    properties = {f"p{n}": {"type": "string"} for n in range(120)}
    wide = {"type": "object", "properties": properties}
    for schema in (
        wide,
        {"enum": [f"value {n}" for n in range(4000)]},
        {"properties": {"a": {"enum": [f"{n}" for n in range(400)]}}},
        {"properties": {"a": {"enum": [*range(400)]}}, "required": ["a"]},
        {"type": "array", "items": wide, "maxItems": 100},
        {"type": "object"},
    ):
        require_bounded(gbnf_of(schema))
    repeated = {"type": "string", "pattern": "^((a?){2000}){2000}$"}
    with pytest.raises(GrammarError, match="more than 128 ways"):
        require_bounded(gbnf_of(repeated))
