"""What messages of every provider's spelling say, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from langchain_ralmspec import InvalidValueError
from langchain_ralmspec.base.content import text_of
from langchain_ralmspec.base.messages import asked_at, begun_in, turns_of

ASKED = HumanMessage("Why?")


def said(kind: type[BaseMessage], *blocks: Any) -> str:
    own = {"tool_call_id": "a"} if kind is ToolMessage else {}
    return text_of(kind(content=list(blocks), **own), "messages[0]")


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ("plain", "plain"),
        ({"type": "text", "text": "v1", "annotations": [{"type": "citation"}]}, "v1"),
        ({"type": "text", "text": "cached", "cache_control": {}}, "cached"),
        ({"type": "input_text", "text": "in"}, "in"),
        ({"type": "output_text", "text": "out"}, "out"),
        ({"text": "Bedrock"}, "Bedrock"),
        ({"type": "text", "text": {"value": "run", "annotations": []}}, "run"),
        ({"type": "text-plain", "text": "file", "mime_type": "text/plain"}, "file"),
        ({"type": "file", "source_type": "text", "text": "v0"}, "v0"),
        (
            {"type": "document", "source": {"type": "text", "data": "d"}, "title": "T"},
            "T\nd",
        ),
        (
            {
                "type": "search_result",
                "title": "T",
                "source": "https://a.b",
                "content": [{"type": "text", "text": "found"}],
            },
            "T\nhttps://a.b\nfound",
        ),
        ({"type": "json", "json": {"é": [1]}}, '{"é": [1]}'),
        ({"type": "non_standard", "value": {"type": "text", "text": "x"}}, "x"),
        ({"cachePoint": {"type": "default"}}, ""),
        ({"type": "reasoning", "reasoning": "hm"}, ""),
    ],
)
@pytest.mark.parametrize("kind", [HumanMessage, AIMessage, SystemMessage, ToolMessage])
def test_text_of_any_spelling_is_read(
    kind: type[BaseMessage], block: Any, text: str
) -> None:
    assert said(kind, block) == text


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "s"},
        {"type": "reasoning_content", "reasoning_content": {"text": "hm"}},
        {"type": "tool_use", "id": "a", "name": "t", "input": {}},
        {"type": "server_tool_call", "id": "a", "name": "web_search", "args": {}},
        {"type": "server_tool_result", "tool_call_id": "a", "output": "o"},
        {"type": "web_search_tool_result", "tool_use_id": "a", "content": []},
        {"type": "code_interpreter_call", "code": "1"},
        {"type": "compaction", "content": "c"},
        {"type": "non_standard", "value": {"type": "mcp_approval_request"}},
    ],
)
def test_what_an_answer_thought_and_its_service_did_is_left_out(block: Any) -> None:
    text = {"type": "text", "text": "So."}
    assert said(AIMessage, block, text, block) == "So."
    message = AIMessage("So.", additional_kwargs={"reasoning_content": "hm"})
    assert text_of(message, "") == "So."


def test_pieces_of_an_answer_are_joined_and_other_blocks_stand_on_lines() -> None:
    pieces = ["It is ", {"type": "text", "text": "so."}]
    assert said(AIMessage, *pieces) == "It is so."
    assert said(HumanMessage, "A text.", "Why?") == "A text.\nWhy?"
    assert said(AIMessage, {"type": "refusal", "refusal": "I cannot."}) == "I cannot."


def test_results_may_be_structured() -> None:
    text = {"type": "text", "text": "one"}
    assert said(ToolMessage, text, {"type": "json", "json": [2]}) == "one\n[2]"
    assert said(ToolMessage, {"a": 1}) == '{"a": 1}'
    assert said(ToolMessage) == ""


@pytest.mark.parametrize(
    "data",
    [
        {"file": "a.py", "line": 3, "content": "def f()"},
        {"line": 3, "file": "a.py", "content": "def f()"},
        {"text": "7 %", "page": 3},
        {"page": 3, "text": "7 %"},
        {"text": {"value": "7 %"}},
        {"text": None},
        {"json": [1], "page": 3},
        {"document": {"text": "d"}},
        {"document": "d", "content": "c"},
        {"search_result": "s", "text": "t"},
        {"refusal": "I cannot."},
        {"reasoning": "hm"},
        {"thinking": "hm", "answer": 4},
        {"tool_use": {"name": "t"}},
        {"cachePoint": {"type": "default"}, "a": 1},
        {"image": {"format": "png"}},
        {"non_standard": 1, "value": {"type": "text", "text": "x"}},
        {"type": None, "a": 1},
        {},
    ],
)
def test_a_result_without_a_type_is_json_as_a_whole(data: dict[str, Any]) -> None:
    assert said(ToolMessage, data) == json.dumps(data)


def test_a_function_gives_what_a_tool_gives() -> None:
    message = FunctionMessage(content=["one", {"a": 1}], name="f")
    assert text_of(message, "messages[0]") == 'one\n{"a": 1}'


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"text": "hello"}, "hello"),
        ({"json": {"a": 1}}, '{"a": 1}'),
        ({"cachePoint": {"type": "default"}}, ""),
    ],
)
def test_a_result_of_bedrocks_has_its_kind_for_its_only_key(
    block: dict[str, Any], text: str
) -> None:
    assert said(ToolMessage, block) == text


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"type": "image", "base64": "AA", "mime_type": "image/png"}, "describe"),
        ({"type": "image_url", "image_url": {"url": "u"}}, "'image_url'.*describe"),
        ({"type": "input_image", "image_url": "u"}, "describe"),
        ({"type": "audio", "base64": "AA"}, "transcript"),
        ({"type": "input_audio", "input_audio": {}}, "transcript"),
        ({"type": "video", "url": "u"}, "'video'.*transcript"),
        ({"type": "file", "base64": "AA"}, "'file'.*loader"),
        ({"type": "document", "source": {"type": "base64", "data": "A"}}, "loader"),
        ({"type": "text-plain", "url": "u"}, "loader"),
        ({"type": "media", "data": "A"}, "loader"),
        ({"type": "non_standard", "value": {"type": "image"}}, "'image'.*describe"),
    ],
)
@pytest.mark.parametrize("kind", [HumanMessage, AIMessage, ToolMessage])
def test_what_is_no_text_is_refused_by_its_place(
    kind: type[BaseMessage], block: Any, told: str
) -> None:
    own = {"tool_call_id": "a"} if kind is ToolMessage else {}
    messages = [ASKED, AIMessage("So."), ASKED, kind(content=[block], **own)]
    with pytest.raises(InvalidValueError, match=rf"messages\[3\] has .*{told}"):
        turns_of(messages)


def nested(kind: str, key: str) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": "deep"}
    for _ in range(5000):
        block = {"type": kind, key: block if key == "value" else [block]}
    return block


CIRCLE: list[Any] = []
CIRCLE.append({"type": "document", "content": CIRCLE})


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (3, "'int', 3, .*as text"),
        (None, "'NoneType', None"),
        (["a"], r"'list', \['a'\]"),
        (b"x", "'bytes'"),
        (nested("non_standard", "value"), "'non_standard'.* 32 others deep"),
        (nested("document", "content"), "'document'.* 32 others deep"),
        (CIRCLE[0], "'document'.* 32 others deep"),
        ({"type": "json", "json": CIRCLE}, "'json'.*not JSON"),
        ({"type": "text", "text": 3}, "'text'.*as text"),
    ],
)
@pytest.mark.parametrize("kind", [HumanMessage, AIMessage, ToolMessage])
def test_what_is_no_block_is_refused(
    kind: type[BaseMessage], block: Any, told: str
) -> None:
    own = {"tool_call_id": "a"} if kind is ToolMessage else {}
    message = kind(content=[], **own)
    message.content.append(block)  # type: ignore[union-attr]
    with pytest.raises(InvalidValueError, match=rf"messages\[0\] has .*{told}"):
        text_of(message, "messages[0]")
    message.content = block
    if isinstance(block, int | None):
        with pytest.raises(InvalidValueError, match=told):
            text_of(message, "messages[0]")


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"type": "tool_result", "content": "c"}, "ToolMessage"),
        ({"type": "widget"}, "'widget'.*as text"),
        ({"guardContent": {}}, "'guardContent'"),
        ({}, "'none'"),
        ({"type": "text"}, "'text'"),
    ],
)
def test_what_nobody_knows_of_a_user_is_refused(block: Any, told: str) -> None:
    with pytest.raises(InvalidValueError, match=told):
        said(HumanMessage, block)


def test_roles_of_other_providers() -> None:
    told = convert_to_messages(
        [
            {"role": "developer", "content": "Be brief."},
            ChatMessage(role="developer", content="Be kind."),
            ChatMessage(role="human", content="Who?"),
            ChatMessage(role="ai", content="I."),
            ChatMessage(role="critic", content="Hm."),
            ("user", "Why?"),
        ]
    )
    roles = [turn["role"] for turn in turns_of(told)]
    assert roles == ["system", "user", "assistant", "critic", "user"]


def test_functions_of_openais_first_form_are_tools() -> None:
    called = {"function_call": {"name": "pages", "arguments": '{"of": "Emma"}'}}
    _, call, result = turns_of(
        [
            ASKED,
            AIMessage("", additional_kwargs=called),
            FunctionMessage(content="635", name="pages"),
        ]
    )
    (made,) = call["tool_calls"]
    assert made["function"] == {"name": "pages", "arguments": {"of": "Emma"}}
    assert result["content"] == "635"
    assert (result["role"], result["name"]) == ("tool", "pages")
    assert result["tool_call_id"] == made["id"]


@pytest.mark.parametrize(
    ("args", "arguments"),
    [
        ('{"of": "Em', {"arguments": '{"of": "Em'}),
        ("[1]", {"arguments": [1]}),
        (None, {}),
    ],
)
def test_a_call_that_cannot_be_parsed_is_shown_as_it_was_written(
    args: str | None, arguments: dict[str, Any]
) -> None:
    call = {"name": "pages", "args": args, "id": "1", "error": None}
    broken = AIMessage("", invalid_tool_calls=[call])
    result = ToolMessage("no JSON", tool_call_id="1")
    _, turn, answered = turns_of([ASKED, broken, result])
    assert turn["tool_calls"][0]["function"]["arguments"] == arguments
    assert answered["name"] == "pages"


CALL: Any = {"name": "pages", "args": {}, "id": "1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (RemoveMessage("7"), r"messages\[1\] is a RemoveMessage, of '7'.*add_messages"),
        (
            ChatMessage(role="<|x|>", content=""),
            r"messages\[1\]: a role is a word .*<\|x\|>",
        ),
        (BaseMessage("x", type="odd"), r"messages\[1\], of type 'odd'.*HumanMessage"),
        (
            AIMessage("So", tool_calls=[CALL]),
            r"messages\[1\], the last one, calls \['pages'\].*ToolMessage",
        ),
    ],
)
def test_messages_that_are_no_turn_are_refused(message: BaseMessage, told: str) -> None:
    with pytest.raises(InvalidValueError, match=told):
        turns_of([ASKED, message])


def test_a_last_answer_is_one_that_was_begun() -> None:
    begun = [ASKED, AIMessage("So", additional_kwargs={"reasoning_content": "hm"})]
    assert begun_in(turns_of(begun)) == "So"
    assert begun_in(turns_of([*begun, ASKED])) is None
    assert asked_at(begun) == 0
    assert asked_at([*begun, ASKED, SystemMessage("Be brief.")]) == 2
