"""Chat messages as the turns of a chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.text import sha256_of, well_formed

if TYPE_CHECKING:
    from langchain_core.messages import ToolCall

_ROLES: list[tuple[type[BaseMessage], str]] = [
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
]

_CALLED = {"tool_call", "tool_use", "function_call", "invalid_tool_call"}
"""Kinds of content blocks that repeat what a message says of its calls."""


def turns_of(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as role and content; neighbours of one role are merged.

    An answer that calls tools has its ``tool_calls``, as chat templates have them; what
    a tool gave is a turn of its own, with the call's ``name`` and ``tool_call_id``.

    Raises:
        InvalidValueError: there is no user message, or a message that is not text, or
            that templates have no turn for.
    """
    turns: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the calls so far
    for message in messages:
        turn: dict[str, Any] = {"role": _role_of(message), "content": _text_of(message)}
        if isinstance(message, AIMessage) and message.tool_calls:
            turn["tool_calls"] = list(map(_call, message.tool_calls))
            names |= {str(each["id"]): each["name"] for each in message.tool_calls}
        if isinstance(message, ToolMessage):
            call = message.tool_call_id
            turn["tool_call_id"] = _short_id(call)
            turn["name"] = message.name or names.get(call, "")
        if (
            turns
            and turns[-1].keys() == turn.keys() == {"role", "content"}
            and (turns[-1]["role"] == turn["role"])
        ):
            turns[-1]["content"] += f"\n\n{turn['content']}"
        else:
            turns.append(turn)
    if not any(turn["role"] == "user" for turn in turns):
        msg = f"a conversation needs a user message, got {[t['role'] for t in turns]}"
        raise InvalidValueError(msg)
    return turns


def messages_of(history: Any) -> list[BaseMessage]:
    """The messages of a conversation so far, as an application keeps it.

    Args:
        history: messages, ``(role, text)`` tuples, or ``{"role", "content"}`` dicts.

    Raises:
        InvalidValueError: it is no list, or something in it is none of these.
    """
    wanted = "give a list of messages, or of (role, text) tuples"
    if not isinstance(history, list | tuple):
        msg = f"history is {history!r:.60}, of type {type(history).__name__}; {wanted}"
        raise InvalidValueError(msg)
    messages: list[BaseMessage] = []
    for at, one in enumerate(history):
        try:
            if isinstance(one, str):  # LangChain takes it for the user's
                msg = "a text without a role"
                raise TypeError(msg)  # noqa: TRY301  reported with the others
            messages += convert_to_messages([one])
        except (NotImplementedError, TypeError, ValueError) as error:
            why = str(error).partition("\n")[0]
            msg = f"history[{at}] is {one!r:.60}: {why}; {wanted}"
            raise InvalidValueError(msg) from error
    return messages


def asked_at(messages: Sequence[BaseMessage]) -> int:
    """Where the message is that is answered: the last one without tools' messages."""
    at = len(messages) - 1
    if at >= 0 and isinstance(messages[at], ToolMessage):
        while at > 0 and not isinstance(messages[at], HumanMessage):
            at -= 1
    return at


def question_of(turns: Sequence[dict[str, Any]]) -> str:
    """What the user has said last.

    Raises:
        InvalidValueError: it is blank, so that there is nothing to look up.
    """
    said: str = next(
        turn["content"] for turn in reversed(turns) if turn["role"] == "user"
    )
    if not said.strip():
        msg = f"the user's last message is empty, got {said!r}; ask something"
        raise InvalidValueError(msg)
    return said


def _role_of(message: BaseMessage) -> str:
    """Who speaks, in the words of chat templates."""
    if isinstance(message, ChatMessage):
        # Templates put it between brackets, where more than a word would be markup.
        if not re.fullmatch(r"\w[\w .-]*", message.role):
            msg = f"a role is a word such as 'user', got {message.role!r}"
            raise InvalidValueError(msg)
        return message.role
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    msg = f"a message of type {message.type!r} cannot be put into a chat template"
    raise InvalidValueError(msg)


def _text_of(message: BaseMessage) -> str:
    for block in message.content if isinstance(message.content, list) else []:
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind != "text" and kind not in _CALLED:
            msg = f"a content block of type {kind!r} cannot be read; send text"
            raise InvalidValueError(msg)
    return well_formed(str(message.text))


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["args"]}
    return {
        "type": "function",
        "id": _short_id(str(call["id"])),
        "function": function,
    }


def _short_id(given: str) -> str:
    """An id as the strictest templates want it: nine letters and digits."""
    if re.fullmatch(r"[A-Za-z0-9]{9}", given):
        return given
    return sha256_of(given)[:9]
