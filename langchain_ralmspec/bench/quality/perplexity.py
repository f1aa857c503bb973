"""How well a model predicts a text with documents in front, by how often they change.

The loop is that of every answer; only what it writes is not drawn, but told: the next
token of the text. So it looks up with what stands there, and the probability that the
model gave each token tells how much the documents helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_ralmspec.assets.corpus import MIN_WORDS, Passage, stdlib_passages
from langchain_ralmspec.assets.progress import bar
from langchain_ralmspec.bench.figures import kept_if_interrupted
from langchain_ralmspec.bench.knnlm.text import text_of
from langchain_ralmspec.bench.quality.policies import NONE, SHARED, retriever_of
from langchain_ralmspec.bench.quality.scores import difference, interval
from langchain_ralmspec.engine.weights import Weights
from langchain_ralmspec.errors import InvalidValueError
from langchain_ralmspec.files import read_text
from langchain_ralmspec.llms import RaLMSpecLLM

N_GIVEN = 32
"""Tokens of a paragraph that the model is given: those of the first query."""

N_SCORED = 128
"""Tokens behind these that are scored."""

ROWS: dict[str, dict[str, Any]] = {
    NONE: {"retrieval_policy": "once"},
    "once": {"retrieval_policy": "once"},
    "every 64": {"retrieval_stride": 64},
    "every 16": {"retrieval_stride": 16},
    "every 4": {"retrieval_stride": 4},
}
"""Tokens between two look-ups."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The beginning of a paragraph, and the tokens that are scored behind it."""

    given: str
    scored: tuple[int, ...]


@dataclass(slots=True)
class _Told:
    """In the place of a sampler: gives the text's tokens, and notes their surprisal."""

    tokens: tuple[int, ...]
    surprisal: list[float] = field(default_factory=list)

    def sample(self, logits: NDArray[np.float32], generated: Sequence[int]) -> int:
        token, exact = self.tokens[len(generated)], logits.astype(np.float64)
        self.surprisal.append(float(np.logaddexp.reduce(exact) - exact[token]))
        return token


def load_paragraphs(path: Path | None) -> list[str]:
    """Read the different lines of a text that have some words; docstrings without one.

    Raises:
        InvalidValueError: the file cannot be read.
    """
    if path is None:
        return [" ".join(each.text.split()) for each in stdlib_passages()]
    lines = (line.strip() for line in read_text(path).splitlines())
    return list(dict.fromkeys(line for line in lines if len(line.split()) >= MIN_WORDS))


def parted(
    paragraphs: Sequence[str], weights: Weights, n_tokens: int
) -> tuple[list[Piece], list[Passage]]:
    """Hold some paragraphs out, evenly over the text; the others are retrieved from.

    Raises:
        InvalidValueError: too few paragraphs are long enough for so many tokens.
    """
    wanted, length = -(-n_tokens // N_SCORED), N_GIVEN + N_SCORED
    tokens = {text: weights.tokenize(text) for text in paragraphs}
    long = [text for text in tokens if len(tokens[text]) >= length]
    # At least half of them stay, or there is little to be found.
    if len(long) < 2 * wanted:
        raise InvalidValueError(
            f"{len(long)} paragraphs of the text have at least {length} tokens, and "
            f"{2 * wanted} are needed to score {n_tokens} tokens; give fewer "
            "--perplexity-tokens, or a text with longer lines"
        )
    places = ((2 * n + 1) * len(long) // (2 * wanted) for n in range(wanted))
    held_out = [long[place] for place in places]
    pieces = [
        Piece(
            text_of(tokens[text][:N_GIVEN], weights),
            tuple(tokens[text][N_GIVEN:length]),
        )
        for text in held_out
    ]
    others = (text for text in tokens if text not in set(held_out))
    return pieces, [Passage(str(n), "", text) for n, text in enumerate(others)]


def perplexities(
    gguf: str, store: Any, pieces: Sequence[Piece]
) -> dict[str, Any] | None:
    """The perplexity of the pieces, row by row, and its ratio to that of no documents.

    Both with their intervals, of which a piece is the unit. Where it is interrupted,
    of the pieces that were scored by then; None where that are none.
    """
    llms = {
        row: RaLMSpecLLM(
            model_path=gguf,
            retriever=retriever_of(row, store),
            max_tokens=N_SCORED,
            speculation=False,
            **SHARED | settings,
        )
        for row, settings in ROWS.items()
    }
    scored: list[dict[str, float]] = []
    with kept_if_interrupted(lambda: True), bar("scoring paragraphs") as advance:
        for piece in pieces:
            scored.append({row: _surprisal(llm, piece) for row, llm in llms.items()})
            advance(len(scored), len(pieces))
    if not scored:
        return None
    none = [of_piece[NONE] for of_piece in scored]
    rows = {row: [of_piece[row] for of_piece in scored] for row in llms}
    return {
        "tokens": len(scored) * N_SCORED,
        "pieces": len(scored),
        "rows": {
            row: {
                "perplexity": _exp(interval(values)),
                "to_none": _exp(difference(values, none)),
                "surprisal_by_piece": values,
            }
            for row, values in rows.items()
        },
    }


def _surprisal(llm: RaLMSpecLLM, piece: Piece) -> float:
    """The mean of -ln p over the scored tokens."""
    run, told = llm.start(piece.given), _Told(piece.scored)
    run.request.writer.sampler = told
    for _ in run:
        pass
    assert len(told.surprisal) == len(piece.scored)  # noqa: S101  no token was an end
    return float(np.mean(told.surprisal))


def _exp(mean: dict[str, Any] | None) -> dict[str, Any]:
    assert mean is not None  # noqa: S101  there are pieces
    return {name: float(np.exp(value)) for name, value in mean.items()}
