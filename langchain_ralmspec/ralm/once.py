"""Retrieval before the answer: one query, one list of documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_ralmspec.ralm.policies import Step

if TYPE_CHECKING:
    from collections.abc import Generator

    from langchain_ralmspec.ralm.events import Event
    from langchain_ralmspec.ralm.request import Request


def once(request: Request) -> Generator[Event, None, None]:
    """Retrieve for the question alone, and write all under what is found."""
    (hits,) = (yield from request.retrieve(request.policy.query())).truth
    request.stats.steps += 1
    strides = request.writer.write_out(hits)
    while True:
        with request.stats.timing("generating"):
            stride = next(strides, None)
        if stride is None:
            return
        yield request.commit(Step(hits, (stride,), None))
