import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from langchain_ralmspec.bench.quality import perplexity
from langchain_ralmspec.bench.quality.perplexity import (
    N_GIVEN,
    N_SCORED,
    ROWS,
    Piece,
    load_paragraphs,
    parted,
    perplexities,
)
from langchain_ralmspec.errors import InvalidValueError

LENGTH = N_GIVEN + N_SCORED


class Letters:
    """A vocabulary whose tokens are letters."""

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return bytes([token])


def test_held_out_paragraphs_are_spread_and_not_to_be_found() -> None:
    texts = [f"{n:03}" + "x" * LENGTH for n in range(12)] + ["too short"]
    pieces, passages = parted(texts, Letters(), 2 * N_SCORED)  # type: ignore[arg-type]
    assert [piece.given[:3] for piece in pieces] == ["003", "009"]
    for piece in pieces:
        assert len(piece.given) == N_GIVEN
        assert piece.scored == (ord("x"),) * N_SCORED
    left = [text for n, text in enumerate(texts) if n not in (3, 9)]
    assert [passage.text for passage in passages] == left
    assert len({passage.id for passage in passages}) == len(left)


def test_a_text_with_too_few_long_paragraphs_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"1 paragraphs .* 2 are needed"):
        parted(["x" * LENGTH, "short"], Letters(), 1)  # type: ignore[arg-type]


def test_paragraphs_are_different_lines_of_some_words(tmp_path: Path) -> None:
    file, line = tmp_path / "text.txt", " ".join(["word"] * 30)
    file.write_text(f" = Heading = \n {line} \n\n{line}\n{line} more\n", "utf-8")
    assert load_paragraphs(file) == [line, f"{line} more"]


class FakeLLM:
    """Gives the next letter of the alphabet a probability that grows with look-ups."""

    def __init__(self, **settings: Any) -> None:
        self.likely = {
            "once": 0.5 if "found" in settings["retriever"] else 0.25,
            "stride": 0.75,
        }[settings.get("retrieval_policy", "stride")]
        assert settings["speculation"] is False

    def start(self, given: str) -> Any:
        writer = SimpleNamespace(sampler=None)

        def events() -> Any:
            written: list[int] = []
            for _ in range(N_SCORED):
                right = (ord(given[-1]) + 1 + len(written)) % 256
                others = (1 - self.likely) / 255
                p = np.full(256, others, np.float32)
                p[right] = self.likely
                # Logits are logarithms, and anything may be added to all of them.
                token = writer.sampler.sample(np.log(p) + 7, written)
                assert token == right
                written.append(token)
                yield ""

        run = events()
        return _Run(run, SimpleNamespace(writer=writer))


class _Run:
    def __init__(self, events: Any, request: Any) -> None:
        self.request, self._events = request, events

    def __iter__(self) -> Any:
        return self._events


@pytest.fixture
def fake_llms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "RaLMSpecLLM", FakeLLM)
    monkeypatch.setattr(
        perplexity, "retriever_of", lambda row, _: "" if row == "none" else "found"
    )


def piece(start: int) -> Piece:
    scored: Sequence[int] = range(start + 1, start + 1 + N_SCORED)
    return Piece(chr(start), tuple(scored))


@pytest.mark.usefixtures("fake_llms")
def test_the_text_is_told_token_by_token_and_its_probability_noted() -> None:
    figures = perplexities("m.gguf", None, [piece(10), piece(20)])
    assert figures is not None
    assert (figures["tokens"], figures["pieces"]) == (2 * N_SCORED, 2)
    assert list(figures["rows"]) == list(ROWS)
    expected = {"none": 4, "once": 2, "every 4": 4 / 3}
    for row, value in expected.items():
        measured = figures["rows"][row]
        assert measured["perplexity"] == pytest.approx(
            dict.fromkeys(("mean", "low", "high"), value), rel=1e-5
        )
        assert measured["to_none"]["mean"] == pytest.approx(value / 4, rel=1e-5)


@pytest.mark.usefixtures("fake_llms")
@pytest.mark.parametrize("n_done", [0, 1])
def test_pieces_that_every_row_has_scored_are_kept_when_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, n_done: int
) -> None:
    start, n_started = FakeLLM.start, 0

    def interrupted(self: FakeLLM, given: str) -> Any:
        nonlocal n_started
        n_started += 1
        if n_started == len(ROWS) * n_done + 2:
            signal.raise_signal(signal.SIGTERM)
        return start(self, given)

    monkeypatch.setattr(FakeLLM, "start", interrupted)
    figures = perplexities("m.gguf", None, [piece(10), piece(20)])
    assert (figures["pieces"] if figures else 0) == n_done
