"""Chat messages as the turns of a chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
)

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.text import well_formed

_ROLES: list[tuple[type[BaseMessage], str]] = [
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
]


def turns_of(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """Messages as role and content; neighbours of one role are merged.

    Raises:
        InvalidValueError: there is no user message, or a message that is not text, or
            that templates have no turn for.
    """
    turns: list[dict[str, str]] = []
    for message in messages:
        role, content = _role_of(message), _text_of(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
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


def question_of(turns: Sequence[dict[str, str]]) -> str:
    """What the user has said last.

    Raises:
        InvalidValueError: it is blank, so that there is nothing to look up.
    """
    said = next(turn["content"] for turn in reversed(turns) if turn["role"] == "user")
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
        if kind != "text":
            msg = f"a content block of type {kind!r} cannot be read; send text"
            raise InvalidValueError(msg)
    return well_formed(str(message.text))
