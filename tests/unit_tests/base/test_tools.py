"""What is bound for a call of tools, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any, TypedDict

import numpy as np
import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    ToolMessage,
)
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_ralmspec import ChatRapid, GrammarError, InvalidValueError
from langchain_ralmspec.answer.transcript import stops_of
from langchain_ralmspec.base.messages import asked_at, question_of, turns_of
from langchain_ralmspec.base.structured import parser_of, schema_of
from langchain_ralmspec.base.tools import ToolUse, as_tool
from langchain_ralmspec.base.warming import as_documents
from langchain_ralmspec.stores.documents import checked_documents


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return city


class Book(BaseModel):
    """A book."""

    author: str


class Books(TypedDict):
    """Books."""

    author: str


CHAT = ChatRapid.model_construct(model_path="m.gguf", context="A text.")


@pytest.mark.parametrize(
    ("given", "choice", "is_forced"),
    [
        (None, "auto", False),
        ("auto", "auto", False),
        (False, "auto", False),
        ("any", "any", True),
        ("required", "any", True),
        (True, "any", True),
        ("weather", "weather", True),
        ({"type": "function", "function": {"name": "weather"}}, "weather", True),
        ({"type": "tool", "name": "weather"}, "weather", True),
        ({"type": "auto"}, "auto", False),
        ("none", "auto", False),
    ],
)
def test_a_choice_is_taken_in_all_its_forms(
    given: Any, choice: str, is_forced: bool
) -> None:
    bound = {"tools": [weather], "tool_choice": given, "temperature": 1}
    use = ToolUse.taken_from(bound)
    assert bound == {"temperature": 1}
    assert (use.choice, use.is_forced) == (choice, is_forced)
    assert bool(use.tools) is (given != "none")


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ([weather], "wether", "tool_choice='wether' .*did you mean 'weather'?"),
        ([weather], {"name": "add"}, "tool_choice={'name': 'add'} is no tool"),
        ([], "any", "tool_choice='any' is no tool"),
        ([3], None, "3 is no tool: .*give a function"),
        (
            [{"type": "function", "function": {"name": "", "parameters": {}}}],
            None,
            "a tool needs a name, got ''",
        ),
        ([{"type": "function", "function": {"description": "d"}}], None, "is no tool"),
    ],
)
def test_what_is_no_tool_is_refused_when_it_is_bound(
    tools: Any, choice: Any, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        CHAT.bind_tools(tools, tool_choice=choice)


def test_what_cannot_be_made_a_grammar_is_refused_when_it_is_bound() -> None:
    bad = {"type": "object", "properties": {"a": {"type": "colour"}}}
    told = "JSON schema .*colour.*simplify"
    with pytest.raises(GrammarError, match=told):
        CHAT.with_structured_output(bad)
    with pytest.raises(GrammarError, match=told):
        CHAT.bind_tools([{"name": "f", "description": "d", "parameters": bad}])
    for enum in ({"x"}, [CHAT]):
        given = {"name": "f", "parameters": {"properties": {"a": {"enum": enum}}}}
        with pytest.raises(InvalidValueError, match=r"'f' is no JSON: .*serializable"):
            CHAT.bind_tools([given])
    with pytest.raises(InvalidValueError, match="did you mean 'json_schema'"):
        CHAT.with_structured_output(Book, method="jsonschema")  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="response_format='json' is unknown"):
        ToolUse.taken_from({"response_format": "json"})


def test_a_schema_in_all_its_forms() -> None:
    for given in (Book, Books, Book.model_json_schema()):
        assert schema_of(given)["properties"]["author"]["type"] == "string"
    with pytest.raises(InvalidValueError, match="schema=3 is none"):
        schema_of(3)


CUT = '{"author": "Mel'
CALLED = AIMessage(
    "",
    invalid_tool_calls=[{"name": "Book", "args": f'{CUT}"]', "id": "1", "error": None}],
)


@pytest.mark.parametrize("schema", [Book, Books])
@pytest.mark.parametrize(
    ("method", "message"),
    [("json_schema", AIMessage(CUT)), ("function_calling", CALLED)],
)
@pytest.mark.parametrize(
    ("reason", "told"),
    [("length", "max_tokens was reached"), ("stop", "a stop string")],
)
def test_an_answer_that_is_cut_off_is_an_error(
    schema: Any, method: str, message: AIMessage, reason: str, told: str
) -> None:
    ended = message.model_copy(update={"response_metadata": {"finish_reason": reason}})
    with pytest.raises(OutputParserException, match=told):
        parser_of(schema, method).parse_result([ChatGeneration(message=ended)])


@pytest.mark.parametrize("text", ["12", "-3.5", "1e5", '{"a": ' + "[" * 100_000])
def test_a_number_may_have_gone_on(text: str) -> None:
    schema = {"title": "N", "type": "number"}

    def parsed(reason: str) -> Any:
        message = AIMessage(text, response_metadata={"finish_reason": reason})
        generation = ChatGeneration(message=message)
        return parser_of(schema, "json_schema").parse_result([generation])

    with pytest.raises(OutputParserException, match="max_tokens was reached"):
        parsed("length")
    if not text.startswith("{"):
        assert parsed("stop") == float(text)


CUT_CALL = tool_call_chunk(name="Book", args=f'{CUT}"]', id="1", index=0)


@pytest.mark.parametrize("schema", [Book, Books])
@pytest.mark.parametrize(
    ("method", "chunk"),
    [
        ("json_schema", AIMessageChunk(content=CUT)),
        ("function_calling", AIMessageChunk(content="", tool_call_chunks=[CUT_CALL])),
    ],
)
def test_an_answer_that_is_cut_off_is_an_error_at_the_end_of_a_stream(
    schema: Any, method: str, chunk: AIMessageChunk
) -> None:
    told = {"finish_reason": "length"}
    last = AIMessageChunk(content="", response_metadata=told, chunk_position="last")

    async def streamed() -> AsyncIterator[AIMessageChunk]:
        yield chunk
        yield last

    async def read() -> None:
        async for _ in parser_of(schema, method).atransform(streamed()):
            pass

    with pytest.raises(OutputParserException, match="max_tokens was reached"):
        list(parser_of(schema, method).transform(iter([chunk, last])))
    with pytest.raises(OutputParserException, match="max_tokens was reached"):
        asyncio.run(read())


def test_a_stream_that_is_whole_ends_with_all_of_it() -> None:
    chunks = [
        AIMessageChunk(content=CUT),
        AIMessageChunk(content='ville"}', chunk_position="last"),
    ]
    parsed = list(parser_of(Books, "json_schema").transform(iter(chunks)))
    assert parsed[-1] == {"author": "Melville"}
    whole = [AIMessage('{"author": "I"}')]
    (book,) = parser_of(Book, "json_schema").transform(iter(whole))
    assert book == Book(author="I")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"on": date(2024, 2, 29), "n": np.float32(1.5)},
            {"on": "2024-02-29", "n": 1.5},
        ),
        ({"pair": (1, {2: "x"})}, {"pair": [1, {"2": "x"}]}),
        ({"big": 10**30, "half": "\ud83d"}, {"big": 10**30, "half": "\ud83d"}),
    ],
)
def test_calls_of_programs_are_told_as_json(given: Any, told: Any) -> None:
    def called(args: Any) -> Any:
        said = AIMessage("", tool_calls=[{"name": "f", "args": args, "id": "1"}])
        turns = turns_of([HumanMessage("?"), said, ToolMessage("x", tool_call_id="1")])
        return turns[1]["tool_calls"][0]["function"]["arguments"]

    assert called(given) == told
    with pytest.raises(InvalidValueError, match=r"call of 'f' are .* is no JSON: keys"):
        called({"a": {(1, 2): 3}})


@pytest.mark.parametrize("ref", ["#/$defs/Missing", "https://x.org/a.json", "#/$defs"])
def test_parameters_that_refer_to_nothing_are_refused(ref: str) -> None:
    parameters = {"type": "object", "properties": {"x": {"$ref": ref}}}
    function = {"name": "f", "description": "d", "parameters": parameters}
    with pytest.raises(InvalidValueError, match="the tool 'f' refer to what is not"):
        CHAT.bind_tools([{"type": "function", "function": function}])


class City(BaseModel):
    name: str


class Address(BaseModel):
    city: City


class Person(BaseModel):
    """A person."""

    home: Address


class Tree(BaseModel):
    """A tree."""

    rest: list["Tree"]


def planted(tree: Tree) -> str:
    """Plant a tree."""
    return str(tree)


@pytest.mark.parametrize("given", [["a"], "x", 3])
def test_parameters_that_are_no_schema_are_refused(given: Any) -> None:
    with pytest.raises(InvalidValueError, match="the tool 'f' is no JSON: its para"):
        CHAT.bind_tools([{"name": "f", "parameters": given}])
    assert CHAT.bind_tools([{"name": "f", "parameters": None}])


@pytest.mark.parametrize("named", [{}, {"$ref": {"type": "string"}}])
def test_parameters_are_shown_with_what_they_refer_to(named: dict[str, Any]) -> None:
    schema = Person.model_json_schema()
    schema["properties"] |= named
    made = as_tool({"name": "f", "description": "d", "input_schema": schema})
    parameters = made["function"]["parameters"]
    assert "$defs" not in parameters
    city = parameters["properties"]["home"]["properties"]["city"]
    assert city["properties"]["name"]["type"] == "string"
    assert parameters["properties"].keys() == {"home", *named}
    assert as_tool(made) == made
    assert CHAT.bind_tools([made])
    assert CHAT.with_structured_output(schema, method="function_calling")


@pytest.mark.parametrize(
    "given", [Tree, tool(Tree), planted, tool(planted), Tree.model_json_schema()]
)
def test_parameters_that_are_within_themselves_are_shown_as_they_are(
    given: Any,
) -> None:
    made = as_tool(given)
    parameters = made["function"]["parameters"]
    rest = parameters["$defs"]["Tree"]["properties"]["rest"]
    assert rest["items"] == {"$ref": "#/$defs/Tree"}
    assert parameters["properties"]
    assert as_tool(made) == made
    assert CHAT.bind_tools([given])


def test_stop_strings_that_can_be_read_once_are_refused() -> None:
    words: Any = (word for word in ["\n", "END"])
    with pytest.raises(InvalidValueError, match="stop must be a list of strings"):
        stops_of(words)


@pytest.mark.parametrize("given", [3, {"name": "f"}, "abc", b"x"])
def test_one_thing_is_no_list(given: Any) -> None:
    one: Any = 3 if isinstance(given, str) else given
    for name, use in (
        ("tools", lambda: CHAT.bind_tools(given)),
        ("tools", lambda: ToolUse.taken_from({"tools": given})),
        ("documents", lambda: checked_documents(given)),
        ("stop", lambda: stops_of(one)),  # of these a text is one
        ("documents", lambda: as_documents(one)),
    ):
        with pytest.raises(InvalidValueError, match=f"{name} must be a list of "):
            use()


@pytest.mark.parametrize("given", [["weather"], {"function": None}, {}, 3])
def test_a_choice_of_a_wrong_kind_is_refused(given: Any) -> None:
    with pytest.raises(InvalidValueError, match="is no tool that is bound"):
        CHAT.bind_tools([weather], tool_choice=given)


@pytest.mark.parametrize("given", [None, "x", {"schema": 3}])
def test_a_form_without_a_schema_is_refused(given: Any) -> None:
    form = {"type": "json_schema", "json_schema": given}
    with pytest.raises(InvalidValueError, match=r"response_format=.* is unknown"):
        ToolUse.taken_from({"response_format": form})


def test_calls_and_results_are_turns_and_the_question_stays_the_users() -> None:
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "a-long-id-of-others"}
    said = AIMessage([{"type": "text", "text": "So."}, {"type": "tool_use"}])
    said.tool_calls = [{**call, "type": "tool_call"}]  # type: ignore[typeddict-item]
    messages = [
        HumanMessage("Is it warm?"),
        said,
        ToolMessage("20 C", tool_call_id=str(call["id"])),
        ToolMessage("in Paris", tool_call_id=str(call["id"])),
    ]
    asked, called, *results = turns_of(messages)
    assert called["content"] == "So."
    (made,) = called["tool_calls"]
    assert made["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    assert len(made["id"]) == 9
    assert [turn["content"] for turn in results] == ["20 C", "in Paris"]
    for turn in results:
        assert (turn["role"], turn["name"]) == ("tool", "weather")
        assert turn["tool_call_id"] == made["id"]
    assert question_of([asked, called, *results]) == "Is it warm?"
    assert asked_at(messages) == 0
    assert asked_at(messages[:2]) == 0


@pytest.mark.parametrize(
    "schema",
    [
        {
            "title": "Tags",
            "type": "object",
            "additionalProperties": {"type": "string"},
        },
        {"title": "Pet", "anyOf": [{"type": "object", "properties": {"name": {}}}]},
    ],
)
def test_a_schema_without_properties_is_a_tool_of_all_that_it_says(
    schema: dict[str, Any],
) -> None:
    function = as_tool(schema)["function"]
    said = {name: value for name, value in schema.items() if name != "title"}
    assert function["name"] == schema["title"]
    assert said.items() <= function["parameters"].items()
