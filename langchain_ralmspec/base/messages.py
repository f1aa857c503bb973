"""Chat messages as the turns of a chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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

from langchain_ralmspec.base.content import text_of
from langchain_ralmspec.base.plain import plain
from langchain_ralmspec.errors import InvalidValueError, SetupError, stops_a_graph
from langchain_ralmspec.text import is_blank, sha256_of, well_formed

if TYPE_CHECKING:
    from langchain_core.prompt_values import PromptValue

_ROLES: list[tuple[type[BaseMessage], str]] = [
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
]

# What LangChain raises for what is no message.
_UNCONVERTED = (
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)
_ALIASES = {"developer": "system", "human": "user", "ai": "assistant"}
"""Roles of OpenAI and of LangChain under other names than chat templates know."""


def turns_of(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as role and content; neighbours of one role are merged.

    An answer that calls tools has its ``tool_calls``, as chat templates have them; what
    a tool gave is a turn of its own, with the call's ``name`` and ``tool_call_id``.
    Where the last turn is the assistant's, it is one that is to be continued.

    Raises:
        InvalidValueError: there is no user message, or a message that is not text, or
            that templates have no turn for; or the last one calls tools, behind which
            only what these give can follow.
    """
    turns: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the calls so far
    for at, message in enumerate(messages):
        place = f"messages[{at}]"
        turn: dict[str, Any] = {
            "role": _role_of(message, place),
            "content": text_of(message, place),
        }
        if isinstance(message, AIMessage) and (calls := calls_of(message)):
            turn["tool_calls"] = list(map(_call, calls))
            names |= {str(each["id"]): each["name"] for each in calls}
        if isinstance(message, ToolMessage):
            call = message.tool_call_id
            turn["tool_call_id"] = _short_id(call)
            turn["name"] = message.name or names.get(call, "")
        if isinstance(message, FunctionMessage):
            turn["tool_call_id"] = _short_id(message.name)
            turn["name"] = message.name
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
    if called := turns[-1].get("tool_calls"):
        wanted = [call["function"]["name"] for call in called]
        msg = (
            f"messages[{len(messages) - 1}], the last one, calls {wanted}, so it "
            "cannot be continued; send what they give behind it, as a ToolMessage each"
        )
        raise InvalidValueError(msg)
    return turns


def messages_of(history: Any, name: str = "history") -> list[BaseMessage]:
    """The messages of a conversation so far, as an application keeps it.

    Args:
        history: messages, ``(role, text)`` tuples, or ``{"role", "content"}`` dicts.
        name: what the errors call it.

    Raises:
        InvalidValueError: it is no list, or something in it is none of these.
    """
    wanted = "give a list of messages, or of (role, text) tuples"
    if not isinstance(history, list | tuple):
        msg = f"{name} is {history!r:.60}, of type {type(history).__name__}; {wanted}"
        raise InvalidValueError(msg)
    messages: list[BaseMessage] = []
    for at, one in enumerate(history):
        try:
            if isinstance(one, str):  # LangChain takes it for the user's
                msg = "a text without a role"
                raise TypeError(msg)
            messages += convert_to_messages([one])
        except _UNCONVERTED as error:
            msg = f"{name}[{at}] is {one!r:.60}: {_why(error, 'it')}; {wanted}"
            raise InvalidValueError(msg) from error
    return messages


def prompt_of(convert: Callable[[Any], PromptValue], given: Any) -> PromptValue:
    """The input of a model, converted as LangChain does it.

    Raises:
        InvalidValueError: LangChain cannot.
    """
    try:
        return convert(given)
    except _UNCONVERTED as error:
        why = _why(error, "a message")
        msg = f"{why}; got {given!r:.200}, give a string, or a list of messages"
        raise InvalidValueError(msg) from error


def _why(error: Exception, what: str) -> str:
    """Why something is no message; a key that a call of a tool lacks, for example."""
    why = str(error).partition("\n")[0]
    return f"{what} lacks {why}" if isinstance(error, LookupError) else why


