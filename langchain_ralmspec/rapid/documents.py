"""What the drafter reads: the chunks of a long document that fit a question.

RAPID's RAG drafter (section 3.1 of the paper): cut the document into chunks of the
model's tokens, embed them, keep the similar ones up to a budget, join them in
document order. The authors retrieve from the whole document even where the target
sees a truncated one. Here chunks are cut from exactly the tokens that the target
sees, so that the drafter cannot know what the target does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from langchain_ralmspec.errors import (
    DimensionMismatchError,
    InvalidValueError,
    StoreError,
)
from langchain_ralmspec.stores.embedding import (
    as_vectors,
    encode_queries,
    lengths_of,
)
from langchain_ralmspec.stores.encoding import embed_documents
from langchain_ralmspec.stores.failures import reported_as_store_error
from langchain_ralmspec.stores.sentence_encoder import (
    SentenceTransformerEmbeddings,
    count_tokens,
)
from langchain_ralmspec.text import SENTENCE_ENDS, is_blank

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

CHUNK_TOKENS = 512
"""Tokens of a chunk, as in the paper; fewer where the encoder reads no more."""

SHARE = 1 / 24
"""The part of the document that the drafter may read, as in the paper."""

# The paper's 4096 is for inputs of 32 K tokens and more. Documents are shorter here,
# and a drafter that reads all of one costs as much a token as the target.
FLOOR = 512
"""Tokens that the drafter may read of any document."""

LEAST_SIMILARITY = 0.3
"""A chunk less similar to the question than this is dropped, as in the paper."""

_LEAST_TRIED = 32  # tokens; every encoder reads as many


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of a document.

    Attributes:
        start: position of the first token in the document.
        tokens: their ids.
        pieces: the bytes of each token.
    """

    start: int
    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...] = field(repr=False)

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)

    @property
    def text(self) -> str:
        """The pieces as text; a character that was cut is a replacement character."""
        return _text(self.pieces)

    def first(self, n_tokens: int) -> Chunk:
        """The chunk's first ``n_tokens`` tokens."""
        return self._part(0, n_tokens)

    def parts(self, size: int) -> list[Chunk]:
        """The chunk cut again, as :func:`chunk` cuts documents."""
        parts, start = [], 0
        while start < len(self.tokens):
            end = _chunk_end(self.pieces, start, size)
            parts.append(self._part(start, end))
            start = end
        return parts

    def _part(self, start: int, end: int) -> Chunk:
        inside = slice(start, end)
        return Chunk(self.start + start, self.tokens[inside], self.pieces[inside])


def chunk(
    tokens: Sequence[int], piece: Callable[[int], bytes], size: int = CHUNK_TOKENS
) -> list[Chunk]:
    """Cut a document into consecutive chunks; together they are exactly ``tokens``.

    A chunk ends with the last sentence or line that ends in its last quarter. The
    paper cuts after ``size`` tokens, wherever that is.

    Args:
        tokens: the document as the target sees it, truncated if it was.
        piece: the bytes of a token.
        size: tokens of a chunk at most, at least 1.

    Raises:
        InvalidValueError: ``size`` is below 1.
    """
    if size < 1:
        msg = f"size must be at least 1, got {size}"
        raise InvalidValueError(msg)
    return Chunk(0, tuple(tokens), tuple(map(piece, tokens))).parts(size)


