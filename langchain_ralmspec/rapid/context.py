"""A long context as the target reads it: tokenised, cut and embedded once."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from langchain_ralmspec.answer.vocabulary import whole_characters
from langchain_ralmspec.errors import ContextOverflowError
from langchain_ralmspec.rapid.documents import ContextIndex, chunk
from langchain_ralmspec.rapid.sources import places_of
from langchain_ralmspec.text import sha256_of

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langchain_ralmspec.engine import Model

T = TypeVar("T")

_N_KEPT = 16  # contexts whose chunks and vectors are kept
_RESERVE, _ROUND = 1024, 256  # tokens for question and answer beside a cut context


@dataclass(frozen=True, slots=True)
class LongContext:
    """A context as the target reads it.

    Attributes:
        tokens: the target's tokens.
        places: where each begins in the text, in characters, and where the last ends.
        n_dropped: tokens at the end that did not fit.
        index: finds the context's chunks; None without embeddings.
    """

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    n_dropped: int
    index: ContextIndex | None


class _Lately(Generic[T]):
    """What was made lately, so that it is not made again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under a key, or is now."""
        with self._lock:
            found = self._kept.pop(key, None)
        if found is None:
            found = make()
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > _N_KEPT:
                self._kept.popitem(last=False)
        return found


class ContextCache:
    """The contexts that one model has read lately, for further questions."""

    def __init__(self) -> None:
        # The number of a text's tokens, and of these as many as any prompt holds.
        self._tokenized = _Lately[tuple[int, list[int]]]()
        self._contexts = _Lately[LongContext]()

    def read(
        self,
        text: str,
        model: Model,
        *,
        n_other: int,
        may_truncate: bool,
        chunk_tokens: int,
        embeddings: Embeddings | None,
        namespace: str | None = None,
    ) -> LongContext:
        """Tokenise, cut and embed a context, unless this was done lately.

        Args:
            text: the context.
            model: reads it; always the same one.
            n_other: tokens of question, template and answer.
            may_truncate: whether a context that is too long loses its end.
            chunk_tokens: length of a chunk.
            embeddings: embeds the chunks; without them there is no index.
            namespace: within which this counts as done.

        Raises:
            ContextOverflowError: the context does not fit.
            InvalidValueError: the context is all blank.
        """
        if not may_truncate:
            model.require_size(text)
        n_ctx, sha256 = model.n_ctx, sha256_of(text)

        def tokenized() -> tuple[int, list[int]]:
            tokens = model.weights.tokenize(text)
            return len(tokens), tokens[:n_ctx]

        n_tokens, tokens = self._tokenized.get((namespace, sha256), tokenized)
        if n_tokens > n_ctx - n_other:
            # Rounded, so that questions of usual lengths see the same context.
            reserved = max(n_other, min(_RESERVE, n_ctx // 4))
            room = n_ctx + -reserved // _ROUND * _ROUND
            if not may_truncate or room < 1:
                msg = (
                    f"the context has {n_tokens} tokens, and question, template and "
                    f"max_tokens take {n_other}, but n_ctx={n_ctx}; raise n_ctx, "
                    "shorten the context, or let truncation='end' drop its end"
                )
                raise ContextOverflowError(msg)
            tokens = [*whole_characters(model.weights, tokens[:room])]
            warnings.warn(
                f"the last {n_tokens - len(tokens)} of the context's {n_tokens} tokens "
                f"were dropped: n_ctx={n_ctx} has room for {room}",
                RuntimeWarning,
                stacklevel=2,
            )

        def indexed() -> LongContext:
            index = None
            if embeddings is not None:
                chunks = chunk(tokens, model.weights.piece, chunk_tokens)
                index = ContextIndex(chunks, embeddings)
            places = places_of(map(model.weights.piece, tokens), text)
            n_dropped = n_tokens - len(tokens)
            return LongContext(tuple(tokens), places, n_dropped, index)

        key = (namespace, sha256, len(tokens), chunk_tokens, id(embeddings))
        return self._contexts.get(key, indexed)
