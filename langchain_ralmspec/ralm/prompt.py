"""The prompt of a request: documents first, so that their KV is a prefix."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from langchain_ralmspec.answer.vocabulary import first_tokens, whole_characters
from langchain_ralmspec.errors import ContextOverflowError
from langchain_ralmspec.text import is_blank, well_formed

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
    text: str = ""  # the question, the whole query where nothing is cut
    # Text beside the documents that is tokenised with them; None where none is.
    beside: tuple[str, str] | None = None
    begun: str | None = None  # what the answer says already, which is to go on


@dataclass(frozen=True, slots=True)
class QueryText:
    """Makes the text of the next query: the end of question + answer so far."""

    question: tuple[int, ...]
    transcript: Transcript
    vocabulary: Vocabulary
    window: int  # length of the query, in tokens; 0 takes all

    def __call__(self) -> str:
        """Text of the query; of a blank end it is what stands before that."""
        tokens = (*self.question, *self.transcript.tokens)
        text = self._read(tokens[-self.window :])
        if is_blank(text):
            while tokens and is_blank(self._read(tokens[-1:])):
                tokens = tokens[:-1]
            text = self._read(tokens[-self.window :])
        return text

    def _read(self, tokens: Sequence[int]) -> str:
        text = b"".join(map(self.vocabulary.piece, tokens))
        return text.decode("utf-8", "ignore").strip()


class Laid(NamedTuple):
    """Documents as a model reads them.

    Attributes:
        tokens: of all of them, and of what is tokenised with them.
        ends: where among the tokens what stands before them ends, and each of them.
    """

    tokens: list[int]
    ends: list[int]


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """The rule by which documents become tokens."""

    render: Callable[[Document], str]  # gives the text as the model should read it
    max_tokens: int  # a longer document is cut
    separator: str = "\n\n"  # text behind every document

    def text_of(self, hit: Hit) -> str:
        """What the model reads of a document."""
        # As it was judged: rendering again may give another text, of a clock say.
        return well_formed(self.render(hit.document) if hit.text is None else hit.text)

    def laid_out(self, vocabulary: Vocabulary, hits: Sequence[Hit]) -> Laid:
        """Tokens of the documents in order, control tokens read as plain text."""
        tokens, ends = list[int](), [0]
        separator = vocabulary.tokenize(self.separator)
        for hit in hits:
            read = first_tokens(vocabulary, self.text_of(hit), self.max_tokens)
            tokens += whole_characters(vocabulary, read)
            tokens += separator
            ends.append(len(tokens))
        return Laid(tokens, ends)

    def most_tokens(self, vocabulary: Vocabulary, n_documents: int) -> int:
        """Tokens that so many documents may take."""
        separator = vocabulary.tokenize(self.separator)
        return n_documents * (self.max_tokens + len(separator))


@dataclass(frozen=True, slots=True)
class InlineLayout(DocumentLayout):
    """Documents inside a text of somebody else's, tokenised together with it."""

    lead: str = ""  # what stands right before them
    trail: str = ""  # what stands right behind them

    def laid_out(self, vocabulary: Vocabulary, hits: Sequence[Hit]) -> Laid:
        """Tokens of the documents in order and of the text beside them, as one text.

        A token may be of two texts that stand side by side: both end before it.
        """
        texts = [self._cut(vocabulary, self.text_of(hit)) for hit in hits]
        text = self.lead + self.separator.join(texts) + self.trail
        pieces = [*map(vocabulary.piece, tokens := vocabulary.tokenize(text))]
        is_indented = b"".join(pieces[:1]).startswith(b" ")
        end = int(is_indented and not text.startswith(" ")) + _size(self.lead)
        ends = [end]
        for number, each in enumerate(texts):
            end += _size(self.separator) * (number > 0) + _size(each)
            ends.append(end)
        read = [*accumulate(map(len, pieces))]
        return Laid(tokens, [bisect_right(read, end) for end in ends])

    def most_tokens(self, vocabulary: Vocabulary, n_documents: int) -> int:
        """Tokens that so many documents may take, and the text beside them."""
        around = len(vocabulary.tokenize(self.lead + self.trail))
        # `super()` knows nothing of a class that slots have made anew.
        return around + DocumentLayout.most_tokens(self, vocabulary, n_documents)

    def _cut(self, vocabulary: Vocabulary, text: str) -> str:
        tokens = first_tokens(vocabulary, text, self.max_tokens + 1)
        if len(tokens) <= self.max_tokens:
            return text
        pieces = map(vocabulary.piece, tokens[: self.max_tokens])
        cut = b"".join(pieces).decode("utf-8", "ignore")
        # Some vocabularies begin a text with a space of their own.
        return cut if well_formed(text).startswith(cut) else cut.removeprefix(" ")


def _size(text: str) -> int:
    return len(well_formed(text).encode())


def require_room(
    prompt: Prompt, *, n_documents: int, max_tokens: int, n_ctx: int
) -> None:
    """Check, before the model reads anything, that the longest possible run fits.

    Args:
        prompt: what stands around the documents.
        n_documents: tokens of the documents at most.
        max_tokens: tokens of the answer at most.
        n_ctx: tokens that fit.

    Raises:
        ContextOverflowError: it does not fit; quotes the parts and what to lower.
    """
    n_prompt = len(prompt.head) + len(prompt.tail)
    needed = n_prompt + n_documents + max_tokens
    if needed > n_ctx:
        msg = (
            f"the request may need {needed} tokens: {n_prompt} of prompt and history, "
            f"{n_documents} of documents and max_tokens={max_tokens} of answer, but "
            f"n_ctx={n_ctx}; shorten the prompt or its history "
            "(langchain_core.messages.trim_messages), lower max_tokens, "
            "max_document_tokens or documents_per_step, or raise n_ctx"
        )
        raise ContextOverflowError(msg)


BLOCK = 256
"""Tokens of a part of a long document; the last part takes what is too little for one.
SmolLM2 reads 640 tokens in calls of so many 1.5 % slower than in calls of 512, in calls
of 128 3 % slower, of 64 10 % (two cores)."""