def asked_at(messages: Sequence[BaseMessage]) -> int:
    """Where the message is that is answered: the user's last one.

    Behind it stand only calls of tools, their results, and an answer that was begun.
    """
    for at in range(len(messages) - 1, -1, -1):
        if _role_of(messages[at], f"messages[{at}]") == "user":
            return at
    return len(messages) - 1


def question_by(query_source: Callable[[Any], str], asked: Any) -> str:
    """The question that a user's function makes of what was asked.

    Raises:
        SetupError: it fails.
        InvalidValueError: it gives no text.
    """
    try:
        question = query_source(asked)
    except Exception as error:
        if stops_a_graph(error):
            raise
        msg = f"query_source failed: {type(error).__name__}: {error}"
        raise SetupError(msg) from error
    if not isinstance(question, str) or is_blank(question):
        msg = f"query_source must give a string that is not blank, got {question!r}"
        raise InvalidValueError(msg)
    return well_formed(question)


def begun_in(turns: Sequence[Mapping[str, Any]]) -> str | None:
    """What the last turn says of an answer that is to be continued; else None."""
    last = turns[-1]
    # Documents may stand in it, between two parts.
    return "".join(last["content"]) if last["role"] == "assistant" else None


def question_of(turns: Sequence[dict[str, Any]]) -> str:
    """What the user has said last.

    Raises:
        InvalidValueError: it is blank, so that there is nothing to look up.
    """
    said: str = next(
        turn["content"] for turn in reversed(turns) if turn["role"] == "user"
    )
    if is_blank(said):
        msg = f"the user's last message is empty, got {said!r:.60}; ask something"
        raise InvalidValueError(msg)
    return said


def calls_of(message: AIMessage) -> list[Mapping[str, Any]]:
    """What a message calls: those that cannot be parsed, and OpenAI's old form, too."""
    calls: list[Mapping[str, Any]] = [*message.tool_calls, *message.invalid_tool_calls]
    old = message.additional_kwargs.get("function_call")
    if not calls and isinstance(old, Mapping) and old.get("name"):
        calls = [{"name": old["name"], "args": old.get("arguments"), "id": old["name"]}]
    return calls


def _role_of(message: BaseMessage, place: str) -> str:
    """Who speaks, in the words of chat templates."""
    if isinstance(message, ChatMessage):
        # Templates put it between brackets, where more than a word would be markup.
        if not re.fullmatch(r"\w[\w .-]*", message.role):
            msg = f"{place}: a role is a word such as 'user', got {message.role!r}"
            raise InvalidValueError(msg)
        return _ALIASES.get(message.role, message.role)
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    if isinstance(message, RemoveMessage):
        msg = (
            f"{place} is a RemoveMessage, of {message.id!r}: it changes a graph's "
            "state, and is no turn of a conversation; return it from a node, whose "
            "add_messages removes what it names"
        )
        raise InvalidValueError(msg)
    msg = (
        f"{place}, of type {message.type!r}, cannot be put into a chat template; send "
        "a SystemMessage, HumanMessage, AIMessage or ToolMessage"
    )
    raise InvalidValueError(msg)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    given = call["args"]
    try:
        arguments = given if isinstance(given, Mapping) else json.loads(given or "{}")
    except (TypeError, ValueError, RecursionError):  # cut off, or no JSON at all
        arguments = given
    if not isinstance(arguments, Mapping):  # which templates take for granted
        arguments = {"arguments": arguments}
    try:  # a tool may have been called by a program, with a date for example
        arguments = json.loads(json.dumps(arguments, default=plain))
    except (TypeError, ValueError, RecursionError) as error:
        msg = (
            f"the arguments of the call of {call['name']!r} are {arguments!r:.60}, "
            f"which is no JSON: {error}; give dicts with strings as keys, and values"
        )
        raise InvalidValueError(msg) from error
    return {
        "type": "function",
        "id": _short_id(str(call["id"])),
        "function": {"name": call["name"] or "", "arguments": arguments},
    }


def _short_id(given: str) -> str:
    """An id as the strictest templates want it: nine letters and digits."""
    if re.fullmatch(r"[A-Za-z0-9]{9}", given):
        return given
    return sha256_of(given)[:9]
