import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from pydantic import ValidationError

from langchain_ralmspec.base.call_settings import Sampling
from langchain_ralmspec.errors import (
    ContextOverflowError,
    DecodeError,
    EmptyStoreError,
    GrammarError,
    InvalidValueError,
    QueueFullError,
    RaLMSpecError,
    SetupError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.serve.protocol import Answer, call_of, event, failure_of

USAGE = UsageMetadata(input_tokens=5, output_tokens=2, total_tokens=7)
TOLD = {
    "finish_reason": "stop",
    "documents": [{"id": "a"}],
    "speculation": {"guesses": 3},
}


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Who?"}]
    return {"model": "m", "messages": messages, **fields}


def test_fields_become_arguments_of_the_call() -> None:
    call = call_of(
        body(
            temperature=0.5,
            top_p=0.9,
            seed=1,
            stop="a",
            max_completion_tokens=3,
            max_tokens=None,
            tools=[],
            response_format={"type": "json_object"},
            stream=True,
            stream_options={"include_usage": True},
            user="somebody",
            n=1,
        ),
        "m",
    )
    assert call.settings == {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 1,
        "stop": ["a"],
        "max_tokens": 3,
        "tools": [],
        "response_format": {"type": "json_object"},
    }
    assert call.stream
    assert call.include_usage
    assert [message.content for message in call.messages] == ["Who?"]


def test_a_conversation_with_calls_is_read() -> None:
    function = {"name": "f", "arguments": '{"a": 1}'}
    called = {"id": "1", "type": "function", "function": function}
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
    ]
    read = call_of(body(messages=messages), "m").messages
    assert [message.type for message in read] == ["system", "human", "ai", "tool"]
    assert isinstance(read[2], AIMessage)
    assert read[2].tool_calls[0]["args"] == {"a": 1}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n": 2}, "n=2 is not served"),
        ({"logprobs": True}, "logprobs=True"),
        ({"frequency_penalty": 0.1}, "frequency_penalty=0.1"),
        ({"filter": {"tenant": "red"}}, "no argument 'filter'"),
        ({"search_kwargs": {}}, "no argument 'search_kwargs'"),
        ({"kv_namespace": "red"}, "no argument 'kv_namespace'"),
        ({"max_queue": 9}, "no argument 'max_queue'"),
        ({"context": "A text."}, "no argument 'context'"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"model": "gpt"}, "model='gpt' is not served; ask 'm'"),
        ({"model": None}, "model=None"),
        ({"stream_options": 1}, "stream_options must be an object"),
        ({"stop": ["a"] * 65}, "stop has 65 strings"),
        ({"stop": "a" * 257}, "one of 257 characters; 64 of 256 are the most"),
        ({"messages": "Who?"}, "must be a list of messages"),
        ({"messages": []}, "give at least one"),
        ({"messages": ["Who?"]}, r"messages\[0\] is 'Who\?'"),
        ({"messages": [{"role": "remove", "id": "1"}]}, r"messages\[0\]"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]"),
        ({"messages": [{"role": [], "content": "Why?"}]}, r"messages\[0\]"),
    ],
)
def test_what_would_change_the_answer_is_refused(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises((InvalidValueError, UnknownArgumentError), match=said):
        call_of(body(**fields), "m")


def streamed(*chunks: AIMessageChunk, include_usage: bool = False) -> list[Any]:
    answer = Answer("m", "r1", include_usage)
    return [part for chunk in chunks for part in answer.parts(chunk)]


def last(**fields: Any) -> AIMessageChunk:
    return AIMessageChunk(
        content="",
        response_metadata=TOLD | fields,
        usage_metadata=USAGE,
        chunk_position="last",
    )


def test_chunks_are_told_as_openai_does() -> None:
    thought = AIMessageChunk(content="", additional_kwargs={"reasoning_content": "Hm."})
    first, second, third, ending = streamed(
        thought,
        AIMessageChunk(content="He"),
        AIMessageChunk(content=""),
        AIMessageChunk(content="llo"),
        last(),
    )
    deltas = [part["choices"][0]["delta"] for part in (first, second, third, ending)]
    assert deltas == [
        {"role": "assistant", "content": "", "reasoning_content": "Hm."},
        {"content": "He"},
        {"content": "llo"},
        {},
    ]
    assert {part["object"] for part in (first, ending)} == {"chat.completion.chunk"}
    assert first["id"] == ending["id"]
    assert first["model"] == "m"
    assert first["system_fingerprint"] == "r1"
    assert first["choices"][0]["finish_reason"] is None
    assert ending["choices"][0] == {"index": 0, "logprobs": None, "delta": {}} | TOLD


def test_usage_is_the_last_chunk_where_it_is_wanted() -> None:
    *_, usage = streamed(AIMessageChunk(content="A"), last(), include_usage=True)
    assert usage["choices"] == []
    wanted = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert usage["usage"] == wanted
    assert all(
        "usage" not in part for part in streamed(AIMessageChunk(content="A"), last())
    )


def test_an_answer_without_text_has_a_role() -> None:
    [part] = streamed(last(finish_reason="length"))
    assert part["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert part["choices"][0]["finish_reason"] == "length"


def test_calls_are_told_in_pieces() -> None:
    begun = tool_call_chunk(name="f", args="", id="1", index=0)
    more = tool_call_chunk(args='{"a": 1}', index=0)
    chunks = [
        AIMessageChunk(content="", tool_call_chunks=[each]) for each in (begun, more)
    ]
    first, second, ending = streamed(*chunks, last())
    [call] = first["choices"][0]["delta"]["tool_calls"]
    function = {"name": "f", "arguments": ""}
    assert call == {"index": 0, "id": "1", "type": "function", "function": function}
    [call] = second["choices"][0]["delta"]["tool_calls"]
    assert call["function"] == {"name": None, "arguments": '{"a": 1}'}
    assert ending["choices"][0]["finish_reason"] == "tool_calls"


def test_a_whole_answer_is_told_at_once() -> None:
    message = AIMessage(content="Hello", response_metadata=TOLD, usage_metadata=USAGE)
    told = Answer("m", "r1").whole(message)
    assert told["object"] == "chat.completion"
    [choice] = told["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello"}
    assert choice["documents"] == TOLD["documents"]
    assert choice["speculation"] == TOLD["speculation"]
    assert told["usage"]["total_tokens"] == 7
    call = {"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}
    message = message.model_copy(update={"content": "", "tool_calls": [call]})
    [choice] = Answer("m", "r1").whole(message)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


def refused_sampling() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Sampling(temperature=-1)
    return caught.value


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InvalidValueError("n=2"), 400, "n=2"),
        (UnknownArgumentError("no 'x'"), 400, "no 'x'"),
        (GrammarError("no grammar"), 400, "no grammar"),
        (ContextOverflowError("5000 tokens"), 400, "5000 tokens"),
        (refused_sampling(), 400, "temperature: "),
        (EmptyStoreError("/secret"), 400, "no document"),
        (StoreError("http://secret"), 503, "store failed"),
        (QueueFullError.of(4, 2, 2), 429, "too many requests wait"),
        (SetupError("the filter {'tenant': 'secret'}"), 500, "answer failed"),
        (DecodeError("secret"), 500, "answer failed"),
        (RaLMSpecError("secret"), 500, "answer failed"),
        (ValueError("secret"), 500, "answer failed"),
    ],
)
def test_errors_are_told_without_what_is_inside(
    error: Exception, status: int, said: str
) -> None:
    given, told = failure_of(error)
    assert given == status
    assert said in told["error"]["message"]
    assert "secret" not in json.dumps(told)
    kinds = {400: "invalid_request_error", 429: "rate_limit_error"}
    assert told["error"]["type"] == kinds.get(status, "server_error")


def test_an_event_is_one_line() -> None:
    assert event({"a": "b\nc"}) == 'data: {"a": "b\\nc"}\n\n'
