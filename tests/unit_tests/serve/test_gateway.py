"""The HTTP side, over replicas that are stood in for: Ray is not started."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest
from qdrant_client import models
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from langchain_ralmspec.errors import InvalidValueError, QueueFullError
from langchain_ralmspec.serve import app
from langchain_ralmspec.serve import gateway as module
from langchain_ralmspec.serve.gateway import Gateway
from langchain_ralmspec.serve.protocol import error_of, failure_of
from langchain_ralmspec.text import sha256_of

Parts = Callable[[dict[str, Any], dict[str, Any]], AsyncGenerator[Any]]


class Answering:
    """What a handle's call gives."""

    def __init__(self, parts: AsyncGenerator[Any]) -> None:
        self._parts = parts
        self.is_cancelled = False

    def __aiter__(self) -> AsyncGenerator[Any]:
        return self._parts

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """A handle to replicas that answer by one function after the other."""

    def __init__(self, *answers: Parts) -> None:
        self._answers = list(answers)
        self.given: list[Any] = []
        self.sessions: list[str] = []
        self.made: list[Answering] = []

    def options(self, session_id: str | None = None, **_: Any) -> "Handle":
        if session_id is not None:
            self.sessions.append(session_id)
        return self

    @property
    def answer(self) -> "Handle":
        return self

    def remote(self, body: dict[str, Any], restriction: dict[str, Any]) -> Answering:
        self.given.append((body, restriction))
        self.made.append(Answering(self._answers.pop(0)(body, restriction)))
        return self.made[-1]


async def answered(*_: Any) -> AsyncGenerator[Any]:
    yield 200, {"n": 1}
    yield 200, {"n": 2}


async def lost(*_: Any) -> AsyncGenerator[Any]:
    raise RayError
    yield


async def lost_midway(*_: Any) -> AsyncGenerator[Any]:
    yield 200, {"n": 1}
    raise RayError


async def broken_midway(*_: Any) -> AsyncGenerator[Any]:
    yield 200, {"n": 1}
    yield 503, {"error": {"code": "store_failed"}}


async def too_many(*_: Any) -> AsyncGenerator[Any]:
    raise BackPressureError(4, 4)
    yield


def client_of(
    handle: Any, key: str | None = None, tenant_filter: Any = None
) -> TestClient:
    digest = None if key is None else hashlib.sha256(key.encode()).digest()
    gateway = Gateway(handle, digest, tenant_filter)

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request

        response = await gateway(Request(scope, receive))
        await response(scope, receive, send)

    return TestClient(asgi)


def events(text: str) -> list[Any]:
    assert text.endswith("\n\n")
    said = [line.removeprefix("data: ") for line in text.split("\n\n")[:-1]]
    return [line if line == "[DONE]" else json.loads(line) for line in said]


URL = "/v1/chat/completions"


def test_a_stream_is_told_by_events() -> None:
    handle = Handle(answered)
    response = client_of(handle).post(URL, json={"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert events(response.text) == [{"n": 1}, {"n": 2}, "[DONE]"]
    assert not handle.made[0].is_cancelled


async def test_who_leaves_cancels_the_answer() -> None:
    handle: Any = Handle(answered)
    parts = Gateway(handle, None, None)._parts({}, {}, "")
    assert await anext(parts) == (200, {"n": 1})
    await parts.aclose()
    assert handle.made[0].is_cancelled


def test_an_error_in_a_stream_is_its_last_event() -> None:
    for answer, code in (
        (lost_midway, "replica_lost"),
        (broken_midway, "store_failed"),
    ):
        response = client_of(Handle(answer)).post(URL, json={"stream": True})
        first, last = events(response.text)
        assert first == {"n": 1}
        assert last["error"]["code"] == code


def test_what_was_lost_is_not_asked_for_again() -> None:
    """It may be what has ended the replica."""
    handle = Handle(lost, answered)
    response = client_of(handle).post(URL, json={"a": 1})
    assert handle.given == [({"a": 1}, {})]
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"


def test_too_many_are_refused_at_once() -> None:
    response = client_of(Handle(too_many)).post(URL, json={"stream": True})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["type"] == "rate_limit_error"


def test_a_model_with_a_full_queue_says_when_to_ask_again() -> None:
    async def full(*_: Any) -> AsyncGenerator[Any]:
        yield failure_of(QueueFullError.of(4, 2, 2))

    response = client_of(Handle(full)).post(URL, json={"stream": True})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "too_many_requests"


@pytest.mark.parametrize(("holds", "asked"), [(1e9, 1), (0.0, 2)])
async def test_who_asks_for_health_often_does_not_ask_ray(
    monkeypatch: pytest.MonkeyPatch, holds: float, asked: int
) -> None:
    counts: list[int] = []

    def running() -> int:
        counts.append(1)
        return 2

    monkeypatch.setattr(module, "_n_running", running)
    monkeypatch.setattr(module, "HEALTH_SECONDS", holds)
    handle: Any = Handle()
    gateway = Gateway(handle, b"a digest", None)
    for _ in range(2):
        many = [gateway._n_replicas() for _ in range(20)]
        assert await asyncio.gather(*many) == [2] * 20
    assert len(counts) == asked


def test_the_header_names_the_session_and_else_the_user() -> None:
    handle = Handle(answered, answered, answered)
    client = client_of(handle)
    client.post(URL, json={"user": "b"}, headers={"x-session-id": "a"})
    client.post(URL, json={"user": "b"})
    client.post(URL, json={})
    assert handle.sessions == [sha256_of("a"), sha256_of("b")]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer right", 200),
        ("bearer right", 200),
        ("Bearer wrong", 401),
        ("Basic right", 401),
        ("right", 401),
        ("Bearer ", 401),
        ("", 401),
    ],
)
def test_only_the_key_lets_in(header: str, status: int) -> None:
    handle = Handle(answered)
    client = client_of(handle, key="right")
    response = client.post(URL, json={}, headers={"authorization": header})
    assert response.status_code == status
    assert len(handle.given) == (status == 200)
    models = client.get("/v1/models", headers={"authorization": "Bearer x"})
    assert models.status_code == 401


