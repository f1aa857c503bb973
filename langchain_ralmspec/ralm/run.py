"""A run of generation with retrieval: its text, and the documents it used."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.run import Run
from langchain_ralmspec.answer.statistics import SpeculationStats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.documents import Document


class RetrievalRun(Run[SpeculationStats]):
    """A run that ends when its caller leaves, since store calls may be in flight."""

    def __iter__(self) -> Iterator[str]:
        """Yield the text as it becomes certain."""
        # Closed at once when the caller leaves, not when it is collected.
        with closing(self._events):
            yield from super().__iter__()

    @property
    def documents(self) -> list[Document]:
        """The documents used, in the order of their first use."""
        hits = (hit for step in self.steps for hit in step.hits)
        return list({(hit.id, hit.text): hit.document for hit in hits}.values())
