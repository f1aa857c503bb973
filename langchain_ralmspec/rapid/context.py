"""A long context as the target reads it: tokenised, cut and embedded once."""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.retrievers import BaseRetriever

from langchain_ralmspec.errors import ContextOverflowError
from langchain_ralmspec.rapid.documents import ContextIndex, chunk, context_text

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langchain_ralmspec.engine import Model

_PROCESS = secrets.token_hex(8)
_N_KEPT = 16  # contexts whose chunks and vectors are kept
_RESERVE, _ROUND = 1024, 256  # tokens for question and answer beside a cut context


@dataclass(frozen=True, slots=True)
class LongContext:
    """A context as the target reads it.

    Attributes:
        tokens: the target's tokens.
        n_dropped: tokens at the end that did not fit.
        index: finds the context's chunks; None without embeddings.
    """

    tokens: tuple[int, ...]
    n_dropped: int
    index: ContextIndex | None


class ContextCache:
    """The contexts that one model has read lately, for further questions."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], LongContext] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self,
        context: Any,
        model: Model,
        *,
        n_other: int,
        may_truncate: bool,
        chunk_tokens: int,
        embeddings: Embeddings | None,
    ) -> LongContext:
        """Tokenise, cut and embed a context, unless this was done lately.

        Args:
            context: a text, a ``Document``, or a sequence of these.
            model: reads it; always the same one.
            n_other: tokens of question, template and answer.
            may_truncate: whether a context that is too long loses its end.
            chunk_tokens: length of a chunk.
            embeddings: embeds the chunks; without them there is no index.

        Raises:
            ContextOverflowError: the context does not fit.
            InvalidValueError: the context is empty, or no text.
        """
        text = context_text(context)
        tokens = model.weights.tokenize(text)
        n_tokens, n_ctx = len(tokens), model.n_ctx
        if n_tokens > n_ctx - n_other:
            # Rounded, so that questions of usual lengths see the same context.
            reserved = max(n_other, min(_RESERVE, n_ctx // 4))
            room = n_ctx - math.ceil(reserved / _ROUND) * _ROUND
            if not may_truncate or room < 1:
                msg = (
                    f"the context has {n_tokens} tokens, and question, template and "
                    f"max_tokens take {n_other}, but n_ctx={n_ctx}; raise n_ctx, "
                    "shorten the context, or let truncation='end' drop its end"
                )
                raise ContextOverflowError(msg)
            warnings.warn(
                f"the last {n_tokens - room} of the context's {n_tokens} tokens were "
                f"dropped: n_ctx={n_ctx} has room for {room}",
                RuntimeWarning,
                stacklevel=2,
            )
            tokens = tokens[:room]
        key = (_sha256(text), len(tokens), chunk_tokens, id(embeddings))
        with self._lock:
            found = self._kept.pop(key, None)
        if found is None:
            index = None
            if embeddings is not None:
                chunks = chunk(tokens, model.weights.piece, chunk_tokens)
                index = ContextIndex(chunks, embeddings)
            found = LongContext(tuple(tokens), n_tokens - len(tokens), index)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > _N_KEPT:
                self._kept.popitem(last=False)
        return found


def found_for(question: str, context: Any) -> Any:
    """What a retriever finds for the question; any other context as it is."""
    return context.invoke(question) if isinstance(context, BaseRetriever) else context


def digest_of(context: Any) -> str:
    """Text that tells one context from another; a retriever is only itself."""
    if isinstance(context, BaseRetriever):
        return f"{type(context).__name__} at {id(context)} of {_PROCESS}"
    return _sha256(context_text(context))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
