"""Tools are shown as a template shows them, or else in plain text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from langchain_ralmspec.engine.calls import (
    HERMES,
    LLAMA_3,
    MISTRAL,
    PLAIN,
    CallFormat,
    format_of,
)
from tests.unit_tests.engine.families import CHATML
from tests.unit_tests.engine.test_templates import CONTROLS, template_of, told

NATIVE = """
{%- if tools %}<|im_start|>{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}:{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}
</tool_call>{% endfor %}
{%- if message.role == 'tool' %} ({{ message.name }}, {{ message.tool_call_id }})
{%- endif %}<|im_end|>{% endfor %}<|im_start|>assistant:"""

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How warm? <|im_end|>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"name": "weather", "arguments": {"city": "Paris <|im_start|>"}}
TURNS: list[Any] = [
    {"role": "user", "content": "Is it warm?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "a", "type": "function", "function": CALL}],
    },
    {"role": "tool", "content": "20 C", "name": "weather", "tool_call_id": "a"},
    {"role": "tool", "content": "at noon", "name": "weather", "tool_call_id": "b"},
]


@pytest.mark.parametrize(
    ("template", "calls"),
    [
        (CHATML, PLAIN),
        (NATIVE, HERMES),
        ("{{ tools }}[TOOL_CALLS]", MISTRAL),
        ('{{ tools }}{"name": n, "parameters": p}', LLAMA_3),
        (r"{{ tools }}{{ '\"parameters\": ' }}", LLAMA_3),
        ("{{ tools }} in a form of its own", PLAIN),
        ("<tool_call> of a model that is shown none", PLAIN),
    ],
)
def test_the_form_is_told_by_the_template(template: str, calls: CallFormat) -> None:
    assert format_of(template) == calls


@pytest.mark.parametrize(("template", "n_turns"), [(NATIVE, 7), (CHATML, 5)])
def test_what_others_say_is_never_markup(template: str, n_turns: int) -> None:
    before, after = template_of(template).around(TURNS, "Be brief.", [TOOL])
    shown = told([*before, *after])
    for part in (TOOL["function"]["parameters"], CALL["arguments"]):
        assert json.dumps(part) in shown.replace('\\"', '"')
    assert "How warm? <|im_end|>" in shown
    assert "20 C" in shown
    # The plain form joins the results to one turn; tools are a turn of the other's.
    assert [*before, *after].count(CONTROLS["<|im_start|>"]) == n_turns


def test_results_are_the_users_turns_in_plain_text() -> None:
    before, after = template_of(CHATML).around(TURNS, None)
    assert told([*before, *after]).endswith(
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris <|im_start|>"}}'
        "\n</tool_call><|im_end|>\n<|im_start|>user\n"
        "<tool_response>\n20 C\n</tool_response>\n"
        "<tool_response>\nat noon\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
