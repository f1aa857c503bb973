"""The Ray Serve application: a gateway that speaks HTTP, and replicas of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.errors import InvalidValueError, MissingExtraError

if TYPE_CHECKING:
    from ray.serve import Application

    from langchain_ralmspec.base.chat import LocalChat

TenantFilter = Callable[[Mapping[str, str]], Any]
"""From a request's headers, lower-cased names, to the filter of its tenant, or to that
and the ``kv_namespace`` of what it reads."""

_GATEWAY_REQUESTS = 10_000  # it only hands on: replicas say how many are too many


def app(
    chat: str | Callable[[], LocalChat],
    *,
    replicas: int = 1,
    max_replicas: int | None = None,
    api_key: str | None = None,
    tenant_filter: str | TenantFilter | None = None,
    max_ongoing_requests: int = 16,
    max_queued_requests: int = 64,
    graceful_shutdown_timeout_s: float = 60.0,
    ray_actor_options: dict[str, Any] | None = None,
) -> Application:
    """Build a server of a chat model with OpenAI's API, of as many replicas as wanted.

    Requests with the same ``x-session-id`` header, or else the same ``user`` in the
    body, reach the same replica, which has kept the KV of what they have in common.

    Example:
        ```python
        server = app("app:chat", replicas=2)  # in app.py, beside chat = ChatRaLMSpec(…)
        serve.run(server)  # of Ray, or: serve run app:server
        ```

    Args:
        chat: a ``ChatRaLMSpec`` or ``ChatRapid``, or a function without arguments that
            makes one, as ``"module:attribute"``; or that function. It is loaded in
            each replica.
        replicas: how many, at least.
        max_replicas: how many at most, as the load needs; None keeps ``replicas``.
        api_key: that requests have to bring, as ``Authorization: Bearer …``; None asks
            for none.
        tenant_filter: a function, or its ``"module:attribute"``, that gets a request's
            headers and gives the filter of its retriever, or a tuple of that and the
            tenant's ``kv_namespace``. A ``PermissionError``, None or False refuses
            the request (403). A ``ChatRapid``, which has no retriever, is refused
            beside it when a replica starts.
        max_ongoing_requests: that a replica answers at once.
        max_queued_requests: that wait for one; more are refused (429).
        graceful_shutdown_timeout_s: seconds in which a replica that is to end may
            finish its answers.
        ray_actor_options: of Ray, for a replica: ``{"num_cpus": 4, "num_gpus": 1}``.

    Returns:
        What ``ray.serve.run()`` runs.

    Raises:
        MissingExtraError: Ray Serve is not installed.
        InvalidValueError: fewer replicas at most than at least, or an empty key.
    """
    try:
        from ray import serve

        from langchain_ralmspec.serve.gateway import Gateway
        from langchain_ralmspec.serve.replica import Replica
    except ImportError as error:
        raise MissingExtraError.of(error.name or "ray", "serve") from error
    if api_key is not None and not api_key:
        raise InvalidValueError("api_key='' lets nobody in; give a key, or None")
    model: Any = serve.deployment(
        Replica,
        **_scale(replicas, max_replicas, max_ongoing_requests),
        max_ongoing_requests=max_ongoing_requests,
        max_queued_requests=max_queued_requests,
        graceful_shutdown_timeout_s=graceful_shutdown_timeout_s,
        max_constructor_retry_count=2,  # a model that is missing stays so
        ray_actor_options=ray_actor_options or {"num_cpus": 1},
        request_router_config={
            "request_router_class": (
                "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
            )
        },
    )
    # One alone, so that the bound on what waits is one for all.
    gateway: Any = serve.deployment(
        Gateway,
        num_replicas=1,
        max_ongoing_requests=_GATEWAY_REQUESTS,
        graceful_shutdown_timeout_s=graceful_shutdown_timeout_s,
        ray_actor_options={"num_cpus": 0},
    )
    digest = None if api_key is None else hashlib.sha256(api_key.encode()).digest()
    has_tenants = tenant_filter is not None
    replica = model.bind(chat, max_ongoing_requests, has_tenants=has_tenants)
    bound: Application = gateway.bind(replica, digest, tenant_filter)
    return bound


def _scale(least: int, most: int | None, n_ongoing: int) -> dict[str, Any]:
    """How many replicas there are, in Ray's words.

    Raises:
        InvalidValueError: fewer at most than at least.
    """
    if most is None:
        return {"num_replicas": least}
    if most < least:
        msg = f"max_replicas={most} is less than replicas={least}"
        raise InvalidValueError(msg)
    bounds = {"min_replicas": least, "max_replicas": most}
    target = {"target_ongoing_requests": max(1, n_ongoing // 2)}
    return {"autoscaling_config": bounds | target}
