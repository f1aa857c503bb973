"""What chat models make of an answer's text, and of a template's variables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.runnables.utils import add
from pydantic import ValidationError

from langchain_ralmspec import ChatRapid, InvalidValueError
from langchain_ralmspec.base.call_settings import Sampling
from langchain_ralmspec.base.local import PreparedAnswer
from langchain_ralmspec.base.thoughts import Thought
from langchain_ralmspec.base.tools import ToolUse
from langchain_ralmspec.engine.calls import LLAMA_3

PIECES = ["<th", "ink>\nThe sum", " is 2.\n</thi", "nk>\n\nTw", "o."]
USAGE: Any = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


def chat_of(
    monkeypatch: pytest.MonkeyPatch, pieces: list[str], *, is_thinking: bool | None
) -> ChatRapid:
    def answer(*_: Any) -> PreparedAnswer:
        return PreparedAnswer(iter(pieces), dict, lambda: USAGE, is_thinking)

    monkeypatch.setattr(ChatRapid, "_answer", answer)
    return ChatRapid(model_path="m.gguf", context="1 + 1")


def test_thoughts_are_reasoning_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of(monkeypatch, PIECES, is_thinking=False)
    message = chat.invoke("How much?")
    assert message.content == "Two."
    assert message.additional_kwargs == {"reasoning_content": "The sum is 2."}
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]
    chunks = list(chat.stream("How much?"))
    thoughts = [c.additional_kwargs.get("reasoning_content") for c in chunks]
    assert [one for one in thoughts if one] == ["The sum", " is 2."]
    told = add(chunks)
    assert isinstance(told, AIMessageChunk)
    assert told.text == message.text
    assert told.additional_kwargs == message.additional_kwargs


def test_thoughts_are_blocks_of_version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of(monkeypatch, PIECES, is_thinking=False)
    chat.output_version = "v1"
    for message in (chat.invoke("How much?"), add(chat.stream("How much?"))):
        blocks: list[Any] = message.content  # type: ignore[union-attr, assignment]
        told = [(b["type"], b.get("reasoning") or b.get("text")) for b in blocks]
        assert told == [("reasoning", "The sum is 2."), ("text", "Two.")]


@pytest.mark.parametrize("streaming", [False, True])
def test_thoughts_and_calls_are_blocks_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
    streaming: bool,
) -> None:
    calls = [tool_call_chunk(name="f", args="{}", id=f"{n}", index=n) for n in (0, 1)]
    pieces = [Thought("I must "), Thought("look."), *calls]
    monkeypatch.setattr(ChatRapid, "_pieces", lambda *_: iter(pieces))
    chat = chat_of(monkeypatch, [], is_thinking=False)
    chat.output_version, chat.streaming = "v1", streaming
    for message in (chat.invoke("How much?"), add(chat.stream("How much?"))):
        assert isinstance(message, AIMessage)
        blocks: Any = message.content_blocks
        assert [each["type"] for each in blocks] == ["reasoning", *["tool_call"] * 2]
        assert blocks[0]["reasoning"] == "I must look."
        assert [each["id"] for each in blocks[1:]] == ["0", "1"]


@pytest.mark.parametrize(
    ("pieces", "is_thinking", "content", "thought"),
    [
        (PIECES, None, "".join(PIECES), None),
        (["hm</think>", "So."], True, "So.", "hm"),
        (["hm, ", "and </th"], True, "", "hm, and </th"),
        (["So."], False, "So.", None),
    ],
)
def test_thoughts_are_told_apart_where_there_may_be_some(
    monkeypatch: pytest.MonkeyPatch,
    pieces: list[str],
    is_thinking: bool | None,
    content: str,
    thought: str | None,
) -> None:
    message = chat_of(monkeypatch, pieces, is_thinking=is_thinking).invoke("How much?")
    assert message.content == content
    assert message.additional_kwargs.get("reasoning_content") == thought


def test_a_calls_variables_go_before_those_of_the_model() -> None:
    given = {"enable_thinking": True, "date_string": "today"}
    chat = ChatRapid(model_path="m.gguf", context="x", chat_template_kwargs=given)
    given["enable_thinking"] = False  # the model's own by now
    asked = {"chat_template_kwargs": {"enable_thinking": False, "more": (1,)}}
    assert chat._variables(ToolUse.taken_from({})) == {**given, "enable_thinking": True}
    assert chat._variables(ToolUse.taken_from(asked)) == {**given, "more": [1]}
    assert asked == {}


BAD = [
    ({"messages": []}, r"cannot set 'messages', got \[\]: they are what"),
    ({"tools": []}, "cannot set 'tools'.*bind_tools"),
    ({"add_generation_prompt": False}, "'add_generation_prompt'.*is continued"),
    ({"bos_token": "x"}, "'bos_token', got 'x': it is the model's own"),
    ({"documents": []}, "'documents'.*looked up"),
    ({"f": print}, r"chat_template_kwargs\['f'\] is <built-in.*give text"),
    ({3: 4}, r"is \{3: 4\}; give a dict"),
    ("enable_thinking", "is 'enable_thinking'; give a dict"),
]


@pytest.mark.parametrize(("given", "told"), BAD)
def test_variables_that_are_none_are_refused(given: Any, told: str) -> None:
    with pytest.raises(InvalidValueError, match=told):
        ToolUse.taken_from({"chat_template_kwargs": given})
    with pytest.raises((InvalidValueError, ValidationError)):
        ChatRapid(model_path="m.gguf", context="x", chat_template_kwargs=given)


def test_an_answer_that_is_begun_can_call_nothing_where_calls_begin_one() -> None:
    chat = ChatRapid(model_path="m.gguf", context="x")
    function = {"name": "pages", "parameters": {"type": "object"}}
    use = ToolUse.taken_from({"tools": [{"type": "function", "function": function}]})
    weights = SimpleNamespace(has_chat_template=True)
    model: Any = SimpleNamespace(
        weights=weights, template=SimpleNamespace(calls=LLAMA_3)
    )
    told = r"last message, 'So', .*\['pages'\].*tool_choice='none'"
    with pytest.raises(InvalidValueError, match=told):
        chat._form(model, use, chat._sampling({}), "So")


def test_a_schema_and_a_grammar_exclude_one_another() -> None:
    use = ToolUse.taken_from({"response_format": {"type": "json_object"}})
    sampling = Sampling(grammar='root ::= "a"')
    model: Any = SimpleNamespace(weights=None)
    with pytest.raises(
        InvalidValueError, match=r"grammar='root .* exclude one another"
    ):
        use.form(model, sampling)


def test_variables_are_part_of_a_caches_key(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of(monkeypatch, ["So."], is_thinking=None)
    other = chat.model_copy(update={"chat_template_kwargs": {"enable_thinking": True}})
    keys = {
        chat._get_llm_string(),
        other._get_llm_string(),
        chat._get_llm_string(chat_template_kwargs={"enable_thinking": False}),
    }
    assert len(keys) == 3
