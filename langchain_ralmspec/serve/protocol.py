"""OpenAI's format of chat completions: requests read, answers and errors written."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from langchain_ralmspec.arguments import several
from langchain_ralmspec.base.call_settings import Sampling
from langchain_ralmspec.base.messages import messages_of
from langchain_ralmspec.errors import (
    ChatTemplateError,
    ContextOverflowError,
    EmptyStoreError,
    GrammarError,
    InvalidValueError,
    QueueFullError,
    SetupError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.text import well_formed

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

OK, BAD_REQUEST, TOO_MANY, UNAVAILABLE, BROKEN = 200, 400, 429, 503, 500

_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}

_HANDED_ON = {
    *Sampling.model_fields,
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "chat_template_kwargs",
}
"""Fields that a call of the chat model takes under the same name."""

_READ = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_completion_tokens",
    "stop",
}

_NAMES = {
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "service_tier",
    "store",
}
"""Fields that change no answer; ``user`` is a session's name."""

# Each token is compared with all beginnings of each: 1 ms for so many.
_MOST_STOPS, _LONGEST_STOP = 64, 256

_ONLY: dict[str, Any] = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "modalities": ["text"],
}
"""Fields with the one value that is served."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks of the chat model.

    Attributes:
        messages: of the conversation.
        settings: other arguments of the call, ``stop`` among them.
        stream: whether the answer is told in chunks.
        include_usage: whether a stream ends with the numbers of tokens.
    """

    messages: list[BaseMessage]
    settings: dict[str, Any]
    stream: bool
    include_usage: bool


def call_of(body: Mapping[str, Any], model: str) -> Call:
    """Read the body of a request for the model of this name.

    Raises:
        InvalidValueError: a field has a value that is not served.
        UnknownArgumentError: a field would change the answer, and is not known.
    """
    given = {name: value for name, value in body.items() if value is not None}
    for name in given.keys() - _HANDED_ON - _READ - _NAMES:
        if name not in _ONLY:
            known = _HANDED_ON | _READ | _NAMES | set(_ONLY)
            raise UnknownArgumentError.of("a chat completion", name, known)
        if given[name] != _ONLY[name]:
            msg = f"{name}={given[name]!r:.80} is not served; leave it out"
            raise InvalidValueError(msg)
    if given.get("model") != model:
        msg = f"model={given.get('model')!r:.80} is not served; ask {model!r}"
        raise InvalidValueError(msg)
    if not isinstance(given.get("stream", False), bool):
        msg = f"stream={given['stream']!r:.80} is neither true nor false"
        raise InvalidValueError(msg)
    options = given.get("stream_options") or {}
    if not isinstance(options, Mapping):
        msg = f"stream_options must be an object, got {options!r:.80}"
        raise InvalidValueError(msg)
    settings = {name: given[name] for name in _HANDED_ON & given.keys()}
    if "max_completion_tokens" in given:
        settings["max_tokens"] = given["max_completion_tokens"]
    if "stop" in given:
        settings["stop"] = _stops_of(given["stop"])
    return Call(
        _messages_of(given.get("messages")),
        settings,
        stream=given.get("stream") is True,
        include_usage=options.get("include_usage") is True,
    )


def _stops_of(given: Any) -> Any:
    """The stop strings of a request; the chat model refuses what is none.

    Raises:
        InvalidValueError: they are more or longer than is served.
    """
    stops = [given] if isinstance(given, str) else given
    for stop in stops if isinstance(stops, list) else ():
        n_stops, length = len(stops), len(stop) if isinstance(stop, str) else 0
        if n_stops > _MOST_STOPS or length > _LONGEST_STOP:
            msg = (
                f"stop has {n_stops:,} strings, such as one of {length:,} characters; "
                f"{_MOST_STOPS} of {_LONGEST_STOP} are the most that is served"
            )
            raise InvalidValueError(msg)
    return stops


def _messages_of(given: Any) -> list[BaseMessage]:
    """The messages of a request; the chat model refuses what is in them.

    Raises:
        InvalidValueError: one is none of OpenAI's.
    """
    for at, message in enumerate(several("messages", given or (), "messages")):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or role not in _ROLES:
            msg = (
                f"messages[{at}] is {message!r:.80}; give an object with a 'role' of "
                f"{', '.join(sorted(_ROLES))}, and a 'content'"
            )
            raise InvalidValueError(msg)
    if not given:
        raise InvalidValueError(f"messages={given!r} asks nothing; give at least one")
    return messages_of(given, "messages")


