"""What is told about an answer with retrieval inside: steps, documents, citations."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from langchain_ralmspec.base.local import info_of
from langchain_ralmspec.base.plain import plain, plain_documents
from langchain_ralmspec.base.thoughts import place_of
from langchain_ralmspec.text import told_in

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.messages.content import Citation

    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.ralm.run import RetrievalRun

_TITLES = ("title", "source")
_ADDRESSES = ("url", "link", "source")
"""Where loaders and stores put what a document is called, and where it is."""


def account_of(run: RetrievalRun, model: Model) -> dict[str, Any]:
    """What is told about a finished answer."""
    steps = []
    # One that is told in pieces, not written as a whole, has the same hits in all.
    for _, pieces in groupby(run.steps, key=lambda s: s.written or id(s.hits)):
        first, *rest = pieces
        tokens = [*first.tokens, *(token for piece in rest for token in piece.tokens)]
        steps.append(
            {"tokens": tokens, "documents": plain([hit.id for hit in first.hits])}
        )
    documents = plain_documents(run.documents)
    return info_of(run, model) | {"documents": documents, "steps": steps}


def citations_of(run: RetrievalRun, said: str) -> list[Citation]:
    """Citations of all documents under which was written what a message says.

    One for every part and document. ``extras`` has the document's place among those of
    the answer, and its id.
    """
    first = place_of(said, run.text)
    places: dict[tuple[str, str | None], int] = {}
    for step in run.steps:
        for hit in step.hits:
            places.setdefault(hit.key, len(places))
    return [
        _named(
            hit.document,
            {
                "type": "citation",
                "start_index": start - first,
                "end_index": end - first,
                "extras": {"document": places[hit.key], "document_id": plain(hit.id)},
            },
        )
        for start, end, hits in run.spans(first, first + len(said))
        for hit in hits
    ]


def _named(document: Document, citation: Citation) -> Citation:
    """A citation with what the document is called, and its address, as it tells."""
    if title := next(told_in(document.metadata, _TITLES), None):
        citation["title"] = title
    known = told_in(document.metadata, _ADDRESSES)
    addresses = (url for url in known if url.startswith(("http://", "https://")))
    if url := next(addresses, None):
        citation["url"] = url
    return citation
