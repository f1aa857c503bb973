"""A run of generation with retrieval: its text, and the documents it used."""

from __future__ import annotations

import codecs
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.statistics import SpeculationStats
from langchain_ralmspec.ralm.hits import Hits, keys_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from langchain_core.documents import Document

    from langchain_ralmspec.ralm.events import Event

Span = tuple[int, int, Hits]
"""From where to where a text stands under some documents."""


class Observer(Protocol):
    """Is told of the events of a run, within a block around them all."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: object, error: BaseException | None, at: object, /
    ) -> None: ...

    def take(self, event: Event) -> None:
        """Take note of an event."""


class RetrievalRun(Run[SpeculationStats]):
    """A run that ends when its caller leaves, since store calls may be in flight.

    Attributes:
        observer: is told of its events, if there is one.
    """

    observer: Observer | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the text as it becomes certain."""
        around: AbstractContextManager[object] = self.observer or nullcontext()
        # Closed at once when the caller leaves, not when it is collected.
        with (
            closing(self.request.writer),
            closing(self.request.session.waiting),
            closing(self._events),
            around,
        ):
            yield from super().__iter__()

    def _next(self) -> Any:
        event = super()._next()
        if self.observer is not None and event is not None:
            self.observer.take(event)
        return event

    @property
    def documents(self) -> list[Document]:
        """The documents used, in the order of their first use."""
        hits = (hit for step in self.steps for hit in step.hits)
        return list({hit.key: hit.document for hit in hits}.values())

    @property
    def text(self) -> str:
        """The text of the steps so far, without a character that has only begun."""
        said = b"".join(step.text for step in self.steps)
        return _decoder().decode(said)

    def spans(self, first: int, last: int) -> list[Span]:
        """Parts of the text's characters ``first`` to ``last``, by their documents.

        Each begins where the one before ends. A character whose bytes were written
        under two lists of documents is of the part in which its last byte is.
        """
        decoder = _decoder()
        spans: list[Span] = []
        end = 0
        for step in self.steps:
            start, end = end, end + len(decoder.decode(step.text))
            start, stop = max(start, first), min(end, last)
            if spans and keys_of(spans[-1][2]) == keys_of(step.hits):
                start, *_ = spans.pop()
            if start < stop:
                spans.append((start, stop, step.hits))
        return spans


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")(errors="replace")
