"""Pieces of a text to be continued."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_ralmspec.engine.weights import Weights
from langchain_ralmspec.errors import InvalidValueError


def text_of(tokens: Sequence[int], weights: Weights) -> str:
    """The text of some tokens, without a character that they only begin."""
    return b"".join(map(weights.piece, tokens)).decode("utf-8", "ignore")


def prompts(text: str, weights: Weights, *, limit: int, n_tokens: int) -> list[str]:
    """Take ``limit`` pieces of ``n_tokens`` from a text, evenly over all of it.

    They are beginnings of paragraphs (lines) where there are enough that are long
    enough, else they begin anywhere. A text that is too short is an
    ``InvalidValueError``.
    """
    lines = [weights.tokenize(line) for line in text.splitlines()]
    pieces = [line[:n_tokens] for line in lines if len(line) >= n_tokens]
    if len(pieces) < limit:
        tokens = weights.tokenize(text)
        starts = range(0, len(tokens) - n_tokens + 1, n_tokens)
        pieces = [tokens[start : start + n_tokens] for start in starts]
    if len(pieces) < limit:
        raise InvalidValueError(
            f"the text has {len(tokens)} tokens, too few for {limit} prompts of "
            f"{n_tokens}, of which one warms up; ask for fewer or shorter ones"
        )
    middles = ((2 * number + 1) * len(pieces) // (2 * limit) for number in range(limit))
    return [text_of(pieces[middle], weights) for middle in middles]
