"""``ralmspec serve``: a chat model of the user's app behind OpenAI's API."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.serve import app as application

if TYPE_CHECKING:
    from ray.serve import Application

_NAME = "ralmspec"  # of the application: others of a cluster stay as they are
_TO_KILL, _LOOK = 10.0, 0.2  # seconds that Ray may take for that; between two looks
_OBJECT_STORE = 100_000_000  # bytes, near the least: answers do not go through it


def serve(
    target: Annotated[
        str,
        typer.Argument(
            help="module:attribute, as of uvicorn: a ChatRaLMSpec or ChatRapid, or a "
            "function that makes one."
        ),
    ],
    *,
    replicas: Annotated[int, typer.Option(help="Replicas, at least.", min=1)] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(help="At most, as the load needs.", min=1)
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1)] = 8000,
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the key that requests bring."),
    ] = None,
    tenant_filter: Annotated[
        str | None,
        typer.Option(
            help="module:attribute of a function from a request's headers to the "
            "filter of its retriever."
        ),
    ] = None,
    max_ongoing_requests: Annotated[
        int, typer.Option(help="That a replica answers at once.", min=1)
    ] = 16,
    max_queued_requests: Annotated[
        int, typer.Option(help="That wait; more are refused (429).", min=0)
    ] = 64,
    graceful_shutdown_timeout_s: Annotated[
        float, typer.Option(help="Seconds to finish answers in at the end.", min=0)
    ] = 60.0,
) -> None:
    """Serve a chat model of yours by OpenAI's API, on Ray Serve."""
    key = None
    if api_key_env is not None and not (key := os.environ.get(api_key_env)):
        msg = f"--api-key-env {api_key_env!r} is no variable that is set; export it"
        raise InvalidValueError(msg)
    built = application(
        target,
        replicas=replicas,
        max_replicas=max_replicas,
        api_key=key,
        tenant_filter=tenant_filter,
        max_ongoing_requests=max_ongoing_requests,
        max_queued_requests=max_queued_requests,
        graceful_shutdown_timeout_s=graceful_shutdown_timeout_s,
    )
    n = max_replicas or replicas
    http = {"host": host, "port": port}
    _run(built, target, http, n, graceful_shutdown_timeout_s)


def _run(
    built: Application, target: str, http: dict[str, Any], n: int, timeout: float
) -> None:
    """Run an application until Ctrl-C or SIGTERM, and let it finish its answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes out
    import ray
    from ray import serve as ray_serve

    is_own = "RAY_ADDRESS" not in os.environ
    if is_own:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, n),  # else some would wait for ever
            object_store_memory=_OBJECT_STORE,
            include_dashboard=False,
        )
    # Behind Ray's own handler, under which the process would end at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ray_serve.start(http_options=http)
        try:
            ray_serve.run(built, name=_NAME)
        except RuntimeError as error:  # as Ray says what a replica raised
            raise InvalidValueError(f"{target!r} cannot be served: {error}") from error
        typer.echo("http://{host}:{port}/v1".format(**http))
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            typer.echo("finishing the answers that were begun")
            _finish(timeout)
    finally:
        if is_own:
            ray_serve.shutdown()  # type: ignore[no-untyped-call]
        else:  # that would end all applications of the cluster
            ray_serve.delete(_NAME)
        ray.shutdown()


def _finish(timeout: float) -> None:
    """Wait until replicas have ended, which Ray kills when the time is over.

    ``shutdown()`` alone would end what passes answers on to the clients at once.
    """
    from ray import serve as ray_serve

    ray_serve.delete(_NAME, _blocking=False)
    deadline = time.monotonic() + timeout + _TO_KILL
    while _NAME in ray_serve.status().applications and time.monotonic() < deadline:
        time.sleep(_LOOK)