@dataclass(slots=True)
class Answer:
    """One answer as OpenAI tells it, with what this package tells beside it.

    Attributes:
        model: its name.
        replica: that writes it.
        include_usage: whether a stream ends with the numbers of tokens.
    """

    model: str
    replica: str
    include_usage: bool = False
    _id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    _created: int = field(default_factory=lambda: int(time.time()))
    _has_begun: bool = False
    _has_called: bool = False

    def parts(self, chunk: AIMessageChunk) -> Iterator[dict[str, Any]]:
        """Tell one chunk of the chat model's stream, in one or two of OpenAI's."""
        delta = _said(chunk)
        if calls := chunk.tool_call_chunks:
            self._has_called = True
            delta["tool_calls"] = [
                {
                    "index": call["index"],
                    **_call(call["id"], call["name"], call["args"]),
                }
                for call in calls
            ]
        if not self._has_begun:
            self._has_begun = True
            delta = {"role": "assistant", "content": "", **delta}
        told = chunk.response_metadata
        if delta and "finish_reason" not in told:
            yield self._head("chunk", {"delta": delta, "finish_reason": None})
        if "finish_reason" in told:
            yield self._head("chunk", {"delta": delta, **self._ending(told)})
            if self.include_usage:
                yield self._head("chunk") | {"usage": _usage(chunk)}

    def whole(self, message: AIMessage) -> dict[str, Any]:
        """Tell an answer at once."""
        said: dict[str, Any] = {"role": "assistant", "content": None, **_said(message)}
        calls = [
            _call(call["id"], call["name"], json.dumps(call["args"]))
            for call in message.tool_calls
        ] + [
            _call(call["id"], call["name"], call["args"])
            for call in message.invalid_tool_calls
        ]
        if calls:
            self._has_called = True
            said["tool_calls"] = calls
        elif said["content"] is None:
            said["content"] = ""
        choice = {"message": said, **self._ending(message.response_metadata)}
        return self._head("", choice) | {"usage": _usage(message)}

    def _ending(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """How a choice ended, its documents, and what speculation did for it."""
        reason = told["finish_reason"]
        return {
            "finish_reason": (
                "tool_calls" if self._has_called and reason == "stop" else reason
            ),
            "documents": told["documents"],
            "speculation": told["speculation"],
        }

    def _head(self, kind: str, *choices: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": ".".join(filter(None, ("chat.completion", kind))),
            "created": self._created,
            "model": self.model,
            "system_fingerprint": self.replica,
            "choices": [{"index": 0, "logprobs": None, **each} for each in choices],
        }


def _said(message: BaseMessage) -> dict[str, Any]:
    """What a message says, and what it thinks, as far as it does."""
    said: dict[str, Any] = {}
    if text := str(message.text):
        said["content"] = text
    if thought := message.additional_kwargs.get("reasoning_content"):
        said["reasoning_content"] = thought
    return said


def _call(id_: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": id_, "type": "function", "function": function}


def _usage(message: AIMessage) -> dict[str, int]:
    usage = message.usage_metadata
    assert usage is not None  # noqa: S101  ours always tell
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
    }


def error_of(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI tells it."""
    message = well_formed(message)  # it may quote halves of characters
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def refusal(message: str, code: str | None = None) -> dict[str, Any]:
    """An error of whoever asks."""
    return error_of(message, "invalid_request_error", code)


def failure_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """The HTTP status of an error, and what is told of it.

    Only what was asked is quoted: no store, path, code or filter.
    """
    if isinstance(error, ContextOverflowError):
        return BAD_REQUEST, refusal(str(error), "context_length_exceeded")
    for kinds, status, told in _TOLD:
        if isinstance(error, kinds):
            return status, told
    if isinstance(error, InvalidValueError | UnknownArgumentError | GrammarError):
        return BAD_REQUEST, refusal(str(error))
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return BAD_REQUEST, refusal(f"{place}: {first['msg']}".lstrip(": "))
    return FAILED


CROWDED = error_of(
    "too many requests wait for an answer; ask again later",
    "rate_limit_error",
    "too_many_requests",
)
"""What is told where more wait than may."""

FAILED = (
    BROKEN,
    error_of("the answer failed", "server_error", "internal_error"),
)
"""What is told of a fault of the application, and of ours."""

_TOLD = (
    (SetupError, *FAILED),
    (
        ChatTemplateError,
        BAD_REQUEST,
        refusal("the model's chat template does not take these messages"),
    ),
    (
        EmptyStoreError,
        BAD_REQUEST,
        refusal(
            "no document was found for the question; ask another one", "no_documents"
        ),
    ),
    (
        QueueFullError,
        TOO_MANY,
        CROWDED,
    ),
    (
        StoreError,
        UNAVAILABLE,
        error_of(
            "the document store failed; ask again", "server_error", "store_failed"
        ),
    ),
)
"""Kinds of errors that are told without what they say."""


def event(data: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n"


DONE = "data: [DONE]\n\n"
"""The event behind the last one of a stream."""
