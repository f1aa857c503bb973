"""The HTTP side: keys, tenants, sessions, and answers as they are written."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sized
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.responses import JSONResponse, Response, StreamingResponse

from langchain_ralmspec.serve.loading import named
from langchain_ralmspec.serve.protocol import (
    BAD_REQUEST,
    CROWDED,
    DONE,
    FAILED,
    OK,
    TOO_MANY,
    UNAVAILABLE,
    error_of,
    event,
    refusal,
)
from langchain_ralmspec.text import sha256_of

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from starlette.requests import Request

    from langchain_ralmspec.serve.application import TenantFilter
    from langchain_ralmspec.serve.replica import Part

UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404

SESSION_HEADER = "x-session-id"

HEALTH_SECONDS = 1.0
"""For how long an answer about the replicas holds."""

_HANGS_SECONDS = 10.0  # and Ray is asked once more

_LOST = (RayError, RayServeException)
"""What Ray raises for a replica that has died, or cannot be reached."""

_log = logging.getLogger("ray.serve")  # which Ray writes to each replica's file


class Gateway:
    """Takes requests in, and hands each one to the replica of its session.

    Args:
        replica: the deployment of replicas.
        key_digest: SHA-256 of the key that requests have to bring; None asks for none.
        tenant_filter: from headers to the filter of a tenant, or its name.
    """

    def __init__(
        self,
        replica: DeploymentHandle[Any],
        key_digest: bytes | None,
        tenant_filter: str | TenantFilter | None,
    ) -> None:
        self._replica: Any = replica  # typed by what its calls give, stream or not
        self._key_digest = key_digest
        if isinstance(tenant_filter, str):
            tenant_filter = named(tenant_filter)
        self._tenant_filter = cast("TenantFilter | None", tenant_filter)
        self._known: asyncio.Future[int] | None = None  # how many replicas run
        self._asked = 0.0  # when that was, by ``time.monotonic()``

    async def __call__(self, request: Request) -> Response:
        """Answer a request, by its route; only of its health may anybody ask."""
        route = f"{request.method} {request.url.path}"
        if route == "GET /health":
            n = await self._n_replicas()
            return JSONResponse({"replicas": n}, OK if n else UNAVAILABLE)
        if not self._has_key(request):
            said = "the API key is missing or wrong; send Authorization: Bearer …"
            return _told(UNAUTHORIZED, refusal(said, "invalid_api_key"))
        if route == "GET /v1/models":
            return await self._models()
        if route == "POST /v1/chat/completions":
            return await self._complete(request)
        return _told(NOT_FOUND, refusal(f"there is no {route}", "not_found"))

    async def _n_replicas(self) -> int:
        """How many replicas run; Ray is asked once a second, whoever asks here."""
        now, known = time.monotonic(), self._known
        holds = _HANGS_SECONDS if known and not known.done() else HEALTH_SECONDS
        if known is None or now - self._asked >= holds:
            known = asyncio.ensure_future(asyncio.to_thread(_n_running))
            self._known, self._asked = known, now
        return await asyncio.shield(known)  # others wait for it, too

    async def _models(self) -> Response:
        """List the one model."""
        try:
            name = await self._replica.model_name.remote()
        except _LOST as error:
            return _told(*_lost(error))
        model = {"id": name, "object": "model", "created": 0, "owned_by": "ralmspec"}
        return _told(OK, {"object": "list", "data": [model]})

    async def _complete(self, request: Request) -> Response:
        """Answer a conversation, at once or as it is written."""
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return _told(BAD_REQUEST, refusal("the body is no JSON object"))
        try:
            restriction = await self._restriction(request)
        except PermissionError:
            return _told(FORBIDDEN, refusal("not for you", "forbidden"))
        except Exception:  # noqa: BLE001  a stranger's function
            _log.exception("tenant_filter failed")
            return _told(*FAILED)
        session = str(request.headers.get(SESSION_HEADER) or body.get("user") or "")
        # By its checksum: Ray's router never answers for a half of a character.
        parts = self._parts(body, restriction, session and sha256_of(session))
        status, first = await anext(parts)
        if status != OK or body.get("stream") is not True:
            await anext(parts, None)  # there is no more: to its end, not cancelled
            return _told(status, first)
        return StreamingResponse(_events(first, parts), media_type="text/event-stream")

    def _has_key(self, request: Request) -> bool:
        """Whether a request brings the key, in the same time for all wrong ones."""
        if self._key_digest is None:
            return True
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.encode()).digest()
        is_right = hmac.compare_digest(digest, self._key_digest)
        return is_right and kind.lower() == "bearer"

    async def _restriction(self, request: Request) -> dict[str, Any]:
        """What the request's tenant may see, as arguments of the call.

        Raises:
            PermissionError: nothing.
        """
        if self._tenant_filter is None:
            return {}
        # It may ask a service, and all streams go through this one loop.
        wanted = await asyncio.to_thread(self._tenant_filter, request.headers)
        if inspect.isawaitable(wanted):
            wanted = await wanted
        namespace = None
        if isinstance(wanted, tuple) and wanted:
            wanted, namespace = wanted
        # To most stores it is no filter, so all would be seen.
        if wanted is None or wanted is False or _says_nothing(wanted):
            raise PermissionError
        return {"filter": wanted, **_kept_in(namespace)}

    async def _parts(
        self, body: dict[str, Any], restriction: dict[str, Any], session: str
    ) -> AsyncGenerator[Part]:
        """The parts of an answer; the error that ends it is the last.

        One whose replica is lost is not asked for again: it may be what ended that.
        """
        replica = self._replica.options(stream=True)
        if session:
            replica = replica.options(session_id=session)
        parts = replica.answer.remote(body, restriction)
        try:
            async for part in parts:
                yield part
        except _LOST as error:
            yield _lost(error)
        except BaseException:  # whoever asked has left
            parts.cancel()
            raise


def _says_nothing(wanted: Any) -> bool:
    """Whether a filter, or a part of one, keeps nothing back.

    But one that is ``$in`` nothing, which keeps all back.
    """
    if isinstance(wanted, BaseModel):  # Qdrant's, for example
        return all(_says_nothing(each) for _, each in wanted if each is not None)
    if isinstance(wanted, Mapping):
        keeps_all_back = not wanted.keys().isdisjoint({"$in", "$or"})
        return not keeps_all_back and all(map(_says_nothing, wanted.values()))
    if isinstance(wanted, list | tuple | set | frozenset):
        return all(map(_says_nothing, wanted))
    return isinstance(wanted, Sized) and not wanted


def _kept_in(namespace: str | None) -> dict[str, str]:
    """Where the KV of what a tenant reads is kept, as an argument of the call.

    Raises:
        TypeError: the tenant has no name.
    """
    if namespace is None:
        return {}
    if not isinstance(namespace, str) or not namespace:
        msg = f"tenant_filter gave kv_namespace={namespace!r}; give a text, or None"
        raise TypeError(msg)
    return {"kv_namespace": namespace}


def _n_running() -> int:
    """How many replicas run, as Ray knows it."""
    own = serve.status().applications[serve.get_replica_context().app_name]
    states: Mapping[str, int] = cast("Any", own.deployments["Replica"]).replica_states
    return states.get("RUNNING", 0)


async def _events(
    first: dict[str, Any], parts: AsyncGenerator[Part]
) -> AsyncGenerator[str]:
    """An answer as server-sent events; an error is the last."""
    try:
        yield event(first)
        async for status, part in parts:
            yield event(part)
            if status != OK:
                return
        yield DONE
    finally:
        await parts.aclose()


def _lost(error: Exception) -> Part:
    """Status and error for what Ray raises."""
    if isinstance(error, BackPressureError):
        return TOO_MANY, CROWDED
    _log.warning("a replica was lost: %s", error)
    said = "the replica that wrote the answer was lost; ask again"
    return UNAVAILABLE, error_of(said, "server_error", "replica_lost")


def _told(status: int, body: dict[str, Any]) -> Response:
    again = {"Retry-After": "1"} if status in {TOO_MANY, UNAVAILABLE} else None
    return JSONResponse(body, status, headers=again)
