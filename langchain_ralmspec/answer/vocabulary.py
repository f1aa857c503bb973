"""What tokens mean, as far as loops need to know it."""

from __future__ import annotations

from typing import Protocol


class Vocabulary(Protocol):
    """Turns text into tokens and tokens into bytes; a model's weights do."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; control tokens in it are text unless ``special``."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer; such a token is never part of its text."""
