"""Calls are read from any cut of an answer's text, and never completed by guess."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables.utils import add

from langchain_ralmspec.base.call_reader import CallReader
from langchain_ralmspec.engine.calls import HERMES, LLAMA_3, MISTRAL, CallFormat

ARGUMENTS = '{"a": "}\\"{<tool_call>", "b": [1, {"c": null}]}'
TOOLS = [{"function": {"name": name}} for name in "fg"]
READ = {"a": '}"{<tool_call>', "b": [1, {"c": None}]}
CALL = f'<tool_call>{{"name": "g", "arguments": {ARGUMENTS}}}</tool_call>'
OTHERS = f'{{"name": "h", "arguments": {ARGUMENTS}}}'


def read(calls: CallFormat, *texts: str) -> AIMessageChunk:
    """What LangChain makes of an answer that comes in pieces."""
    reader = CallReader(calls.marker(TOOLS))
    parts = [part for text in texts for part in reader.read(text)]
    message = add(
        AIMessageChunk(content=part)
        if isinstance(part, str)
        else AIMessageChunk(content="", tool_call_chunks=[part])
        for part in [*parts, *reader.finish(), ""]
    )
    assert isinstance(message, AIMessageChunk)
    return message


def test_a_name_that_is_no_json_is_what_it_is() -> None:
    for name in (r"get\_weather", r"\u12"):
        text = f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>'
        (call,) = read(HERMES, text).tool_calls
        assert call["name"] == name


@given(st.data())
@pytest.mark.parametrize(
    ("calls", "text", "said", "names"),
    [
        (
            HERMES,
            (
                f'Well. <tool_call>\n{{"name": "f", "arguments": {ARGUMENTS}}}\n'
                f'</tool_call>\n<tool_call>{{"name" :"g","arguments": {ARGUMENTS} }} '
                "</tool_call>"
            ),
            "Well. ",
            "fg",
        ),
        (
            MISTRAL,
            (
                f'[TOOL_CALLS] [{{"name": "f", "arguments": {ARGUMENTS}}}, '
                f'{{"name": "g", "arguments": {ARGUMENTS}}}]'
            ),
            "",
            "fg",
        ),
        (LLAMA_3, f'\n{{"name": "f", "parameters": {ARGUMENTS}}}', "", "f"),
        (LLAMA_3, f"So: {ARGUMENTS}", f"So: {ARGUMENTS}", ""),
        (HERMES, "a < b <tool> <tool_cal", "a < b <tool> <tool_cal", ""),
        (HERMES, f' {{"name": "f", "arguments":\n{ARGUMENTS}}}', "", "f"),
        (HERMES, f'{{{{"name": "g", "arguments": {ARGUMENTS}}}}}', "", "g"),
        (
            HERMES,
            f'```json\n{{\n "name": "f",\n "arguments": {ARGUMENTS}}}\n```',
            "",
            "f",
        ),
        (HERMES, OTHERS, OTHERS, ""),
        (HERMES, f'```\n{{"name": "f"}}\n```{CALL}', '```\n{"name": "f"}\n```', "g"),
        (HERMES, f"So: {CALL[11:-12]}", f"So: {CALL[11:-12]}", ""),
        (MISTRAL, CALL[11:-12], CALL[11:-12], ""),
    ],
    ids=[
        *("hermes", "mistral", "llama-3", "said-json", "said-markers", "bare"),
        *("doubled", "block", "no-tool", "said-block", "behind-text", "no-list"),
    ],
)
def test_calls_are_found_however_the_text_is_cut(
    calls: CallFormat, text: str, said: str, names: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(cuts)]
    message = read(calls, *pieces)
    assert str(message.content).lstrip() == said
    assert [call["name"] for call in message.tool_calls] == list(names)
    assert all(call["args"] == READ for call in message.tool_calls)
    assert len({call["id"] for call in message.tool_calls}) == len(names)
    assert not message.invalid_tool_calls


def test_a_call_that_is_cut_off_is_never_valid() -> None:
    head = '<tool_call>{"name": "f", "arguments": '
    for end in range(1, len(ARGUMENTS)):
        message = read(HERMES, head + ARGUMENTS[:end])
        assert not message.tool_calls, ARGUMENTS[:end]
        (call,) = message.invalid_tool_calls
        assert call["name"] == "f"
        assert str(call["args"]).startswith(ARGUMENTS[:end])
    for end in range(12, len(head) - 1):  # before it has a name
        message = read(HERMES, head[:end])
        said: Any = message.content
        assert not message.tool_calls + message.invalid_tool_calls
        assert said in {"", head[:end]}


@pytest.mark.parametrize("spoilt", ['{"a": 1 "b": 2}', '{"a": [1}', '{"a": 1,,}'])
def test_a_call_whose_arguments_are_no_json_is_never_valid(spoilt: str) -> None:
    for text in (
        f'<tool_call>{{"name": "f", "arguments": {spoilt}}}',
        f'{{"name": "f", "arguments": {spoilt}}}',
    ):
        message = read(HERMES, text)
        assert not message.tool_calls
        (call,) = message.invalid_tool_calls
        assert call["name"] == "f"
    assert read(HERMES, '{"name": "f", "arguments": 1}').content
