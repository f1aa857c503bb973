"""Where a sentence ends, in any script and however its characters are cut."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_ralmspec.ralm.writer import _ends_sentence


class Answer(list[bytes]):
    """Tokens by their bytes."""

    def text_bytes(self, start: int, end: int) -> bytes:
        return b"".join(self[start:end])


def ended(pieces: list[bytes], begun: int = 0) -> bool:
    answer: Any = Answer(pieces)
    return _ends_sentence(answer, begun)


@pytest.mark.parametrize("text", ["Yes.", "Yes?", "はい。", "क्या।", "هل؟", "是！"])
def test_a_sentence_ends_in_every_script(text: str) -> None:
    assert ended([text.encode()])
    assert ended([text.encode(), b" "])
    assert ended([bytes([byte]) for byte in text.encode()]), "a byte a token"
    assert not ended([text[:-1].encode()])
    assert not ended([bytes([byte]) for byte in text.encode()[:-1]])


def test_a_semicolon_ends_none() -> None:
    assert not any(ended([text.encode()]) for text in ("so;", "لذا؛", "所以；"))


def test_the_sentence_before_does_not_count() -> None:
    assert not ended([b"Yes.", b" "], begun=1)
    assert not ended([b"Yes.", b" ", b"But"], begun=1)
    assert ended([b"Yes.", b"\n"], begun=1)
    assert not ended([b"Yes.\n", b"But"], begun=1)
