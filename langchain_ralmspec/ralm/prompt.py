"""The prompt of a request: documents first, so that their KV is a prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_ralmspec.answer.vocabulary import first_tokens
from langchain_ralmspec.errors import ContextOverflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.documents import Document

    from langchain_ralmspec.answer.transcript import Transcript
    from langchain_ralmspec.answer.vocabulary import Vocabulary
    from langchain_ralmspec.stores.base import Hit


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens around the documents: head + documents + tail + answer so far."""

    head: tuple[int, ...]
    tail: tuple[int, ...]
    question: tuple[int, ...]  # queries are cut from these and the answer


@dataclass(frozen=True, slots=True)
class QueryText:
    """Makes the text of the next query: the end of question + answer so far."""

    question: tuple[int, ...]
    transcript: Transcript
    vocabulary: Vocabulary
    window: int  # length of the query, in tokens; 0 takes all

    def __call__(self) -> str:
        """Text of the query."""
        tokens = (*self.question, *self.transcript.tokens)[-self.window :]
        text = b"".join(map(self.vocabulary.piece, tokens))
        return text.decode("utf-8", "ignore").strip()


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """The rule by which documents become tokens."""

    render: Callable[[Document], str]  # gives the text as the model should read it
    max_tokens: int  # a longer document is cut
    separator: str = "\n\n"  # text after every document

    def tokens(self, vocabulary: Vocabulary, hits: Sequence[Hit]) -> tuple[int, ...]:
        """Tokens of the documents in order, control tokens read as plain text."""
        tokens: list[int] = []
        separator = vocabulary.tokenize(self.separator)
        for hit in hits:
            # As it was judged: rendering again may give another text, of a clock say.
            text = self.render(hit.document) if hit.text is None else hit.text
            tokens += first_tokens(vocabulary, text, self.max_tokens)
            tokens += separator
        return tuple(tokens)


def require_room(
    prompt: Prompt,
    layout: DocumentLayout,
    vocabulary: Vocabulary,
    *,
    n_documents: int,
    max_tokens: int,
    n_ctx: int,
) -> None:
    """Check, before any work, that the longest possible run fits the context.

    Raises:
        ContextOverflowError: it does not fit; quotes the parts and what to lower.
    """
    n_prompt = len(prompt.head) + len(prompt.tail)
    per_document = layout.max_tokens + len(vocabulary.tokenize(layout.separator))
    needed = n_prompt + n_documents * per_document + max_tokens
    if needed > n_ctx:
        msg = (
            f"the request may need {needed} tokens: {n_prompt} of prompt, "
            f"{n_documents} × {per_document} of documents and max_tokens={max_tokens} "
            f"of answer, but n_ctx={n_ctx}; shorten the prompt, lower max_tokens or "
            "max_document_tokens, or raise n_ctx"
        )
        raise ContextOverflowError(msg)
