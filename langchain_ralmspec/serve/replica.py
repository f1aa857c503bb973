"""One replica of a chat model: what Ray Serve starts, watches and ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from ray import serve
from ray.serve.metrics import Counter

from langchain_ralmspec.base.chat import LocalChat
from langchain_ralmspec.base.retrieval import RetrievalGeneration
from langchain_ralmspec.errors import DecodeError, InvalidValueError, SetupError
from langchain_ralmspec.machine import wait_briefly
from langchain_ralmspec.serve.loading import named
from langchain_ralmspec.serve.protocol import BROKEN, OK, Answer, call_of, failure_of

_COUNTED = (
    "guesses",
    "right_guesses",
    "drafted",
    "accepted",
    "tokens_kept",
    "tokens_rolled_back",
    "prompt_tokens",
    "read_tokens",
    "cached_tokens",
    "store_calls",
    "first_token",
    "seconds",
    "seconds_waiting",
    "seconds_searching",
)
"""Statistics of an answer that are summed up for Prometheus."""

Part = tuple[int, dict[str, Any]]
"""A status of HTTP, and a part of the answer, or the error that ends it."""


class Replica:
    """A chat model that answers requests in OpenAI's format.

    Args:
        chat: it, as ``"module:attribute"``, or what makes it.
        max_ongoing_requests: that may be answered at once.
        has_tenants: whether requests come with the filter of a tenant.

    Raises:
        InvalidValueError: it is no chat model of this package.
        SetupError: there are tenants, and it has no retriever for their filters.
    """

    def __init__(
        self,
        chat: str | Callable[[], LocalChat],
        max_ongoing_requests: int,
        *,
        has_tenants: bool = False,
    ) -> None:
        # Thread pools are made as libraries are loaded, which the chat model does.
        wait_briefly()
        found = named(chat) if isinstance(chat, str) else chat
        if not isinstance(found, LocalChat) and callable(found):
            found = found()
        if not isinstance(found, LocalChat):
            msg = (
                f"{chat!r} is a {type(found).__name__}; give a ChatRaLMSpec or "
                "ChatRapid, or a function without arguments that makes one"
            )
            raise InvalidValueError(msg)
        if has_tenants:
            _require_filterable(found)
        found.warm_up()
        self._chat = found
        self._model = Path(found.model_path).stem
        self._name = serve.get_replica_context().replica_id.unique_id
        self._broken: str | None = None
        # Each request that is written takes a thread; the loop's own pool has few.
        pool = ThreadPoolExecutor(max_ongoing_requests + 1)
        asyncio.get_running_loop().set_default_executor(pool)
        self._answers = Counter(
            "ralmspec_answers", "Answers, by status of HTTP.", tag_keys=("status",)
        )
        self._sums = {
            name: Counter(f"ralmspec_{name}", f"Sum of {name} over all answers.")
            for name in _COUNTED
        }

    def model_name(self) -> str:
        """Return the name that requests ask for: the model's file."""
        return self._model

    def check_health(self) -> None:
        """Tell Ray whether to replace this replica.

        Raises:
            DecodeError: llama.cpp has failed.
        """
        if self._broken is not None:
            raise DecodeError(self._broken)

    async def answer(
        self, body: Mapping[str, Any], restriction: Mapping[str, Any]
    ) -> AsyncGenerator[Part]:
        """Answer a request; who leaves the iterator ends the answer.

        Args:
            body: of the request.
            restriction: what its tenant may see: arguments of the call.
        """
        try:
            async with aclosing(self._told(body, restriction)) as parts:
                async for part in parts:
                    yield OK, part
            self._answers.inc(tags={"status": str(OK)})
        except Exception as error:
            status, told = failure_of(error)
            if status >= BROKEN:  # what is told does not say why
                logging.getLogger("ray.serve").exception("an answer failed")
            if isinstance(error, DecodeError):
                self._broken = str(error)
            self._answers.inc(tags={"status": str(status)})
            yield status, told

    async def _told(
        self, body: Mapping[str, Any], restriction: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any]]:
        call = call_of(body, self._model)
        answer = Answer(self._model, self._name, call.include_usage)
        settings = {**call.settings, **restriction}
        if not call.stream:
            message = await self._chat.ainvoke(call.messages, **settings)
            self._count(message.response_metadata)
            yield answer.whole(message)
            return
        chunks = cast("Any", self._chat.astream(call.messages, **settings))
        async with aclosing(chunks):
            async for chunk in chunks:
                self._count(chunk.response_metadata)
                for part in answer.parts(chunk):
                    yield part

    def _count(self, told: Mapping[str, Any]) -> None:
        """Add what an answer did to the metrics, once it is told."""
        statistics = told.get("speculation", {})
        for name, counter in self._sums.items():
            value = statistics.get(name, 0)
            # Drafts are told by their drafters.
            total = sum(value.values()) if isinstance(value, dict) else value
            if total > 0:
                counter.inc(total)


def _require_filterable(chat: LocalChat) -> None:
    """Raise a ``SetupError`` where no filter of a tenant could restrict a chat model.

    It would refuse every request, and blame who asks.
    """
    if not isinstance(chat, RetrievalGeneration):
        msg = (
            "tenant_filter gives the filter of a retriever, and a "
            f"{type(chat).__name__} has none; serve a ChatRaLMSpec, or leave "
            "tenant_filter out and serve each tenant by an application of its own"
        )
        raise SetupError(msg)
