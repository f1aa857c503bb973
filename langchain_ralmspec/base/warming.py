"""Passages that are read ahead, so that no answer has to read them."""

from __future__ import annotations

import warnings
from array import array
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from langchain_ralmspec.arguments import several
from langchain_ralmspec.engine.heads import FEWEST, LEAST_PART, aligned, parted
from langchain_ralmspec.errors import ContextOverflowError, InvalidValueError
from langchain_ralmspec.ralm import BLOCK
from langchain_ralmspec.stores import Hit
from langchain_ralmspec.stores.documents import known_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_ralmspec.engine import Model
    from langchain_ralmspec.ralm import DocumentLayout, Prompt

_BESIDE = 1024
"""Bytes that say what an entry of a folder is; some more than on our machines."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What reading documents ahead came to.

    Attributes:
        documents: number of documents whose KV is kept now.
        read_documents: those of them that were read; others' KV was kept before.
        read_tokens: tokens that were read for them.
    """

    documents: int
    read_documents: int
    read_tokens: int


@dataclass(frozen=True, slots=True)
class Passages:
    """Documents as a model reads them.

    Attributes:
        prefixes: tokens of each document and of what stands before it.
        ends: after how many of each something ends.
        namespace: within which they are kept.
    """

    prefixes: list[array[int]]
    ends: list[list[int]]
    namespace: str | None = None


def as_documents(given: Iterable[Any]) -> list[Document]:
    """Documents, or texts that become some.

    Raises:
        InvalidValueError: one is neither.
    """
    documents = []
    one = isinstance(given, str | Document)
    for each in [given] if one else several("documents", given, "Documents"):
        if not isinstance(each, str | Document):
            msg = f"documents must be Documents or strings, got {each!r:.80}"
            raise InvalidValueError(msg)
        documents.append(Document(page_content=each) if isinstance(each, str) else each)
    return documents


def passages_of(
    documents: Iterable[Document],
    model: Model,
    layout: DocumentLayout,
    prompts: Sequence[Prompt],
    *,
    is_alone: bool,
    namespace: str | None = None,
) -> Passages:
    """The tokens of each document and of what stands before it, as far as they serve.

    Those of a document that more may stand behind do so if they are a part of a prompt
    (:func:`~langchain_ralmspec.engine.heads.parted`).

    Args:
        documents: what is to be read.
        model: who reads it.
        layout: how documents become tokens.
        prompts: those of two questions.
        is_alone: whether one document stands in a prompt.
        namespace: within which they are kept.

    Raises:
        InvalidValueError: the question stands in front of the documents.
        ContextOverflowError: a document does not fit.
    """
    before = {(one.head, one.beside and one.beside[0]) for one in prompts}
    if len(before) > 1:
        msg = (
            "the question stands in front of the documents in this prompt, so what is "
            "read of them depends on it, and cannot be kept for others; put {context} "
            "before the question"
        )
        raise InvalidValueError(msg)
    prefixes, all_ends, head = [], [], prompts[0].head
    for document in documents:
        hit = Hit(document.id or "", document, score=0.0)
        # As if something stood behind it, where something does.
        tokens, ends = layout.laid_out(model.weights, [hit] if is_alone else [hit] * 2)
        ends = [len(head) + end for end in ends[:2]]
        prefix = array("i", [*head, *tokens][: ends[1]])
        if len(prefix) > model.n_ctx:
            name = known_as(document)
            msg = (
                f"the document {name!r} takes {len(prefix)} tokens, and n_ctx="
                f"{model.n_ctx}; set max_document_tokens, or raise n_ctx"
            )
            raise ContextOverflowError(msg)
        border = aligned(len(prefix))
        controls = model.weights.controls
        parts = parted((*prefix, *[0] * FEWEST), BLOCK, ends, controls)
        is_part = border in accumulate(map(len, parts))
        prefixes.append(prefix[: border if is_alone or is_part else 0])
        all_ends.append(ends)
    return Passages(prefixes, all_ends, namespace)


def bytes_of(prefix: Sequence[int], model: Model) -> int:
    """Bytes that a prefix takes where it is kept."""
    return model.kv_bytes(len(prefix)) + _BESIDE if prefix else 0


def read_ahead(
    passages: Passages,
    model: Model,
    progress: Callable[[int, int], object] | None = None,
) -> Warmed:
    """Have the KV of prefixes kept: those that are so already are not read again.

    What does not fit is left out, with a warning.

    Raises:
        InvalidValueError: nothing is kept here at all.
    """
    prefixes = passages.prefixes
    where: Any = {"part": BLOCK, "namespace": passages.namespace}
    pairs = [*zip(prefixes, passages.ends, strict=True)]
    room = model.room_for_prefixes
    if not room:
        msg = "nothing is kept with kv_cache_bytes=0; raise it, or set kv_cache_dir"
        raise InvalidValueError(msg)
    n_read = n_tokens = 0
    # What stands before all documents is kept once more, alone.
    n_bytes = bytes_of(prefixes[0][: passages.ends[0][0]], model) if prefixes else 0
    for done, (prefix, ends) in enumerate(pairs, 1):
        n_bytes += bytes_of(prefix, model)
        if n_bytes > room:
            warnings.warn(
                f"only the first {done - 1} of {len(prefixes)} documents were read: "
                f"the KV of more does not fit {room} bytes",
                RuntimeWarning,
                stacklevel=3,
            )
            break
        read = model.keep(prefix, ends=ends, **where)
        n_read += bool(read)
        n_tokens += read
        if progress is not None:
            progress(done, len(prefixes))
    if prefixes and not any(prefixes):
        warnings.warn(
            "nothing was read: more documents may stand behind each in this prompt, so "
            f"only those of {LEAST_PART} tokens or more serve other questions, and "
            "none is so long",
            RuntimeWarning,
            stacklevel=3,
        )
    n_kept = sum(model.keeps(prefix, ends=ends, **where) for prefix, ends in pairs)
    return Warmed(n_kept, n_read, n_tokens)
