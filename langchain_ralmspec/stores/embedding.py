"""Query texts to vectors, many in one call."""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from langchain_ralmspec.errors import (
    InvalidValueError,
    StoreError,
)
from langchain_ralmspec.stores.arguments import query_matrix
from langchain_ralmspec.stores.base import Query
from langchain_ralmspec.stores.encoding import Encoder, Encoding
from langchain_ralmspec.stores.failures import reported_as_store_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST = 1e19
"""Vectors are shorter than this: the square of more overflows float32, in which stores
compare them."""
SHORTEST = 1e-19
"""Vectors of queries are longer than this: the square of less vanishes in float32."""


def check_encoder(embeddings: object) -> Encoder:
    """The same object, if it can embed queries.

    Raises:
        InvalidValueError: it cannot.
    """
    if not callable(getattr(embeddings, "embed_query", embeddings)):
        raise InvalidValueError(
            f"embeddings must be LangChain Embeddings, got {embeddings!r}; for a model "
            "of sentence-transformers use SentenceTransformerEmbeddings(...)"
        )
    return cast("Encoder", embeddings)


def encode_queries(
    embeddings: Encoder,
    texts: Sequence[str],
    *,
    encoding: Encoding | None = None,
    together: bool = True,
) -> NDArray[np.float32]:
    """Embed query texts, in one batch where the embeddings object allows it.

    Args:
        embeddings: LangChain embeddings; a method ``embed_queries(list[str])`` is
            used when it exists. A plain function of one text is accepted too,
            since LangChain's FAISS store still takes one.
        texts: at least one.
        encoding: how they are embedded; None takes what is known of the class.
        together: whether they may be embedded in a batch, which may change their last
            bits. Else they are embedded each alone, in calls that are out at once.

    Returns:
        Vectors of float32, shape ``(len(texts), dimension)``.

    Raises:
        StoreError: the encoder raised, or returned something of another shape, or a
            vector of length zero, or one that no search can compare.
    """
    name, encoding = type(embeddings).__name__, encoding or Encoding()
    batch = encoding.batch(embeddings) if together and len(texts) > 1 else None
    made: Any
    if batch is None:
        made = encoding.singly(embeddings, texts)
    else:
        some = f"embed {len(texts)} queries, such as {shortened(texts[0])}"
        with reported_as_store_error(name, some):
            made = batch(list(texts))
    vectors = as_vectors(made, texts, name, "query texts")
    lengths_of(vectors, texts, name)
    return vectors


def as_vectors(
    made: Any, texts: Sequence[str], name: str, kind: str
) -> NDArray[np.float32]:
    """What an encoder made of some texts, if that is one vector for each.

    Args:
        made: what it returned.
        texts: what it was given.
        name: of the encoder.
        kind: what the texts are, in the plural.

    Returns:
        Shape ``(len(texts), dimension)``.

    Raises:
        StoreError: it is something else.
    """
    _require_one_length(made, texts, name)
    # What float32 cannot hold becomes infinite, which has no length.
    embedding = reported_as_store_error(name, f"embed the {kind}")
    with embedding, np.errstate(over="ignore"):
        vectors = np.asarray(made, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.size:  # noqa: PLR2004
        raise StoreError(
            f"{name} gave shape {vectors.shape} for {len(texts)} {kind}, such as "
            f"{texts[0][:60]!r}"
        )
    return vectors


def _require_one_length(made: Any, texts: Sequence[str], name: str) -> None:
    """Raise a :class:`StoreError` for vectors of several lengths."""
    if not isinstance(made, list) or not all(isinstance(each, list) for each in made):
        return
    for vector, text in zip(made, texts, strict=False):
        if len(vector) != len(made[0]):
            raise StoreError(
                f"{name} gave {len(made[0])} numbers for {texts[0][:60]!r}, and "
                f"{len(vector)} for {text[:60]!r}"
            )


def lengths_of(
    vectors: NDArray[np.float32],
    texts: Sequence[str],
    name: str,
    shortest: float = SHORTEST,
) -> NDArray[np.float64]:
    """The lengths of vectors that a search can compare.

    To a vector of zeros, or so short that its square is, every document is as near as
    any other; to one with a number that is none, no document is near.

    Args:
        vectors: shape ``(len(texts), dimension)``.
        texts: what they stand for.
        name: of the encoder that made them.
        shortest: every vector is longer than this.

    Raises:
        StoreError: a vector is not longer, or too long, or has no length.
    """
    # The squares of float32 numbers neither overflow nor vanish in float64.
    lengths: NDArray[np.float64] = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for length, text in zip(lengths.tolist(), texts, strict=True):
        if not shortest < length < LONGEST:
            raise StoreError(
                f"{name} gave a vector of length {length} for {text[:60]!r}; a "
                "similarity needs finite vectors other than zero, over "
                f"{SHORTEST:.0e} and under {LONGEST:.0e}"
            )
    return lengths


def document_vectors(
    made: Any, texts: Sequence[str], name: str, kind: str = "documents"
) -> NDArray[np.float32]:
    """:func:`as_vectors` of documents, of which one may be empty and have no direction.

    Raises:
        StoreError: it is something else, or a vector is too long, or has no length.
    """
    vectors = as_vectors(made, texts, name, kind)
    lengths_of(vectors, texts, name, shortest=-1)
    return vectors


def make_queries(
    embeddings: Encoder,
    texts: Sequence[str],
    *,
    dimension: int | None = None,
    store: str = "the store",
    encoding: Encoding | None = None,
    together: bool = True,
) -> list[Query]:
    """Embed query texts and say for each whether its vector came from a batch.

    Args:
        embeddings: as ``encode_queries()`` takes them.
        texts: any number.
        dimension: length of the stored vectors, if it is known.
        store: its name, for the error message.
        encoding: as ``encode_queries()`` takes it.
        together: likewise.

    Raises:
        StoreError: as ``encode_queries()`` raises it.
        DimensionMismatchError: the vectors are not as long as the stored ones.
    """
    if not texts:
        return []
    encoding = encoding or Encoding()
    vectors = encode_queries(embeddings, texts, encoding=encoding, together=together)
    has_batch = together and encoding.batch(embeddings) is not None
    batched = has_batch and len(texts) > 1
    queries = [
        Query(text, vector, batched)
        for text, vector in zip(texts, vectors, strict=True)
    ]
    query_matrix(queries, dimension, store)
    return queries