def test_a_tenant_is_known_by_its_headers_alone() -> None:
    def tenant_of(headers: Mapping[str, str]) -> Any:
        name = headers.get("x-tenant")
        if name == "thief":
            raise PermissionError
        if name == "fault":
            raise KeyError(name)
        if name == "no answer of ours":  # who asks learns nothing of the function
            raise InvalidValueError(name)
        empty: dict[str, Any] = {"empty": {}, "no pair": (), "false": False}
        return name and empty.get(name, {"tenant": name})

    async def served_elsewhere(headers: Mapping[str, str]) -> Any:
        return tenant_of(headers)

    handle = Handle(answered)
    client = client_of(handle, tenant_filter=tenant_of)
    statuses = {
        name: client.post(URL, json={}, headers=headers).status_code
        for name, headers in {
            "red": {"x-tenant": "red"},
            "nobody": {},
            "thief": {"x-tenant": "thief"},
            "fault": {"x-tenant": "fault"},
            "no answer of ours": {"x-tenant": "no answer of ours"},
            "empty": {"x-tenant": "empty"},
            "no pair": {"x-tenant": "no pair"},
            "false": {"x-tenant": "false"},
        }.items()
    }
    assert statuses == {
        "red": 200, "nobody": 403, "thief": 403, "fault": 500, "no answer of ours": 500,
        "empty": 403, "no pair": 403, "false": 403,
    }  # fmt: skip
    assert handle.given == [({}, {"filter": {"tenant": "red"}})]
    handle = Handle(answered)
    client = client_of(handle, tenant_filter=served_elsewhere)
    assert client.post(URL, json={}, headers={"x-tenant": "red"}).status_code == 200
    assert handle.given == [({}, {"filter": {"tenant": "red"}})]


@pytest.mark.parametrize(
    ("namespace", "status"), [("red", 200), (None, 200), ("", 500), (7, 500)]
)
def test_a_tenant_may_have_a_namespace_beside_its_filter(
    namespace: Any, status: int
) -> None:
    handle, wanted = Handle(answered), {"tenant": "red"}
    client = client_of(handle, tenant_filter=lambda _: (wanted, namespace))
    body = {"kv_namespace": "blue"}  # refused by the replica
    assert client.post(URL, json=body).status_code == status
    own = {"kv_namespace": namespace} if namespace else {}
    given = [(body, {"filter": wanted, **own})]
    assert handle.given == (given if status == 200 else [])
    client = client_of(Handle(), tenant_filter=lambda _: ({}, namespace))
    assert client.post(URL, json={}).status_code == 403, "nothing filters"


def test_a_session_of_any_name_is_one_that_can_be_routed() -> None:
    names = []
    for body in ('{"user": "\\ud800"}', '{"user": "' + "x" * 9999 + '"}', "{}"):
        handle: Any = Handle(answered)
        assert client_of(handle).post(URL, content=body).status_code == 200
        names += handle.sessions
    assert len({*names}) == len(names) == 2
    for name in names:
        assert len(name.encode()) == 64


def test_what_an_error_quotes_can_be_told() -> None:
    async def refused(*_: Any) -> AsyncGenerator[Any]:
        yield 400, error_of("no tool \ud800", "invalid_request_error")

    response = client_of(Handle(refused)).post(URL, json={})
    assert response.json()["error"]["message"] == "no tool \ufffd"


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        (models.Filter(must=[]), 403),
        (models.Filter(), 403),
        (models.Filter(must=[models.Filter(should=[], must_not=[])]), 403),
        ({"$and": []}, 403),
        ({"$and": [{}, {"tenant": {}}]}, 403),
        ({"tenant": {"$nin": []}}, 403),
        ("", 403),
        ({"tenant": {"$in": []}}, 200),  # which finds nothing
        ({"tenant": None}, 200),
        ({"tenant": 0}, 200),
        ({"$and": [{"tenant": "red"}, {}]}, 200),
        (models.Filter(must=[models.HasIdCondition(has_id=[1])]), 200),
        (print, 200),
    ],
)
def test_a_filter_that_says_nothing_is_none(wanted: Any, status: int) -> None:
    client = client_of(Handle(answered), tenant_filter=lambda _: (wanted, None))
    assert client.post(URL, json={}).status_code == status


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(content: bytes) -> None:
    response = client_of(Handle()).post(URL, content=content)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_what_is_not_there_is_not_found() -> None:
    response = client_of(Handle()).get(URL)
    assert response.status_code == 404
    assert "GET /v1/chat/completions" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"api_key": ""}, "lets nobody in"), ({"replicas": 3, "max_replicas": 2}, "less")],
)
def test_an_application_refuses_what_cannot_be(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        app("app:chat", **settings)
