"""What tokens mean, as far as loops need to know it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Vocabulary(Protocol):
    """Turns text into tokens and tokens into bytes; a model's weights do."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; control tokens in it are text unless ``special``."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer; such a token is never part of its text."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A vocabulary some control tokens of which count as text: their names."""

    vocabulary: Vocabulary
    names: Mapping[int, bytes]

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text, as the vocabulary has them."""
        return self.vocabulary.tokenize(text, special=special)

    def piece(self, token: int) -> bytes:
        """The bytes of a token, or its name."""
        return self.names.get(token) or self.vocabulary.piece(token)

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return self.vocabulary.is_end(token)


_LETTERS_PER_TOKEN = 8  # more than most texts have: the first try is enough
_MARGIN = 64  # tokens, in which surely a word ends


def first_tokens(vocabulary: Vocabulary, text: str, n: int) -> list[int]:
    """The first ``n`` tokens of a text, of which no more is read than they need.

    Where a text is cut, its last word is another one. That word is not among the
    tokens that are kept.
    """
    size = _LETTERS_PER_TOKEN * (n + _MARGIN)
    while True:
        tokens = vocabulary.tokenize(text[:size])
        if size >= len(text) or len(tokens) >= n + _MARGIN:
            return tokens[:n]
        size *= 2


def whole_characters(vocabulary: Vocabulary, tokens: Sequence[int]) -> Sequence[int]:
    """The tokens without the last ones that begin a character and do not end it."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    n_whole = 0
    for n, token in enumerate(tokens, start=1):
        decoder.decode(vocabulary.piece(token))
        if not decoder.getstate()[0]:  # nothing that waits for more bytes
            n_whole = n
    return tokens[:n_whole]
