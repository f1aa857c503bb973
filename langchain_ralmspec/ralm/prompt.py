"""The prompt as the loop sees it: documents first, so that their KV is a prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.errors import ContextOverflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.documents import Document

    from langchain_ralmspec.engine.weights import Weights
    from langchain_ralmspec.stores.base import Hit


@dataclass(frozen=True, slots=True)
class Prompt:
    """``head`` + documents + ``tail`` + the answer so far.

    Attributes:
        head: tokens before the documents.
        tail: tokens between the documents and the answer.
        question: the question's own tokens; queries are cut from these and the
            answer, never from documents.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    question: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """How documents become tokens.

    Attributes:
        render: a document's text as the model should read it.
        max_tokens: a longer document is cut to this many tokens.
        separator: text after every document.
    """

    render: Callable[[Document], str]
    max_tokens: int
    separator: str = "\n\n"

    def tokens(self, weights: Weights, hits: Sequence[Hit]) -> tuple[int, ...]:
        """Tokens of the documents in order, control tokens read as plain text."""
        tokens: list[int] = []
        separator = weights.tokenize(self.separator)
        for hit in hits:
            document = weights.tokenize(self.render(hit.document))
            tokens += document[: self.max_tokens]
            tokens += separator
        return tuple(tokens)


def require_room(
    prompt: Prompt,
    layout: DocumentLayout,
    weights: Weights,
    *,
    n_documents: int,
    max_tokens: int,
    n_ctx: int,
) -> None:
    """Check, before any work, that the longest possible run fits the context.

    Raises:
        ContextOverflowError: it does not; quotes the parts and what to lower.
    """
    n_prompt = len(prompt.head) + len(prompt.tail)
    per_document = layout.max_tokens + len(weights.tokenize(layout.separator))
    needed = n_prompt + n_documents * per_document + max_tokens
    if needed > n_ctx:
        msg = (
            f"the request may need {needed} tokens: {n_prompt} of prompt, "
            f"{n_documents} × {per_document} of documents and max_tokens={max_tokens} "
            f"of answer, but n_ctx={n_ctx}; shorten the prompt, lower max_tokens or "
            "max_document_tokens, or raise n_ctx"
        )
        raise ContextOverflowError(msg)