def _chunk_end(pieces: Sequence[bytes], start: int, size: int) -> int:
    latest = start + size
    if latest >= len(pieces):
        return len(pieces)
    ends = range(latest, latest - size // 4, -1)
    for end in ends:
        last = pieces[end - 1]
        if b"\n" in last or last.endswith(SENTENCE_ENDS):
            return end
    for end in ends:
        # Rare characters take several tokens: better not to part them.
        if not _continues_character(pieces[end]):
            return end
    return latest


def _continues_character(piece: bytes) -> bool:
    return b"\x80" <= piece[:1] < b"\xc0"


def budget(n_tokens: int, share: float = SHARE, floor: int = FLOOR) -> int:
    """Tokens that the drafter may read of a document: a share, or ``floor`` if more."""
    return max(int(n_tokens * share), floor)


class ContextIndex:
    """The embedded chunks of one document, for any number of questions.

    Nothing changes after it is built, so threads may share one as far as they may
    share the embeddings, which are called on the thread that asks.

    Both methods raise a StoreError where the encoder raises, or returns something of
    another shape, or a vector that has no direction.
    """

    def __init__(self, chunks: Sequence[Chunk], embeddings: Embeddings) -> None:
        """Embed all chunks in one call.

        Raises:
            InvalidValueError: no chunk has any text.
        """
        self._embeddings = embeddings
        name = type(embeddings).__name__
        with reported_as_store_error(name, "embed the chunks"):
            chunks = _readable(chunks, embeddings)
        # In blank ones is nothing to read, and some encoders refuse an empty text.
        self._chunks = [chunk for chunk in chunks if not is_blank(chunk.text)]
        if not self._chunks:
            msg = f"none of the {len(chunks)} chunks has any text; give a longer one"
            raise InvalidValueError(msg)
        self._units = self._embedded()

    def _embedded(self) -> NDArray[np.float32]:
        """The chunks' vectors, of length 1; chunks that are refused are cut before."""
        texts = [chunk.text for chunk in self._chunks]
        try:
            made = embed_documents(self._embeddings, texts, "chunks")
        except StoreError as failure:
            halves = _halves(self._chunks, self._embeddings, failure)
            self._chunks = [half for half in halves if not is_blank(half.text)]
            return self._embedded()
        name = type(self._embeddings).__name__
        vectors = as_vectors(made, texts, name, "chunks")
        return _normalized(vectors, texts, name)

    def retrieve(
        self,
        question: str,
        max_tokens: int,
        least_similarity: float = LEAST_SIMILARITY,
    ) -> list[Chunk]:
        """Find what the drafter reads for a question, in document order.

        The most similar chunks come first while the budget has room. One that does
        not fit any more is skipped; the best one is cut to the budget instead. Of
        two that are equally similar, the earlier one is better.

        Where no chunk is similar enough, the best one is kept all the same: a
        drafter without any document drafts worse.

        Args:
            question: what the answer is about.
            max_tokens: tokens of the kept chunks together, at least 1.
            least_similarity: chunks of a lower cosine are dropped, from -1 to 1.

        Raises:
            DimensionMismatchError: the question's vector has another length.
        """
        similarities = self._similarities(question)
        best, *others = np.argsort(-similarities, kind="stable").tolist()
        kept = [self._chunks[best].first(max_tokens)]
        room = max_tokens - len(kept[0].tokens)
        for row in others:
            candidate = self._chunks[row]
            if similarities[row] < least_similarity:
                break
            if len(candidate.tokens) <= room:
                kept.append(candidate)
                room -= len(candidate.tokens)
        return sorted(kept, key=lambda chunk: chunk.start)

    def _similarities(self, question: str) -> NDArray[np.float32]:
        name = type(self._embeddings).__name__
        vector = encode_queries(self._embeddings, [question])
        if vector.shape[1] != self._units.shape[1]:
            msg = (
                f"{name} gave {vector.shape[1]} numbers for a question but "
                f"{self._units.shape[1]} for a chunk; embed both with one model"
            )
            raise DimensionMismatchError(msg)
        unit = _normalized(vector, [question], name)
        # Row by row: a matrix product may round equal rows differently, and then
        # they tie no more.
        similarities: NDArray[np.float32] = (self._units * unit).sum(axis=1)
        return similarities


def _readable(chunks: Sequence[Chunk], embeddings: Embeddings) -> Sequence[Chunk]:
    """The chunks, or parts of them where the encoder would not read a whole one.

    Encoders of sentence-transformers tell; others are tried.
    """
    # LangChain's CacheBackedEmbeddings asks another one.
    embeddings = getattr(embeddings, "underlying_embeddings", embeddings)
    count: Callable[[list[str]], tuple[list[int], int | None] | None] | None = None
    if isinstance(embeddings, SentenceTransformerEmbeddings):
        count = embeddings.count_tokens
    # Of langchain-huggingface, and of langchain-community.
    for name in ("_client", "client"):
        model = getattr(embeddings, name, None)
        if isinstance(getattr(model, "max_seq_length", None), int):
            count = partial(count_tokens, cast("SentenceTransformer", model))
    if not chunks:
        return chunks
    counted = count([chunk.text for chunk in chunks]) if count else None
    if counted is None:
        return _read_to_the_end(chunks, embeddings)
    lengths, most = counted
    if most is None or max(lengths) <= most:
        return chunks
    parts: list[Chunk] = []
    for whole, length in zip(chunks, lengths, strict=True):
        # Of equal lengths in the encoder's tokens, as nearly as one can tell.
        size = max(1, len(whole.tokens) // math.ceil(length / most))
        is_read = length <= most or len(whole.tokens) == 1
        parts += [whole] if is_read else whole.parts(size)
    return _readable(parts, embeddings) if len(parts) > len(chunks) else chunks


def _read_to_the_end(
    chunks: Sequence[Chunk], embeddings: Embeddings
) -> Sequence[Chunk]:
    """The chunks, cut until an encoder that does not tell its reach reads all of one.

    It refuses a text that is too long, or gives one vector for it and its beginning.
    """
    longest = max(chunks, key=lambda each: len(each.tokens))
    n_tokens = len(longest.tokens)
    texts = [longest.text, longest.first(n_tokens - n_tokens // 4).text]
    if n_tokens < _LEAST_TRIED or any(map(is_blank, texts)):
        return chunks
    try:
        made = embed_documents(embeddings, texts, "chunks")
    except StoreError as failure:
        halves = _halves(chunks, embeddings, failure)
        return _read_to_the_end(halves, embeddings)
    name = type(embeddings).__name__
    whole, beginning = as_vectors(made, texts, name, "chunks")
    if not np.allclose(whole, beginning, rtol=0, atol=1e-6 * np.abs(whole).max()):
        return chunks
    return _read_to_the_end(_cut(chunks, n_tokens // 2), embeddings)


def _halves(
    chunks: Sequence[Chunk], embeddings: Embeddings, failure: StoreError
) -> list[Chunk]:
    """The chunks, cut to half of the longest, where they fail for their length.

    Raises:
        StoreError: they do not: a short text fails as well.
    """
    longest = max(chunks, key=lambda each: len(each.tokens))
    if len(longest.tokens) <= _LEAST_TRIED:
        raise failure
    embed_documents(embeddings, [longest.first(_LEAST_TRIED).text], "chunks")
    return _cut(chunks, len(longest.tokens) // 2)


def _cut(chunks: Sequence[Chunk], size: int) -> list[Chunk]:
    return [part for each in chunks for part in each.parts(size)]


def _normalized(
    vectors: NDArray[np.float32], texts: Sequence[str], name: str
) -> NDArray[np.float32]:
    lengths = lengths_of(vectors, texts, name, shortest=0)
    units: NDArray[np.float32] = (vectors / lengths[:, None]).astype(np.float32)
    return units


def join(chunks: Sequence[Chunk]) -> str:
    """Put chunks together, with blank lines (as in the paper) where text is missing."""
    runs: list[list[bytes]] = []
    end: int | None = None
    for chunk in chunks:
        if chunk.start != end:
            runs.append([])
        runs[-1] += chunk.pieces
        end = chunk.end
    return "\n\n".join(_text(run).strip() for run in runs)


def _text(pieces: Sequence[bytes]) -> str:
    return b"".join(pieces).decode("utf-8", errors="replace")
