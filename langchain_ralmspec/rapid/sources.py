"""Where an answer comes from: places in the documents that were given as its context.

What is read is one text, and what is known of it are tokens; who asked gave documents,
with their pages and links, and wants to be shown the place there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from langchain_core.documents import Document

from langchain_ralmspec.errors import InvalidValueError, StoreError
from langchain_ralmspec.stores.documents import checked_document
from langchain_ralmspec.text import is_blank, sha256_of, well_formed

if TYPE_CHECKING:
    from langchain_ralmspec.rapid.context import LongContext
    from langchain_ralmspec.rapid.documents import Chunk

Span: TypeAlias = tuple[int, int]
"""The first one, and the one behind the last."""

QUOTE_TOKENS = 8
"""Tokens in a row that make a quote: fewer are shared by chance."""

_BETWEEN = "\n\n"  # documents
_LOST = 64  # bytes among which a token is looked for that is not where it should be


@dataclass(frozen=True, slots=True)
class GivenContext:
    """A context as it was given: documents, read one behind the other.

    Attributes:
        documents: in order; a text is a document without metadata.
        text: what is read: theirs, with blank lines between them.
    """

    documents: tuple[Document, ...]
    text: str

    @classmethod
    def of(cls, context: object) -> GivenContext:
        """Take a str, a ``Document``, or a sequence of them.

        Raises:
            InvalidValueError: it is something else, or there is no text in it.
        """
        no_sequence = (str, bytes, bytearray, memoryview)
        is_one = isinstance(context, no_sequence) or not isinstance(context, Sequence)
        parts: Sequence[object] = [context] if is_one else context  # type: ignore[assignment]
        name = "context" if is_one else "context[{}]"
        documents = tuple(
            _as_document(part, name.format(at)) for at, part in enumerate(parts)
        )
        text = _BETWEEN.join(document.page_content for document in documents)
        if is_blank(text):
            msg = "the context is empty; give the text that the answer is to come from"
            raise InvalidValueError(msg)
        return cls(documents, text)

    @property
    def sha256(self) -> str:
        """Checksum of all that an answer and its sources depend on."""
        parts = [(one.id, one.metadata, one.page_content) for one in self.documents]
        return sha256_of(repr(parts))

    def parts(self, span: Span) -> Iterator[Document]:
        """What the documents have of some of the text's characters, one each.

        Without the whitespace around it; nothing where only that is left.
        """
        at = 0
        for document in self.documents:
            text = document.page_content
            start, end = max(span[0] - at, 0), min(span[1] - at, len(text))
            at += len(text) + len(_BETWEEN)
            piece = text[start:end] if start < end else ""
            start += len(piece) - len(piece.lstrip())
            piece = piece.strip()
            if not is_blank(piece):
                place = {"start_index": start, "end_index": start + len(piece)}
                metadata = {**(document.metadata or {}), **place}
                yield Document(piece, id=document.id, metadata=metadata)


def require_found(found: object, name: str) -> None:
    """Refuse what a retriever gave in place of documents, or texts.

    Raises:
        StoreError: it did; says what, and where.
    """
    for at, part in enumerate(found if isinstance(found, list | tuple) else [found]):
        if not isinstance(part, str | Document):
            raise StoreError(
                f"{name} must give documents, or texts, but gave {part!r:.60} as "
                f"number {at}"
            )


def _as_document(part: object, name: str) -> Document:
    if isinstance(part, str):
        return Document(well_formed(part))
    if isinstance(part, Document):
        return checked_document(part)  # or its halves of characters shift all places
    msg = (
        f"{name} is {part!r:.60}; {type(part).__name__} is no context; give a str, a "
        "Document, a sequence of "
        "them, or a retriever (of a vector store: store.as_retriever())"
    )
    raise InvalidValueError(msg)


@dataclass(frozen=True, slots=True)
class Sources:
    """What an answer's sources are, once it is written or before.

    Attributes:
        given: the documents.
        read: their text as the model reads it.
        chunks: what was retrieved from the text for the question.
        is_found: whether a retriever has found the documents for the question.
    """

    given: GivenContext
    read: LongContext
    chunks: Sequence[Chunk] = ()
    is_found: bool = False

    @property
    def are_known(self) -> bool:
        """Whether they do not depend on the answer."""
        return bool(self.chunks) or self.is_found

    def documents(self, answer: Sequence[int] = ()) -> list[Document]:
        """The sources, in the text's order.

        They are the chunks; else the documents that a retriever found, as far as they
        were read; else what the answer quotes, of these tokens.
        """
        spans: list[Span] = [(chunk.start, chunk.end) for chunk in self.chunks]
        if not self.are_known:
            spans = quoted(self.read.tokens, answer)
        elif not spans:
            spans = [(0, len(self.read.tokens))]
        places = self.read.places
        return [
            document
            for start, end in spans
            for document in self.given.parts((places[start], places[end]))
        ]


def quoted(
    text: Sequence[int], answer: Sequence[int], n: int = QUOTE_TOKENS
) -> list[Span]:
    """The parts of a text that an answer repeats, as spans of tokens in order.

    From the answer's beginning on, the longest run of at least ``n`` tokens that the
    text has as well is a quote, the first of equals; what comes next is looked for
    behind it. Spans that overlap or touch are one.
    """
    grams = {tuple(answer[at : at + n]) for at in range(len(answer) - n + 1)}
    places = defaultdict[tuple[int, ...], list[int]](list)
    for at in range(len(text) - n + 1) if grams else ():
        gram = tuple(text[at : at + n])
        if gram in grams:
            places[gram].append(at)
    spans: list[Span] = []
    at = 0
    while at + n <= len(answer):
        starts = places.get(tuple(answer[at : at + n]), [])
        ends = [start + _run(text, start, answer, at) for start in starts]
        found = list(zip(starts, ends, strict=True))
        start, end = max(found, key=lambda span: span[1] - span[0], default=(0, 1))
        spans += [(start, end)] if found else []
        at += end - start
    return _merged(spans)


def _run(text: Sequence[int], start: int, answer: Sequence[int], at: int) -> int:
    """How many tokens two lists have in common, from a place in each on."""
    most = min(len(text) - start, len(answer) - at)
    pairs = (text[start + i] == answer[at + i] for i in range(most))
    return next((i for i, are_equal in enumerate(pairs) if not are_equal), most)


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def places_of(pieces: Iterable[bytes], text: str) -> tuple[int, ...]:
    """Where each token of a text begins, in characters, and where the last one ends.

    A character of several tokens belongs to the one that it begins in. Tokens are the
    text's own bytes, but for a space that some vocabularies put in front, and what
    they have no token for: then the next token that is found tells the place again.
    """
    data = text.encode()
    ends, at = [0], 0
    for piece in pieces:
        if not at and not data.startswith(piece):
            piece = piece.removeprefix(b" ")  # noqa: PLW2901
        found = data.find(piece, at, at + len(piece) + _LOST)
        at = found + len(piece) if found >= 0 else at
        ends.append(at)
    begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80  # noqa: PLR2004  UTF-8
    n_begun = np.concatenate([[0], np.cumsum(begins)])
    return tuple(n_begun[ends].tolist())
