from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_ralmspec import InvalidValueError, RapidChain
from langchain_ralmspec.base.messages import messages_of, turns_of


def test_a_history_is_messages_or_roles_and_texts() -> None:
    told: list[Any] = [
        SystemMessage("Be brief."),
        ("user", "Who?"),
        ["ai", "Ahab."],
        {"role": "user", "content": "When?"},
    ]
    assert messages_of(told) == [
        SystemMessage("Be brief."),
        HumanMessage("Who?"),
        AIMessage("Ahab."),
        HumanMessage("When?"),
    ]
    assert messages_of(()) == []


# Without an id.
OLLAMAS = {"type": "function", "function": {"name": "f", "arguments": "{}"}}


def calling(function: dict[str, Any]) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", **function}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("Who?", "history is 'Who.', of type str; give a list of messages"),
        (None, "history is None, of type NoneType"),
        ({"role": "user"}, "of type dict"),
        (["Who?"], r"history\[0\] is 'Who.': a text without a role"),
        ([("user", "Who?"), ("robot", "I")], r"history\[1\] .*'robot'.*type"),
        ([("user",)], r"history\[0\] is .*'user',"),
        ([3], r"history\[0\] is 3: .*int"),
        ([{"role": "user"}], "content"),
        (
            [{"role": "assistant", "content": "", "tool_calls": [OLLAMAS]}],
            r"history\[0\] is .*: it lacks 'id'",
        ),
        ([calling({"arguments": "[" * 100_000})], r"history\[0\] is "),
    ],
)
def test_what_is_no_history_is_refused(history: Any, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        messages_of(history)


@pytest.mark.parametrize("given", [5, True, [1], "[1", "[" * 100_000])
def test_arguments_of_any_kind_are_shown_as_they_are(given: Any) -> None:
    older = {"function_call": {"name": "f", "arguments": given}}
    read = messages_of([{"role": "assistant", "content": "So.", **older}])
    _, turn, _ = turns_of([HumanMessage("So?"), *read, HumanMessage("And?")])
    (call,) = turn["tool_calls"]
    assert call["function"]["arguments"] == {"arguments": given}


def test_a_chain_puts_the_history_before_the_question() -> None:
    chain = RapidChain(model_path="m.gguf")
    asked = chain._asking(
        "When?", [("system", "Be brief."), ("ai", "So."), ("ai", "A")]
    )
    assert asked.question == "When?"
    assert [(turn["role"], turn["content"]) for turn in asked.turns] == [
        ("system", "Be brief."),
        ("assistant", "So.\n\nA"),
        ("user", "When?"),
    ]
    plain = RapidChain(model_path="m.gguf", prompt_template="{context} {question}")
    assert plain._asking("When?", []).turns == asked.turns[-1:]
    with pytest.raises(InvalidValueError, match="no place for a history"):
        plain._asking("When?", [("user", "Who?")])
