"""How models call tools: what each family writes, and what it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_ralmspec.engine.grammar import Marker
from langchain_ralmspec.engine.schema_grammar import gbnf_of

Turn = Mapping[str, Any]
"""A turn's ``role`` and ``content``, a text or those around the context; with what it
calls (``tool_calls``), or which call it answers (``tool_call_id``, ``name``)."""

CALLS = "tool-calls"
"""The rule of a grammar that calls begin with; no schema makes one of this name."""

_SYSTEM = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""What Qwen's template says of tools, as do those of the Hermes models."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """What a call looks like in an answer: ``begin``, its JSON, ``end``.

    Attributes:
        begin: what no other answer has; a free answer is one up to here.
        end: what stands behind the JSON.
        is_list: whether the JSON is a list of calls.
        arguments: the key of a call's arguments.
        at_start: whether ``begin`` counts only where the answer begins with it.
        may_repeat: whether an answer may have several calls.
        is_native: whether the chat template shows tools, calls and results.
        around: what a call may stand between instead, where an answer begins with it.
    """

    begin: str
    end: str = ""
    is_list: bool = False
    arguments: str = "arguments"
    at_start: bool = False
    may_repeat: bool = True
    is_native: bool = True
    around: tuple[tuple[str, str], ...] = ()

    def marker(self, tools: Sequence[Mapping[str, Any]]) -> Marker:
        """What a grammar of calls of some tools is lazy for."""
        names = (_json(tool["function"]["name"]) for tool in tools)
        openings = (
            f'{before}{{"name":{name},"{self.arguments}":'.encode()
            for name in names
            for before, _ in self.around
        )
        return Marker(self.begin, self.at_start, tuple(openings))

    def gbnf(
        self,
        tools: Sequence[Mapping[str, Any]],
        *,
        several: bool,
        is_lazy: bool = False,
    ) -> str:
        """The grammar of calls of some tools, of which one or ``several`` are made.

        It begins with the rule :data:`CALLS`. A lazy one has calls without their markup
        as well, and lets them be laid out over lines.

        Raises:
            GrammarError: the parameters of one cannot be made a grammar.
        """
        schemas = [self._schema(tool["function"]) for tool in tools]
        text = gbnf_of(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})
        begin = "" if self.at_start else json.dumps(self.begin)
        end = json.dumps(self.end) if self.end else ""
        again = several and self.may_repeat
        if self.is_list:
            more = ' ("," space root)*' if again else ""
            rule = f'{begin} space "[" space root{more} "]"'
        else:
            one = f"{begin} [\\n ]? root [\\n ]? {end}" if end else f"{begin} root"
            rule = f"{one} ([\\n ]? {one})*" if again else one
        if is_lazy:
            text = text.replace(_NARROW, _WIDE)
            for before, behind in self.around:
                rule += f" | {json.dumps(before)} root {json.dumps(behind)}"
        return f"{CALLS} ::= {rule.strip()}\n{text}"

    def _schema(self, function: Mapping[str, Any]) -> dict[str, Any]:
        parameters = function.get("parameters") or {"properties": {}}
        # By its name what they refer to is sought in themselves.
        parameters = {"type": "object", **parameters, "$id": "parameters"}
        return {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                self.arguments: parameters,
            },
            "required": ["name", self.arguments],
        }


_NARROW, _WIDE = 'space ::= " "?', 'space ::= | " " | "\\n" [ \\t]{0,20}'
"""Blanks between the parts of JSON, by llama-cpp-python's converter, and by llama.cpp's
own. A model that lays a call out over lines ends a string by a token that is quote and
line break in one; where that is forbidden, it goes on with the string."""

_UNMARKED = (("", ""), ("{", "}"), ("```", "```"), ("```json", "```"))
"""A call without its markup: bare, in doubled braces (as the template of Qwen2.5-Coder
shows one), in a block of code. Small models write these for a call, and mean one."""

HERMES = CallFormat("<tool_call>", "</tool_call>", around=_UNMARKED)
MISTRAL = CallFormat("[TOOL_CALLS]", is_list=True)
LLAMA_3 = CallFormat("{", arguments="parameters", at_start=True, may_repeat=False)
PLAIN = replace(HERMES, is_native=False)
"""Of templates that know no tools, or show them in a form that is not among these."""


def format_of(template: str) -> CallFormat:
    """The form of calls that a chat template is written for."""
    if re.search(r"\btools\b", template):
        if HERMES.begin in template:
            return HERMES
        if MISTRAL.begin in template:
            return MISTRAL
        if re.search(r"['\"]parameters['\"]\s*:", template.replace("\\", "")):
            return LLAMA_3
    return PLAIN


def spelt_out(
    turns: Sequence[Turn],
    instructions: str | None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[Turn], str | None]:
    """Turns and instructions in which tools, calls and results are plain text.

    Tools stand at the end of the system turn, calls at the end of what the assistant
    says; results are the user's turns.
    """
    shown = _SYSTEM.format(tools="\n".join(map(_json, tools))) if tools else ""
    plain: list[Turn] = []
    for turn in turns:
        role, content = turn["role"], turn["content"]
        if calls := turn.get("tool_calls"):
            content = _joined(content, *(_call(each["function"]) for each in calls))
        if role == "tool":
            role = "user"
            content = f"<tool_response>\n{content}\n</tool_response>"
        if role == "system" and shown:
            content, shown = _joined(content, shown, sep="\n\n"), ""
        if plain and plain[-1]["role"] == role:
            content = _joined(plain.pop()["content"], content)
        plain.append({"role": role, "content": content})
    if shown:
        instructions = _joined(instructions or "", shown, sep="\n\n")
    return plain, instructions


def _call(function: Mapping[str, Any]) -> str:
    called = {"name": function["name"], "arguments": function["arguments"]}
    return f"{HERMES.begin}\n{_json(called)}\n{HERMES.end}"


def _joined(content: Any, *texts: Any, sep: str = "\n") -> Any:
    """A content, one text or two around a context, with more behind it."""
    for text in texts:
        if isinstance(text, tuple):
            content = (_joined(content, text[0], sep=sep), text[1])
        elif isinstance(content, tuple):
            content = (content[0], _joined(content[1], text, sep=sep))
        else:
            content = f"{content}{sep}{text}" if content else text
    return content


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
