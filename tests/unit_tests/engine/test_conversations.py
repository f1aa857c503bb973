"""Conversations of every shape, in the templates of every family."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from langchain_ralmspec.engine.templates import ChatTemplate
from langchain_ralmspec.errors import ChatTemplateError
from tests.unit_tests.engine.families import FAMILIES
from tests.unit_tests.engine.test_templates import (
    ALL,
    CONTROLS,
    FIRST,
    template_of,
    told,
)

NAMES = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "c": "critic"}
CALL = {"name": "pages", "arguments": {"of": "Emma"}}

SHAPES = [
    "u",
    "su",
    "uau",
    "suau",
    "usu",
    "susu",
    "uasu",
    "suasus",
    "us",
    "uasau",
    "uas",
]
WITH_TOOLS = ["uctu", "ucttau", "suct", "ucstu"]
BEGUN = ["ua", "sua", "uaua", "suasua", "usa", "ucta"]


def turns_in(shape: str) -> list[dict[str, Any]]:
    """Turns that say which they are; ``c`` is an answer that calls."""
    turns: list[dict[str, Any]] = []
    for at, letter in enumerate(shape):
        turn: dict[str, Any] = {"role": NAMES[letter], "content": f"said {at}."}
        if letter == "c":
            calls = [{"id": "a", "type": "function", "function": CALL}]
            turn |= {"role": "assistant", "tool_calls": calls}
        if letter == "t":
            turn |= {"name": "pages", "tool_call_id": "a"}
        turns.append(turn)
    return turns


def shown(template: ChatTemplate, turns: list[Any], **variables: Any) -> str:
    before, after = template.around(turns, None, (), variables)
    return told(before) + told(after)


def controls(template: ChatTemplate, turns: list[Any]) -> list[int]:
    before, after = template.around(turns, None)
    return [token for token in (*before, *after) if token >= FIRST]


@ALL
@pytest.mark.parametrize("shape", [*SHAPES, *WITH_TOOLS])
def test_every_turn_is_shown_in_its_order(family: str, shape: str) -> None:
    text = shown(template_of(FAMILIES[family]), turns_in(shape))
    places = [text.find(f"said {at}.") for at in range(len(shape))]
    assert -1 not in places
    assert all(text.count(f"said {at}.") == 1 for at in range(len(shape)))
    others = [
        place
        for place, letter in zip(places, shape, strict=True)
        if letter != "s"  # which some collect at the head, or let the next user say
    ]
    assert others == sorted(others)


@ALL
def test_a_finished_answer_is_not_continued(family: str) -> None:
    text = shown(template_of(FAMILIES[family]), turns_in("uas"))
    assert not text.rstrip().endswith("said 1.")


@ALL
def test_an_answer_that_nobody_asked_for_is_shown_or_refused(family: str) -> None:
    """Strict templates begin with the user."""
    template = template_of(FAMILIES[family])
    if family in {"llama_2", "mistral", "gemma"}:
        with pytest.raises(
            ChatTemplateError, match=r"refuses \['assistant', 'user'\]: .*alternate"
        ):
            shown(template, turns_in("au"))
    else:
        assert "said 0." in shown(template, turns_in("au"))


@ALL
def test_a_role_that_a_template_does_not_know_is_not_lost(family: str) -> None:
    turns = turns_in("uau")
    turns[1]["role"] = "critic"
    template = template_of(FAMILIES[family])
    with suppress(ChatTemplateError):
        assert "said 1." in shown(template, turns)


@ALL
@pytest.mark.parametrize("begun", ["It is", "It is 1 < ", "It is <|im_end|>", "", "\n"])
@pytest.mark.parametrize("shape", BEGUN)
def test_a_last_answer_is_left_open(family: str, shape: str, begun: str) -> None:
    template = template_of(FAMILIES[family])
    turns = turns_in(shape)
    turns[-1]["content"] = f"Well. {begun}"
    before, after = template.around(turns, None)
    text = told([*before, *after])
    assert text.endswith(f"Well. {begun}")
    assert text.count(f"Well. {begun}") == 1
    assert all(f"said {at}." in text for at in range(len(shape) - 1))
    # Up to there it is what stands before an answer that has ended, …
    ended = [*turns, {"role": "user", "content": "And?"}]
    if family != "mistral" and shape != "usa":  # whose system turn comes later then
        assert shown(template, ended).startswith(text.rstrip())
    # … and no marker of its own ends it.
    turns[-1]["content"] = "Well."
    assert controls(template, turns) == [t for t in (*before, *after) if t >= FIRST]


def test_a_template_without_answers_says_so() -> None:
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="drops the answer that is to be"):
        template_of(source).around(turns_in("ua"), None)


def test_templates_are_told_their_variables() -> None:
    template = template_of(FAMILIES["qwen_3"])
    turns = turns_in("u")
    assert shown(template, turns).endswith("assistant\n")
    quiet = shown(template, turns, enable_thinking=False, unknown=[1])
    assert quiet.endswith("assistant\n<think>\n\n</think>\n\n")
    dated = shown(template_of(FAMILIES["llama_3"]), turns, date_string="1 May 1851")
    assert "Today Date: 1 May 1851" in dated


def test_variables_are_no_markup() -> None:
    template = template_of(
        "{{ note }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    before, after = template.around(turns_in("u"), None, (), {"note": "a <s> b"})
    assert told([*before, *after]).startswith("a <s> b")
    assert CONTROLS["<s>"] not in [*before, *after]
    own = {"messages": [], "bos_token": "x"}  # refused by faces; never taken
    assert "said 0." in shown(template, turns_in("u"), **own)


@ALL
def test_a_template_tells_whether_an_answer_begins_inside_a_thought(
    family: str,
) -> None:
    template = template_of(FAMILIES[family])
    _, after = template.around(turns_in("u"), None)
    assert template.has_thoughts == (family in {"qwen", "qwen_3", "deepseek"})
    assert template.opens_thought(after) == (family == "deepseek")
